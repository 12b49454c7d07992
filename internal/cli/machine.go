package cli

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/client"
)

func (a *app) machine() *cobra.Command {
	return group("machine", "Look at machines, keep work off them and remove them", a.machineList(), a.machineShow(),
		a.machineCordon(), a.machineUncordon(), a.machineDrain(), a.machineRemove())
}

func (a *app) machineColumns() []column[dspool.Machine] {
	type machine = dspool.Machine
	return []column[machine]{
		{name: "MACHINE", text: func(m machine) string { return m.Name }},
		{name: "POOL", text: func(m machine) string { return m.Pool }},
		{name: "SIZE", text: func(m machine) string { return m.Size }},
		{name: "STATE", text: func(m machine) string { return machineState(m) }, raw: func(m machine) string { return string(m.State) }, paint: func(m machine) string {
			if m.Health == dspool.Unhealthy {
				return red
			}
			return paintState(string(m.State))
		}},
		{name: "CLAIMS", text: func(m machine) string { return strconv.Itoa(m.Claims) }, right: true},
		{name: "CPUS", text: func(m machine) string {
			return dspool.FormatCPUs(m.Used.CPUs) + "/" + dspool.FormatCPUs(m.CPUs)
		}, raw: func(m machine) string { return dspool.FormatCPUs(m.CPUs) }, right: true},
		{name: "MEMORY", text: func(m machine) string {
			return fmt.Sprintf("%s/%s", dspool.FormatBytes(m.Used.Memory), dspool.FormatBytes(m.Memory))
		}, raw: func(m machine) string { return strconv.FormatInt(m.Memory, 10) }, right: true},
		{name: "CREATED", text: func(m machine) string { return a.ago(m.Created) }, raw: func(m machine) string { return rawTime(&m.Created) }},
		{name: "REASON", text: func(m machine) string { return cut(whyMachine(m), 80) }, raw: whyMachine},
	}
}

func machineState(m dspool.Machine) string {
	s := string(m.State)
	switch {
	case m.State != dspool.Ready:
	case m.DrainBy != nil:
		s += ", draining"
	case m.Cordoned:
		s += ", cordoned"
	case m.Health == dspool.Unhealthy:
		s += ", unhealthy"
	case m.Claims == 0:
		s += ", idle"
	}
	return s
}

func whyMachine(m dspool.Machine) string {
	return m.Failure.Or(m.HealthReason).Or(m.Reason).Text
}

func (a *app) machineList() *cobra.Command {
	var form, pool string
	var all bool
	cmd := command("list", "List machines with why they exist", "CLAIMS counts tasks and sessions; CPUS and MEMORY are what these hold, of what there is.",
		"dspool machine list\ndspool machine list --pool batch --all", positional(0, 0),
		a.with(func(ctx context.Context, c *client.Client, _ []string) error {
			l, err := c.Machines(ctx, pool, all)
			if err != nil {
				return err
			}
			return list(a, form, l.Items, "no machines: they come when somebody needs them", a.machineColumns()...)
		}))
	text(cmd, &pool, "pool", "POOL", "only of this pool")
	cmd.Flags().BoolVar(&all, "all", false, "also those that are gone")
	a.completeFlag(cmd, "pool", poolNames)
	return listOutput(cmd, &form)
}

