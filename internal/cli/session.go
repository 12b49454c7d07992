package cli

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/client"
)

func (a *app) session() *cobra.Command {
	return group("session", "Look at sessions, keep and close them", a.sessionList(), a.sessionShow(), a.sessionKeep(), a.sessionClose())
}

func (a *app) sessionColumns() []column[dspool.Session] {
	type session = dspool.Session
	return []column[session]{
		{name: "SESSION", text: func(s session) string { return strconv.FormatInt(s.ID, 10) }, right: true},
		{name: "USER", text: func(s session) string { return s.User }},
		{name: "POOL", text: func(s session) string { return s.Pool }},
		{name: "SIZE", text: func(s session) string { return s.Size }},
		{name: "MACHINE", text: func(s session) string { return s.Machine }},
		{name: "STATE", text: func(s session) string { return string(s.State) }, paint: func(s session) string { return paintState(string(s.State)) }},
		{name: "CONNECTIONS", text: func(s session) string { return strconv.Itoa(s.Connections) }, right: true},
		{name: "ACTIVE", text: func(s session) string { return cut(activity(s), 40) }, raw: func(s session) string { return strconv.FormatBool(s.Active) }},
		{name: "SINCE", text: func(s session) string { return a.ago(s.Created) }, raw: func(s session) string { return rawTime(&s.Created) }},
		{name: "KEEP UNTIL", text: func(s session) string { return a.agoPtr(s.KeepUntil) }, raw: func(s session) string { return rawTime(s.KeepUntil) }},
		{name: "REASON", text: func(s session) string { return cut(whySession(s), 80) }, raw: whySession},
	}
}

// activity says whether anything of a session lives, and by what sign.
func activity(s dspool.Session) string {
	if s.State != dspool.SessionOpen {
		return ""
	}
	return colon(yes(s.Active), s.Activity.Text)
}

func whySession(s dspool.Session) string {
	if s.Position > 0 {
		return colon(fmt.Sprintf("place %d in the queue", s.Position), s.Reason.Text)
	}
	return s.Reason.Text
}

func (a *app) sessionList() *cobra.Command {
	var form string
	var f client.SessionFilter
	cmd := command("list", "List sessions, newest first",
		"SIZE is the size of machine that was asked for. ACTIVE says whether anything of the session lives: then it\nis never ended for being idle.", "dspool session list\ndspool session list --user ada --all", positional(0, 0), nil)
	cmd.RunE = a.with(func(ctx context.Context, c *client.Client, _ []string) error {
		if f.Limit < 1 || f.Limit > page {
			return badUsage(cmd, "--limit %d is not possible: from 1 to %d", f.Limit, page)
		}
		l, err := c.Sessions(ctx, f)
		if err != nil {
			return err
		}
		err = list(a, form, l.Items, "no sessions: `dspool ssh` begins one", a.sessionColumns()...)
		if l.More && form == "table" {
			a.say("there are more: --limit shows up to %d", page)
		}
		return err
	})
	f.Limit = 100
	count(cmd, &f.Limit, "limit", "how many")
	text(cmd, &f.User, "user", "USER", "only of this user")
	text(cmd, &f.Pool, "pool", "POOL", "only of this pool")
	cmd.Flags().BoolVar(&f.All, "all", false, "also those that have closed")
	a.completeFlag(cmd, "user", userNames)
	a.completeFlag(cmd, "pool", poolNames)
	return listOutput(cmd, &form)
}

const ownSession = "SESSION is a number or, for your own session, the name of its pool; without it, it is the one that you have."

// findSession is the session that an argument means.
func (a *app) findSession(ctx context.Context, c *client.Client, args []string) (dspool.Session, error) {
	f := client.SessionFilter{Limit: page}
	if len(args) > 0 {
		id, err := strconv.ParseInt(args[0], 10, 64)
		if err == nil && id > 0 {
			s, err := c.Session(ctx, id)
			return s.Session, err
		}
		if dspool.CheckName("pool", args[0]) != nil {
			return dspool.Session{}, dspool.Errorf(dspool.Invalid, "%s is neither a session's number nor a pool", dspool.Quote(args[0])).WithHint("`dspool session list` shows them")
		}
		f.Pool = args[0]
	}
	who, err := c.Whoami(ctx)
	if err != nil {
		return dspool.Session{}, err
	}
	if who.User == "" {
		return dspool.Session{}, dspool.Errorf(dspool.Invalid, "the host's root has no session of its own").WithHint("name one by its number: `dspool session list` shows them")
	}
	f.User = who.User
	l, err := c.Sessions(ctx, f)
	switch {
	case err != nil:
		return dspool.Session{}, err
	case len(l.Items) == 1:
		return l.Items[0], nil
	case len(l.Items) == 0 && f.Pool != "":
		return dspool.Session{}, dspool.Errorf(dspool.NotFound, "user %s has no session in pool %s", who.User, f.Pool).WithHint("`dspool ssh %s` begins one", f.Pool)
	case len(l.Items) == 0:
		return dspool.Session{}, dspool.Errorf(dspool.NotFound, "user %s has no session", who.User).WithHint("`dspool ssh` begins one")
	}
	var own []string
	for _, s := range l.Items {
		own = append(own, fmt.Sprintf("%d in %s", s.ID, s.Pool))
	}
	return dspool.Session{}, dspool.Errorf(dspool.Invalid, "user %s has %d sessions: %s", who.User, len(own), strings.Join(own, ", ")).WithHint("say which")
}

