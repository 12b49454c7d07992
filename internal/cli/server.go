package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/client"
)

func (a *app) status() *cobra.Command {
	var form string
	var wait dspool.Duration
	cmd := command("status", "Show the whole in short: pools, machines, queue, problems",
		"With --wait it first waits so long for a server to answer.",
		"dspool status\ndspool status --wait 30s", positional(0, 0),
		a.with(func(ctx context.Context, c *client.Client, _ []string) error {
			st, err := a.waitStatus(ctx, c, time.Duration(wait))
			if err != nil {
				return err
			}
			if form == "json" {
				return a.json(st)
			}
			people, err := a.peopleFacts(ctx, c)
			if err != nil {
				return err
			}
			a.showStatus(st, people)
			return nil
		}))
	flag(cmd, &wait, "wait", "duration", "wait so long for a server to answer", dspool.ParseDuration)
	return showOutput(cmd, &form)
}

// statusEvery is how often a server that does not answer yet is asked again.
const statusEvery = 100 * time.Millisecond

func (a *app) waitStatus(ctx context.Context, c *client.Client, wait time.Duration) (api.Status, error) {
	end := time.Now().Add(wait)
	line := a.progress()
	defer line.Stop()
	line.Set("waiting for a server at " + c.Where())
	for {
		st, err := c.Status(ctx)
		if dspool.ErrorCode(err) != dspool.Unavailable || !time.Now().Add(statusEvery).Before(end) {
			return st, err
		}
		t := time.NewTimer(statusEvery)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return st, context.Cause(ctx)
		}
	}
}

