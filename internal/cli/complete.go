package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/client"
)

type shareStatus = api.ShareStatus

// words makes completion's words from a listing: what each is, then what it is about.
func words[T any](l api.List[T], err error, word func(T) (name, about string)) ([]string, error) {
	var out []string
	for _, t := range l.Items {
		name, about := word(t)
		if about != "" {
			name += "\t" + clean(about)
		}
		out = append(out, name)
	}
	return out, err
}

func poolNames(ctx context.Context, c *client.Client) ([]string, error) {
	l, err := c.Pools(ctx)
	return words(l, err, func(p api.PoolStatus) (string, string) {
		return p.Name, fmt.Sprintf("%s, %d of %d machines", p.Kind, p.Machines, p.Max)
	})
}

func sizeNames(ctx context.Context, c *client.Client) ([]string, error) {
	l, err := c.Sizes(ctx)
	return words(l, err, func(s dspool.Size) (string, string) { return s.Name, s.Resources.String() })
}

func userNames(ctx context.Context, c *client.Client) ([]string, error) {
	l, err := c.Users(ctx)
	return words(l, err, func(u dspool.User) (string, string) { return u.Name, "" })
}

func imageNames(ctx context.Context, c *client.Client) ([]string, error) {
	l, err := c.Images(ctx)
	return words(l, err, func(i dspool.Image) (string, string) { return i.Name, string(i.State) })
}

func machineNames(ctx context.Context, c *client.Client) ([]string, error) {
	l, err := c.Machines(ctx, "", false)
	return words(l, err, func(m dspool.Machine) (string, string) { return m.Name, string(m.State) })
}

func tokenIDs(ctx context.Context, c *client.Client) ([]string, error) {
	l, err := c.Tokens(ctx, "")
	return words(l, err, func(t dspool.Token) (string, string) { return t.ID, t.User + " " + t.Name })
}

func jobIDs(ctx context.Context, c *client.Client) ([]string, error) {
	l, err := c.Jobs(ctx, client.JobFilter{Limit: 50})
	return words(l, err, jobWord)
}

func openJobIDs(ctx context.Context, c *client.Client) ([]string, error) {
	l, err := c.Jobs(ctx, client.JobFilter{Limit: 50})
	open := l
	open.Items = nil
	for _, j := range l.Items {
		if !j.State.Ended() {
			open.Items = append(open.Items, j)
		}
	}
	return words(open, err, jobWord)
}

func jobWord(j dspool.Job) (string, string) {
	return fmt.Sprint(j.ID), fmt.Sprintf("%s, %s", j.Spec.Name, j.State)
}

func groupNames(ctx context.Context, c *client.Client) ([]string, error) {
	l, err := c.Groups(ctx)
	return words(l, err, func(g dspool.Group) (string, string) { return g.Name, strings.Join(g.Members, " ") })
}

func appIDs(ctx context.Context, c *client.Client) ([]string, error) {
	l, err := c.Apps(ctx, client.AppFilter{Limit: 50})
	return words(l, err, func(p dspool.App) (string, string) {
		return fmt.Sprint(p.ID), fmt.Sprintf("%s of %s, %s", p.Name, p.User, p.State)
	})
}

func sessionIDs(ctx context.Context, c *client.Client) ([]string, error) {
	l, err := c.Sessions(ctx, client.SessionFilter{Limit: 50})
	return words(l, err, func(s dspool.Session) (string, string) {
		return fmt.Sprint(s.ID), fmt.Sprintf("%s in %s, %s", s.User, s.Pool, s.State)
	})
}
