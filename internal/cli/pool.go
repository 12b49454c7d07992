package cli

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/client"
)

func (a *app) pool() *cobra.Command {
	return group("pool", "Look at pools and change their numbers", a.poolList(), a.poolShow(), a.poolResize())
}

func poolColumns() []column[api.PoolStatus] {
	type pool = api.PoolStatus
	n := func(get func(pool) int) func(pool) string {
		return func(p pool) string { return strconv.Itoa(get(p)) }
	}
	return []column[pool]{
		{name: "POOL", text: func(p pool) string { return p.Name }},
		{name: "KIND", text: func(p pool) string { return string(p.Kind) }},
		{name: "SIZES", text: func(p pool) string { return strings.Join(p.Sizes, " ") }},
		{name: "MACHINES", text: n(func(p pool) int { return p.Machines }), right: true},
		{name: "READY", text: n(func(p pool) int { return p.Ready }), right: true},
		{name: "IDLE", text: n(func(p pool) int { return p.Idle }), right: true},
		{name: "MIN", text: n(func(p pool) int { return p.Min }), right: true},
		{name: "MAX", text: n(func(p pool) int { return p.Max }), right: true},
		{name: "SPARE", text: n(func(p pool) int { return p.Spare }), right: true},
		{name: "WAITING", text: func(p pool) string { return strconv.FormatInt(p.Queued, 10) }, right: true},
		{name: "RUNNING", text: func(p pool) string { return strconv.FormatInt(p.Running, 10) }, right: true},
		{name: "NOTE", text: func(p pool) string { return p.Note.Text }, paint: func(pool) string { return yellow }},
	}
}

func (a *app) poolList() *cobra.Command {
	var form string
	return listOutput(command("list", "List pools with what stands in them", "WAITING and RUNNING count tasks.", "dspool pool list\ndspool pool list -o json",
		positional(0, 0), a.with(func(ctx context.Context, c *client.Client, _ []string) error {
			l, err := c.Pools(ctx)
			if err != nil {
				return err
			}
			return list(a, form, l.Items, "no pools: `dspool apply FILE` makes them", poolColumns()...)
		})), &form)
}

func (a *app) poolShow() *cobra.Command {
	var form string
	cmd := command("show POOL", "Explain one pool: its rules, its machines and why it has them", "", "dspool pool show batch", positional(1, 1),
		a.with(func(ctx context.Context, c *client.Client, args []string) error {
			p, err := c.Pool(ctx, args[0])
			if err != nil {
				return err
			}
			if form == "json" {
				return a.json(p)
			}
			machines, err := c.Machines(ctx, p.Name, false)
			if err != nil {
				return err
			}
			a.showPool(p)
			if len(machines.Items) > 0 {
				a.printf("\n")
				table(a, "  ", machines.Items, a.machineColumns()...)
			}
			return nil
		}))
	cmd.ValidArgsFunction = a.completion(1, poolNames)
	return showOutput(cmd, &form)
}

func (a *app) showPool(p api.PoolStatus) {
	a.printf("pool %s\n", p.Name)
	a.facts(
		fact{"machines", fmt.Sprintf("%d: %d ready, %d of them idle", p.Machines, p.Ready, p.Idle)},
		fact{"note", clean(p.Note.Text)},
		fact{"tasks", fmt.Sprintf("%d waiting, %d running", p.Queued, p.Running)},
		fact{"grows", fmt.Sprintf("from %d to %d machines, %d spare", p.Min, p.Max, p.Spare)},
		fact{"shrinks", fmt.Sprintf("when a machine had no work for %s", p.Policy.IdleAfter)},
		fact{"start", fmt.Sprintf("counts as failed after %s", p.Policy.StartTimeout)},
		fact{"kind", string(p.Kind)}, fact{"image", p.Image}, fact{"sizes", strings.Join(p.Sizes, ", ")},
		fact{"shares", strings.Join(p.Shares, ", ")}, fact{"internet", internet(p.Pool)},
		fact{"sessions", sessionPolicy(p.Policy)},
	)
}

func internet(p dspool.Pool) string {
	if p.Internet && p.PublicOnly {
		return "yes, without private networks"
	}
	return yes(p.Internet)
}

// sessionPolicy says a pool's rules for people; servers that know no sessions give none.
func sessionPolicy(p dspool.PoolPolicy) string {
	if p.SessionsPerMachine == 0 {
		return ""
	}
	s := fmt.Sprintf("up to %d on a machine", p.SessionsPerMachine)
	if p.SessionIdle > 0 {
		s += fmt.Sprintf("; one ends %s after the last connection, if nothing lives in it", p.SessionIdle)
	}
	if p.KeepMost > 0 {
		s += fmt.Sprintf("; kept for at most %s", p.KeepMost)
	}
	if p.Sudo {
		s += "; people may become root"
	}
	if p.Record {
		s += "; terminals are recorded"
	}
	return s
}

func (a *app) poolResize() *cobra.Command {
	var low, high, spare int
	cmd := command("resize POOL", "Change how many machines a pool keeps and may have",
		`What is not given stays. Machines beyond the new numbers go when nobody uses them.
The configuration file still holds the old numbers: applying it sets them again.`,
		"dspool pool resize batch --max 8\ndspool pool resize lab --min 1 --spare 1", positional(1, 1), nil)
	cmd.RunE = a.with(func(ctx context.Context, c *client.Client, args []string) error {
		var req api.ResizeRequest
		for name, set := range map[string]func(){"min": func() { req.Min = &low }, "max": func() { req.Max = &high }, "spare": func() { req.Spare = &spare }} {
			if cmd.Flags().Changed(name) {
				set()
			}
		}
		if req == (api.ResizeRequest{}) {
			return badUsage(cmd, "nothing to change: give --min, --max or --spare")
		}
		p, err := c.ResizePool(ctx, args[0], req)
		if err != nil {
			return err
		}
		a.showPool(p)
		return nil
	})
	count(cmd, &low, "min", "machines kept even when nobody needs them")
	count(cmd, &high, "max", "machines never exceeded")
	count(cmd, &spare, "spare", "idle machines kept ready beyond those in use")
	cmd.ValidArgsFunction = a.completion(1, poolNames)
	return cmd
}
