package cli

import (
	"context"
	"encoding/json"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/client"
)

func (a *app) eventColumns() []column[dspool.Event] {
	type event = dspool.Event
	return []column[event]{
		{name: "TIME", text: func(e event) string { return e.Time.Local().Format("01-02 15:04:05") }, raw: func(e event) string { return rawTime(&e.Time) }},
		{name: "ACTOR", text: func(e event) string { return e.Actor }},
		{name: "KIND", text: func(e event) string { return e.Kind }},
		{name: "WHAT AND WHY", text: func(e event) string {
			return colon(e.Message, e.Reason.Text)
		}},
	}
}

// rawEventColumns are for csv, where columns cost nothing.
func (a *app) rawEventColumns() []column[dspool.Event] {
	type event = dspool.Event
	return []column[event]{
		{name: "ID", text: func(e event) string { return strconv.FormatInt(e.ID, 10) }},
		{name: "TIME", text: func(e event) string { return rawTime(&e.Time) }},
		{name: "ACTOR", text: func(e event) string { return e.Actor }},
		{name: "KIND", text: func(e event) string { return e.Kind }},
		{name: "POOL", text: func(e event) string { return e.Pool }},
		{name: "MACHINE", text: func(e event) string { return e.Machine }},
		{name: "JOB", text: func(e event) string {
			if e.Job == 0 {
				return ""
			}
			return strconv.FormatInt(e.Job, 10)
		}},
		{name: "USER", text: func(e event) string { return e.User }},
		{name: "MESSAGE", text: func(e event) string { return e.Message }},
		{name: "REASON", text: func(e event) string { return e.Reason.Text }},
	}
}

func (a *app) events() *cobra.Command {
	var f client.EventFilter
	var form string
	var follow bool
	cmd := command("events", "Show what happened, and why",
		"The newest come last. With -f it goes on as things happen; -o json then prints one object a line.",
		"dspool events\ndspool events -f --pool batch\ndspool events --job 12 -o json", positional(0, 0), nil)
	cmd.RunE = a.with(func(ctx context.Context, c *client.Client, _ []string) error {
		if follow && form == "csv" {
			return badUsage(cmd, "-f prints a table or json, not csv")
		}
		first := f
		first.Latest = true
		if first.Limit < 1 || first.Limit > page {
			return badUsage(cmd, "--limit %d is not possible: from 1 to %d", first.Limit, page)
		}
		l, err := c.Events(ctx, first)
		if err != nil {
			return err
		}
		if !follow {
			columns := a.eventColumns()
			if form == "csv" {
				columns = a.rawEventColumns()
			}
			return list(a, form, l.Items, "no events", columns...)
		}
		for _, e := range l.Items {
			a.event(form, e)
			f.After = e.ID
		}
		f.Limit = 0
		for e, err := range c.StreamEvents(ctx, f) {
			if err != nil {
				return err
			}
			a.event(form, e)
		}
		return nil
	})
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on as things happen")
	f.Limit = 30
	count(cmd, &f.Limit, "limit", "how many to begin with")
	text(cmd, &f.Pool, "pool", "POOL", "only about this pool")
	text(cmd, &f.Machine, "machine", "MACHINE", "only about this machine")
	flag(cmd, &f.Job, "job", "JOB", "only about this job", jobID)
	a.completeFlag(cmd, "pool", poolNames)
	a.completeFlag(cmd, "machine", machineNames)
	a.completeFlag(cmd, "job", jobIDs)
	return listOutput(cmd, &form)
}

// event prints one event of a stream, whose column widths nobody knows yet.
func (a *app) event(form string, e dspool.Event) {
	if form == "json" {
		b, _ := json.Marshal(e)
		a.printf("%s\n", b)
		return
	}
	c := a.eventColumns()
	a.printf("%s  %-12s  %-18s  %s\n", c[0].text(e), clean(cut(e.Actor, 24)), clean(e.Kind), clean(c[3].text(e)))
}