func (a *app) machineShow() *cobra.Command {
	var form string
	cmd := command("show MACHINE", "Explain one machine: why it exists, what runs on it, what happened to it", "", "dspool machine show batch-3", positional(1, 1),
		a.with(func(ctx context.Context, c *client.Client, args []string) error {
			m, err := c.Machine(ctx, args[0])
			if err != nil {
				return err
			}
			if form == "json" {
				return a.json(m)
			}
			sessions, err := sessionsOn(ctx, c, m.Machine)
			if err != nil {
				return err
			}
			a.printf("machine %s\n", m.Name)
			a.facts(
				fact{"state", machineState(m.Machine)}, fact{"reason", clean(m.Reason.Text)}, fact{"failure", clean(m.Failure.Text)}, fact{"health", colon(string(m.Health), clean(m.HealthReason.Text))},
				fact{"pool", m.Pool}, fact{"image", m.Image}, fact{"size", fmt.Sprintf("%s: %s, %s an hour", m.Size, m.Resources, money(m.Price))},
				fact{"in use", m.Used.String()}, fact{"address", clean(m.Address)}, fact{"created", a.fullTime(&m.Created)}, fact{"ready", a.fullTime(m.ReadyAt)},
				fact{"idle since", a.fullTime(m.IdleSince)}, fact{"goes by", a.fullTime(m.DrainBy)}, fact{"ended", a.fullTime(m.Ended)},
			)
			if len(m.Tasks) > 0 {
				a.printf("\n")
				job := column[dspool.Task]{name: "JOB", text: func(t dspool.Task) string { return strconv.FormatInt(t.Job, 10) }, right: true}
				table(a, "  ", m.Tasks, append([]column[dspool.Task]{job}, a.taskColumns()...)...)
			}
			if len(sessions) > 0 {
				a.printf("\n")
				table(a, "  ", sessions, a.sessionColumns()...)
			}
			if len(m.Events) > 0 {
				a.printf("\n")
				table(a, "  ", m.Events, a.eventColumns()...)
			}
			return nil
		}))
	cmd.ValidArgsFunction = a.completion(1, machineNames)
	return showOutput(cmd, &form)
}

// sessionsOn are the sessions on a machine that the caller may see.
func sessionsOn(ctx context.Context, c *client.Client, m dspool.Machine) ([]dspool.Session, error) {
	if m.State.Ended() {
		return nil, nil
	}
	l, err := c.Sessions(ctx, client.SessionFilter{Pool: m.Pool, Limit: page})
	if dspool.ErrorCode(err) == dspool.NotFound {
		return nil, nil
	}
	return slices.DeleteFunc(l.Items, func(s dspool.Session) bool { return s.Machine != m.Name }), err
}

func (a *app) machineRemove() *cobra.Command {
	var force, noWait bool
	cmd := command("remove MACHINE", "Remove a machine when nothing lives on it, or at once",
		"Without --force nothing that runs is ended: the machine takes nothing new and goes when it is empty.\nWith --force its tasks end as lost, and its sessions end.",
		"dspool machine remove batch-3\ndspool machine remove batch-3 --force", positional(1, 1),
		a.with(func(ctx context.Context, c *client.Client, args []string) error {
			op, err := c.RemoveMachine(ctx, args[0], force)
			if err != nil {
				return err
			}
			return a.finishOperation(ctx, c, op, noWait, "machine "+args[0]+" is removed")
		}))
	cmd.Flags().BoolVar(&force, "force", false, "do not wait for what runs on it")
	cmd.Flags().BoolVar(&noWait, "no-wait", false, "print the operation's id instead of waiting")
	cmd.ValidArgsFunction = a.completion(1, machineNames)
	return cmd
}

// finishOperation waits for an operation, showing how far it is.
func (a *app) finishOperation(ctx context.Context, c *client.Client, op dspool.Operation, noWait bool, done string) error {
	if noWait {
		a.printf("%s\n", op.ID)
		return nil
	}
	line := a.progress()
	defer line.Stop()
	show := func(o dspool.Operation) {
		text := o.Kind + " " + o.Target
		if o.Progress != "" {
			text = o.Target + ": " + o.Progress
		}
		line.Set(text)
	}
	show(op)
	op, err := c.WaitOperation(ctx, op.ID, 15*time.Second, show)
	line.Stop()
	if err != nil {
		return err
	}
	if op.State == dspool.OperationFailed {
		if op.Error == nil {
			return dspool.Errorf(dspool.Internal, "%s %s failed", op.Kind, op.Target)
		}
		return &exit{code: exitFailed, err: op.Error}
	}
	a.say("%s", done)
	return nil
}
