package config

import (
	"slices"

	"go.yaml.in/yaml/v4"

	"github.com/dspool/dspool"
)

// checkRuns fills and checks a pool that runs an app: one machine, held by that app alone.
func (r *reader) checkRuns(p *dspool.Pool, n *yaml.Node, where string) {
	refuse := func(hint, what string, args ...any) {
		r.problem(n, hint, "%s runs %s, so it "+what, append([]any{where, p.Runs}, args...)...)
	}
	if p.Kind == "" {
		p.Kind = dspool.Service
	}
	if p.Image == "" {
		p.Image = HubImage
	}
	if p.Kind != dspool.Service {
		refuse("say kind: service", "is not of kind %s", p.Kind)
	}
	switch {
	case p.Min >= 0 && p.Min != 1, p.Max != 1:
		refuse("leave min and max out", "has one machine, not %d to %d", max(p.Min, 0), p.Max)
	case p.Spare != 0:
		refuse("leave spare out", "has one machine, and no spare")
	}
	p.Min, p.Max, p.Spare = 1, 1, 0
	if p.Policy.SessionsPerMachine > 1 {
		refuse("leave sessions_per_machine out", "has all of its machine")
	}
	p.Policy.SessionsPerMachine = 1
	if p.Policy.Sudo {
		refuse("leave sudo out", "gives nobody sudo")
		p.Policy.Sudo = false
	}
}

// checkHubs checks that nobody but the app itself comes to where it runs: neither to its pool nor,
// through another pool, to the share of its home, where its database and secrets lie.
func (c *Config) checkHubs(r *reader) {
	earlier := ""
	for _, p := range c.Pools {
		if p.Runs == "" {
			continue
		}
		at := nodeAt(r.lines["pool "+p.Name])
		if earlier != "" {
			r.problem(at, "take runs from one of them", "pools %s and %s both run %s", earlier, p.Name, p.Runs)
		}
		earlier = p.Name
		c.checkHubShare(r, at, p)
		for _, d := range c.Doors {
			if d.Pool == p.Name {
				r.problem(nodeAt(r.lines["door "+d.Listen]), "name the pool where people work", "door %s leads to pool %s, which runs %s and takes nobody", d.Listen, p.Name, p.Runs)
			}
		}
		for _, u := range c.Users {
			if u.DefaultPool == p.Name {
				r.problem(nodeAt(r.lines["user "+u.Name]), "name the pool where people work", "user %s's pool is %s, which runs %s and takes nobody", u.Name, p.Name, p.Runs)
			}
		}
		if line, said := r.lines["default pool"]; said && c.Defaults.Pool == p.Name {
			r.problem(nodeAt(line), "name the pool where jobs run", "the default pool is %s, which runs %s and takes no jobs", p.Name, p.Runs)
		}
	}
}

func (c *Config) checkHubShare(r *reader, at *yaml.Node, hub dspool.Pool) {
	home := slices.IndexFunc(c.Shares, func(s dspool.Share) bool { return s.Mount == dspool.HomeMount && slices.Contains(hub.Shares, s.Name) })
	if home < 0 {
		for _, name := range hub.Shares { // one that does not exist has its own problem
			if !slices.ContainsFunc(c.Shares, func(s dspool.Share) bool { return s.Name == name }) {
				return
			}
		}
		r.problem(at, "make one of its own, for example services: {mount: "+dspool.HomeMount+"}, and name it under its shares",
			"pool %s runs %s but mounts no share at %s, where its database lies", hub.Name, hub.Runs, dspool.HomeMount)
		return
	}
	share := c.Shares[home]
	for _, p := range c.Pools {
		if p.Name != hub.Name && slices.Contains(p.Shares, share.Name) {
			r.problem(at, "give "+hub.Runs+" a share of its own, for example services: {mount: "+dspool.HomeMount+"}",
				"share %s holds the database of %s, but pool %s mounts it too", share.Name, hub.Runs, p.Name)
		}
	}
}
