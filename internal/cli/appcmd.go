package cli

import (
	"context"
	"fmt"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/client"
)

func (a *app) apps() *cobra.Command {
	return group("app", "Look at the programs with web pages in sessions, and stop them", a.appList(), a.appShow(), a.appStop())
}

func (a *app) appColumns() []column[dspool.App] {
	type program = dspool.App
	return []column[program]{
		{name: "APP", text: func(p program) string { return fmt.Sprint(p.ID) }},
		{name: "NAME", text: func(p program) string { return p.Name }},
		{name: "USER", text: func(p program) string { return p.User }},
		{name: "POOL", text: func(p program) string { return p.Pool }},
		{name: "SESSION", text: func(p program) string { return fmt.Sprint(p.Session) }},
		{name: "MACHINE", text: func(p program) string { return p.Machine }},
		{name: "STATE", text: func(p program) string { return string(p.State) }},
		{name: "SINCE", text: func(p program) string { return a.ago(p.Created) }, raw: func(p program) string { return rawTime(&p.Created) }},
		{name: "REASON", text: func(p program) string { return cut(whyApp(p), 80) }, raw: whyApp},
	}
}

// whyApp says why an app waits or how it ended.
func whyApp(p dspool.App) string {
	if p.ExitCode != nil && !p.Reason.Is(dspool.WhyExitCode) {
		return colon(fmt.Sprintf("exit code %d", *p.ExitCode), p.Reason.Text)
	}
	return p.Reason.Text
}

func (a *app) appList() *cobra.Command {
	var form string
	var f client.AppFilter
	cmd := command("list", "List apps, newest first", "", "dspool app list\ndspool app list --user ada --all", positional(0, 0), nil)
	cmd.RunE = a.with(func(ctx context.Context, c *client.Client, _ []string) error {
		if f.Limit < 1 || f.Limit > page {
			return badUsage(cmd, "--limit %d is not possible: from 1 to %d", f.Limit, page)
		}
		l, err := c.Apps(ctx, f)
		if err != nil {
			return err
		}
		err = list(a, form, l.Items, "no apps: JupyterHub starts one for a notebook server", a.appColumns()...)
		if l.More && form == "table" {
			a.say("there are more: --limit shows up to %d", page)
		}
		return err
	})
	f.Limit = 100
	count(cmd, &f.Limit, "limit", "how many")
	text(cmd, &f.User, "user", "USER", "only of this user")
	cmd.Flags().BoolVar(&f.All, "all", false, "also those that have ended")
	a.completeFlag(cmd, "user", userNames)
	return listOutput(cmd, &form)
}

// appID reads an argument that is an app's number.
func appID(arg string) (int64, error) {
	id, err := strconv.ParseInt(arg, 10, 64)
	if err != nil || id < 1 {
		return 0, dspool.Errorf(dspool.Invalid, "%s is no app's number", dspool.Quote(arg)).WithHint("`dspool app list` shows them")
	}
	return id, nil
}

func (a *app) appShow() *cobra.Command {
	var form string
	cmd := command("show APP", "Explain one app: where it runs, why it waits, how it ended",
		"What a program has said stands in ~/.local/state/dspool/NAME.log of its user.", "dspool app show 12", positional(1, 1),
		a.with(func(ctx context.Context, c *client.Client, args []string) error {
			id, err := appID(args[0])
			if err != nil {
				return err
			}
			p, err := c.App(ctx, id)
			if err != nil {
				return err
			}
			if form == "json" {
				return a.json(p)
			}
			port := ""
			if p.Port != 0 {
				port = strconv.Itoa(p.Port)
			}
			a.printf("app %d\n", p.ID)
			a.facts(
				fact{"name", clean(p.Name)}, fact{"state", string(p.State)}, fact{"reason", clean(whyApp(p))}, fact{"user", clean(p.User)}, fact{"pool", clean(p.Pool)},
				fact{"session", strconv.FormatInt(p.Session, 10)}, fact{"machine", clean(p.Machine)}, fact{"port", port},
				fact{"wanted", a.fullTime(&p.Created)}, fact{"runs since", a.fullTime(p.Started)}, fact{"ended", a.fullTime(p.Ended)},
			)
			return nil
		}))
	cmd.ValidArgsFunction = a.completion(1, appIDs)
	return showOutput(cmd, &form)
}

func (a *app) appStop() *cobra.Command {
	var noWait bool
	cmd := command("stop APP...", "End apps; their sessions stay", "What was not saved in them is lost.", "dspool app stop 12", positional(1, -1),
		a.with(func(ctx context.Context, c *client.Client, args []string) error {
			var errs []error
			for _, arg := range args {
				errs = append(errs, a.stopApp(ctx, c, arg, noWait))
			}
			return a.all(slices.DeleteFunc(errs, func(err error) bool { return err == nil }))
		}))
	cmd.Flags().BoolVar(&noWait, "no-wait", false, "do not wait until they have ended")
	cmd.ValidArgsFunction = a.completion(-1, appIDs)
	return cmd
}

func (a *app) stopApp(ctx context.Context, c *client.Client, arg string, noWait bool) error {
	id, err := appID(arg)
	if err != nil {
		return err
	}
	p, err := c.StopApp(ctx, id)
	if err != nil {
		return err
	}
	if p.State == dspool.AppStopping && noWait {
		a.say("app %d (%s of %s) is being ended", p.ID, clean(p.Name), clean(p.User))
		return nil
	}
	if p.State == dspool.AppStopping {
		for _, err := range c.AppSteps(ctx, id) {
			if err != nil {
				return err
			}
		}
	}
	a.say("app %d (%s of %s) has ended", p.ID, clean(p.Name), clean(p.User))
	return nil
}
