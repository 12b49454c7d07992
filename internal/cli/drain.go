package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/client"
)

func (a *app) machineCordon() *cobra.Command {
	return a.cordon("cordon MACHINE...", "Keep new work and new sessions off machines", "What is there stays and goes on.", "dspool machine cordon batch-3",
		"machine %s takes nothing new", (*client.Client).CordonMachine)
}

func (a *app) machineUncordon() *cobra.Command {
	return a.cordon("uncordon MACHINE...", "Let work and sessions on machines again", "It also takes a drain back.", "dspool machine uncordon batch-3",
		"machine %s takes work and sessions again", (*client.Client).UncordonMachine)
}

func (a *app) cordon(use, short, long, example, done string, do func(*client.Client, context.Context, string) (dspool.Machine, error)) *cobra.Command {
	cmd := command(use, short, long, example, positional(1, -1),
		a.with(func(ctx context.Context, c *client.Client, args []string) error {
			var errs []error
			for _, name := range args {
				m, err := do(c, ctx, name)
				if err != nil {
					errs = append(errs, err)
					continue
				}
				a.say(done, clean(m.Name))
			}
			return a.all(errs)
		}))
	cmd.ValidArgsFunction = a.completion(-1, machineNames)
	return cmd
}

func (a *app) machineDrain() *cobra.Command {
	var deadline dspool.Duration
	var noWait bool
	cmd := command("drain MACHINE", "Remove a machine once nothing lives on it, or at a deadline",
		`It takes nothing new, and the people on it are told how long they have; they may put the deadline off
within the pool's policy. What still lives there at the deadline is ended. Without a deadline nothing is.
Ctrl-C only ends the waiting; "dspool machine uncordon" takes the drain back.`,
		"dspool machine drain lab-2 --deadline 4h\ndspool machine drain lab-2 --no-wait", positional(1, 1),
		a.with(func(ctx context.Context, c *client.Client, args []string) error {
			op, err := c.DrainMachine(ctx, args[0], deadline)
			if err != nil {
				return err
			}
			return a.finishOperation(ctx, c, op, noWait, "machine "+clean(args[0])+" is removed")
		}))
	flag(cmd, &deadline, "deadline", "duration", "end what still lives on it after this (default: never)", dspool.ParseDuration)
	cmd.Flags().BoolVar(&noWait, "no-wait", false, "print the operation's id instead of waiting")
	cmd.ValidArgsFunction = a.completion(1, machineNames)
	return cmd
}

func (a *app) door() *cobra.Command {
	return group("door", "Look at the places where people come in", a.doorList())
}

func (a *app) doorList() *cobra.Command {
	var form string
	type door = dspool.Door
	return listOutput(command("list", "List doors", "POOL is where people land who name no other; ssh USER+POOL@HOST does, and USER+POOL+SIZE@HOST also names a size of machine.", "dspool door list", positional(0, 0),
		a.with(func(ctx context.Context, c *client.Client, _ []string) error {
			l, err := c.Doors(ctx)
			if err != nil {
				return err
			}
			return list(a, form, l.Items, "no doors: they stand under doors in the configuration file", []column[door]{
				{name: "LISTEN", text: func(d door) string { return d.Listen }},
				{name: "PROTOCOL", text: func(d door) string { return string(d.Protocol) }},
				{name: "POOL", text: func(d door) string { return d.Pool }},
			}...)
		})), &form)
}