// peopleFacts are the sessions that the caller may see, and the doors; a server without either says nothing.
func (a *app) peopleFacts(ctx context.Context, c *client.Client) ([]fact, error) {
	sessions, err := c.Sessions(ctx, client.SessionFilter{Limit: page})
	if dspool.ErrorCode(err) == dspool.NotFound {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	doors, err := c.Doors(ctx)
	if err != nil {
		return nil, err
	}
	open, active, waiting := 0, 0, 0
	for _, s := range sessions.Items {
		switch s.State {
		case dspool.SessionWaiting, dspool.SessionPlaced:
			waiting++
		case dspool.SessionOpen:
			open++
			if s.Active {
				active++
			}
		}
	}
	var facts []fact
	if len(sessions.Items) > 0 || len(doors.Items) > 0 {
		text := fmt.Sprintf("%d open, %d of them active, %d waiting", open, active, waiting)
		if sessions.More {
			text += fmt.Sprintf(", among the latest %d", page)
		}
		facts = append(facts, fact{"sessions", text})
	}
	var places []string
	for _, d := range doors.Items {
		places = append(places, clean(fmt.Sprintf("%s %s → %s", d.Protocol, d.Listen, d.Pool)))
	}
	return append(facts, fact{"doors", strings.Join(places, ", ")}), nil
}

func (a *app) showStatus(st api.Status, people []fact) {
	a.printf("dspool %s, up for %s, installation %s\n", clean(st.Version), short(a.Now().Sub(st.Started)), clean(st.Installation))
	share := func(used, all float64) string {
		if all <= 0 {
			return ""
		}
		return fmt.Sprintf(" (%.0f %%)", used/all*100)
	}
	u, all := st.Hosts.Used, st.Hosts.Capacity
	facts := []fact{
		{"tasks", fmt.Sprintf("%d running, %d waiting", st.RunningTasks, st.QueuedTasks)},
		{"cpus", fmt.Sprintf("%s of %s taken by machines%s", dspool.FormatCPUs(u.CPUs), dspool.FormatCPUs(all.CPUs), share(u.CPUs, all.CPUs))},
		{"memory", fmt.Sprintf("%s of %s%s", dspool.FormatBytes(u.Memory), dspool.FormatBytes(all.Memory), share(float64(u.Memory), float64(all.Memory)))},
	}
	facts = append(facts, people...)
	for _, i := range st.Images {
		if i.State != dspool.ImageReady {
			facts = append(facts, fact{"image", clean(colon(fmt.Sprintf("%s is %s", i.Name, i.State), i.Reason.Text))})
		}
	}
	a.facts(facts...)
	if len(st.Pools) > 0 {
		a.printf("\n")
		table(a, "", st.Pools, poolColumns()...)
	}
	for i, p := range st.Problems {
		if i == 0 {
			a.printf("\nproblems:\n")
		}
		text := "! " + clean(p.Text)
		if a.colours() {
			text = red + text + reset
		}
		a.printf("  %s\n", text)
	}
}

func (a *app) apply() *cobra.Command {
	var form string
	var dryRun bool
	cmd := command("apply FILE", "Make the server's configuration that of a file",
		`It prints what changes: + is added, ~ is changed, - is removed. All problems of the
file are reported at once, each with its line, and then nothing is changed. Users
that the file does not name stay. FILE - is standard input.`,
		"dspool apply team.yaml --dry-run\ndspool apply team.yaml", positional(1, 1),
		a.with(func(ctx context.Context, c *client.Client, args []string) error {
			req, err := a.readConfig(args[0], c.Host() != "")
			if err != nil {
				return err
			}
			req.DryRun = dryRun
			res, err := c.Apply(ctx, req)
			if err != nil {
				return err
			}
			if form == "json" {
				return a.json(res)
			}
			a.showChanges(res)
			return nil
		}))
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only show what would change")
	cmd.ValidArgsFunction = cobra.FixedCompletions(nil, cobra.ShellCompDirectiveDefault)
	return showOutput(cmd, &form)
}

// maxConfig keeps a wrong file name from reading a disk image.
const maxConfig = 4 << 20

// readConfig reads a configuration for this host's server or one elsewhere.
func (a *app) readConfig(name string, elsewhere bool) (api.ApplyRequest, error) {
	req := api.ApplyRequest{Name: filepath.Base(name)}
	var in io.Reader = a.Stdin
	if name == "-" {
		req.Name = "stdin"
		req.Dir, _ = os.Getwd()
	} else {
		f, err := os.Open(name)
		if err != nil {
			return req, dspool.Errorf(dspool.Invalid, "the configuration cannot be read: %w", err)
		}
		defer f.Close()
		in = f
		if path, err := filepath.Abs(name); err == nil {
			req.Dir = filepath.Dir(path)
		}
	}
	text, err := io.ReadAll(io.LimitReader(in, maxConfig+1))
	if err != nil {
		return req, dspool.Errorf(dspool.Invalid, "the configuration cannot be read: %w", err)
	}
	if len(text) > maxConfig {
		return req, dspool.Errorf(dspool.Invalid, "%s is longer than %s", clean(name), dspool.FormatBytes(maxConfig)).WithHint("is it the right file?")
	}
	req.Text = string(text)
	if elsewhere {
		req.Dir = "" // a directory of this host says nothing to another
	}
	return req, nil
}

func (a *app) showChanges(res api.ApplyResult) {
	signs := map[string][2]string{"add": {"+", green}, "change": {"~", yellow}, "remove": {"-", red}, "skip": {"!", yellow}}
	for _, ch := range res.Changes {
		sign := signs[ch.Action]
		what := ch.Kind + " " + ch.Name
		if ch.Kind == ch.Name {
			what = ch.Kind
		}
		text := clean(sign[0] + " " + what)
		if a.colours() {
			text = sign[1] + text + reset
		}
		if ch.Detail != "" {
			text += "  " + clean(ch.Detail)
		}
		a.printf("%s\n", text)
	}
	switch {
	case len(res.Changes) == 0:
		a.say("nothing to change")
	case !res.Applied:
		a.say("%s; nothing was applied", plural(int64(len(res.Changes)), "change"))
	default:
		a.say("%s applied", plural(int64(len(res.Changes)), "change"))
	}
}

func (a *app) version() *cobra.Command {
	return command("version", "Print this program's version", "", "dspool version", positional(0, 0), func(*cobra.Command, []string) error {
		a.printf("dspool %s\n", a.Version)
		return nil
	})
}