func (a *app) sessionShow() *cobra.Command {
	var form string
	cmd := command("show [SESSION]", "Explain one session: where it is, what lives in it, who is connected", ownSession, "dspool session show\ndspool session show 12", positional(0, 1),
		a.with(func(ctx context.Context, c *client.Client, args []string) error {
			found, err := a.findSession(ctx, c, args)
			if err != nil {
				return err
			}
			s, err := c.Session(ctx, found.ID)
			if err != nil {
				return err
			}
			if form == "json" {
				return a.json(s)
			}
			a.showSession(s.Session)
			if len(s.Open) > 0 {
				a.printf("\n")
				table(a, "  ", s.Open, a.connectionColumns()...)
			}
			if len(s.Events) > 0 {
				a.printf("\n")
				table(a, "  ", s.Events, a.eventColumns()...)
			}
			return nil
		}))
	cmd.ValidArgsFunction = a.completion(1, sessionIDs)
	return showOutput(cmd, &form)
}

func (a *app) showSession(s dspool.Session) {
	a.printf("session %d\n", s.ID)
	a.facts(
		fact{"state", string(s.State)}, fact{"reason", clean(whySession(s))}, fact{"user", clean(s.User)}, fact{"pool", clean(s.Pool)}, fact{"size", clean(s.Size)}, fact{"machine", clean(s.Machine)},
		fact{"holds", s.Request.String()}, fact{"active", clean(activity(s))}, fact{"last active", a.fullTime(&s.LastActive)}, fact{"kept until", a.fullTime(s.KeepUntil)},
		fact{"connections", strconv.Itoa(s.Connections)}, fact{"began", a.fullTime(&s.Created)}, fact{"placed", a.fullTime(s.Placed)}, fact{"opened", a.fullTime(s.Opened)}, fact{"ended", a.fullTime(s.Ended)},
	)
}

func (a *app) connectionColumns() []column[dspool.Connection] {
	type connection = dspool.Connection
	return []column[connection]{
		{name: "CONNECTION", text: func(c connection) string { return c.ID }},
		{name: "BY", text: func(c connection) string { return string(c.Protocol) }},
		{name: "FROM", text: func(c connection) string { return c.From }},
		{name: "WITH", text: func(c connection) string { return c.Auth }},
		{name: "IN", text: func(c connection) string { return dspool.FormatBytes(c.BytesIn) }, right: true},
		{name: "OUT", text: func(c connection) string { return dspool.FormatBytes(c.BytesOut) }, right: true},
		{name: "SINCE", text: func(c connection) string { return a.ago(c.Started) }},
	}
}

func (a *app) sessionKeep() *cobra.Command {
	var form string
	length := dspool.Duration(2 * time.Hour)
	cmd := command("keep [SESSION]", "Ask not to end a session for a time, also when nothing lives in it",
		ownSession+"\nOn a machine that is about to be removed it puts that off, as far as the pool's policy lets it.",
		"dspool session keep\ndspool session keep lab --for 8h\ndspool session keep 12 --for 0s", positional(0, 1),
		a.with(func(ctx context.Context, c *client.Client, args []string) error {
			s, err := a.findSession(ctx, c, args)
			if err != nil {
				return err
			}
			if s, err = c.KeepSession(ctx, s.ID, length); err != nil {
				return err
			}
			if form == "json" {
				return a.json(s)
			}
			if s.KeepUntil == nil {
				a.say("session %d is no longer kept: it ends when nothing lives in it for the pool's time", s.ID)
				return nil
			}
			a.say("session %d is kept until %s", s.ID, a.fullTime(s.KeepUntil))
			return nil
		}))
	cmd.Flags().Var(&value[dspool.Duration]{into: &length, parse: dspool.ParseDuration, kind: "duration", text: length.String()}, "for", "how long from now; 0s takes a former wish back")
	cmd.ValidArgsFunction = a.completion(1, sessionIDs)
	return showOutput(cmd, &form)
}

func (a *app) sessionClose() *cobra.Command {
	var yes, noWait bool
	cmd := command("close [SESSION]", "End a session and everything of it on its machine",
		ownSession+"\nFiles stay. On a terminal it asks first when something lives in the session or somebody is connected.",
		"dspool session close\ndspool session close 12 --yes", positional(0, 1),
		a.with(func(ctx context.Context, c *client.Client, args []string) error {
			s, err := a.findSession(ctx, c, args)
			if err != nil {
				return err
			}
			if alive := lives(s); alive != "" && a.StdinTTY && !yes {
				ok, err := a.ask(ctx, "session %d of %s on %s: %s. End it?", s.ID, clean(s.User), clean(s.Machine), clean(alive))
				if err != nil {
					return err
				}
				if !ok {
					return &exit{code: exitFailed, err: dspool.Errorf(dspool.Conflict, "session %d stays", s.ID)}
				}
			}
			op, err := c.CloseSession(ctx, s.ID)
			if err != nil {
				return err
			}
			return a.finishOperation(ctx, c, op, noWait, fmt.Sprintf("session %d is closed", s.ID))
		}))
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	cmd.Flags().BoolVar(&noWait, "no-wait", false, "print the operation's id instead of waiting")
	cmd.ValidArgsFunction = a.completion(1, sessionIDs)
	return cmd
}

// lives says what would be lost with a session, or nothing.
func lives(s dspool.Session) string {
	var parts []string
	if s.Active {
		parts = append(parts, colon("something lives in it", s.Activity.Text))
	}
	if s.Connections > 0 {
		parts = append(parts, plural(int64(s.Connections), "connection")+" open")
	}
	return strings.Join(parts, ", ")
}
