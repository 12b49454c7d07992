package cli

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/client"
)

func (a *app) user() *cobra.Command {
	return group("user", "Add, show, change and remove people's accounts", a.userAdd(), a.userList(), a.userShow(), a.userSet(), a.userKey(), a.userPassword(), a.userLink(), a.userRemove())
}

func (a *app) userAdd() *cobra.Command {
	var form, pool string
	var admin bool
	var files, groups []string
	cmd := command("add NAME", "Add an account",
		"The user gets a number that is the same on the host, on every machine and on every share, and a home\non the share of homes. A token for the API is made by `dspool token create`, a password by `dspool user password`.",
		"dspool user add ada --key ada.pub --group vision\ndspool user add grace --admin", positional(1, 1),
		a.with(func(ctx context.Context, c *client.Client, args []string) error {
			var keys []string
			for _, f := range files {
				lines, err := a.publicKeys(f)
				if err != nil {
					return err
				}
				keys = append(keys, lines...)
			}
			u, err := c.AddUser(ctx, api.AddUserRequest{Name: args[0], Admin: admin})
			if err != nil {
				return err
			}
			if u, err = a.furnish(ctx, c, u, pool, groups, keys); err != nil {
				return while(err, "user %s is added, but not all of it", u.Name)
			}
			if form == "json" {
				return a.json(u)
			}
			a.say("user %s has id %d", u.Name, u.UID)
			return nil
		}))
	cmd.Flags().BoolVar(&admin, "admin", false, "may do everything, also for others")
	cmd.Flags().StringArrayVar(&files, "key", nil, "public key, `FILE.pub`, - for stdin, or the line itself; may be repeated")
	cmd.Flags().StringArrayVar(&groups, "group", nil, "put the user into `GROUP`, which is made if missing; may be repeated")
	text(cmd, &pool, "pool", "POOL", "where logins land that name no pool")
	_ = cmd.MarkFlagFilename("key", "pub")
	a.completeFlag(cmd, "group", groupNames)
	a.completeFlag(cmd, "pool", poolNames)
	return showOutput(cmd, &form)
}

// furnish gives a new account what it shall have beside its name.
func (a *app) furnish(ctx context.Context, c *client.Client, u dspool.User, pool string, groups, keys []string) (dspool.User, error) {
	var req api.ChangeUserRequest
	if pool != "" {
		req.DefaultPool = &pool
	}
	if len(groups) > 0 {
		req.Groups = &groups
	}
	if pool != "" || len(groups) > 0 {
		changed, err := c.ChangeUser(ctx, u.Name, req)
		if err != nil {
			return u, err
		}
		u = changed.User
	}
	for _, k := range keys {
		if _, err := c.AddUserKey(ctx, u.Name, k); err != nil {
			return u, err
		}
	}
	return u, nil
}

func (a *app) userList() *cobra.Command {
	var form string
	type user = dspool.User
	return listOutput(command("list", "List accounts", "", "dspool user list", positional(0, 0),
		a.with(func(ctx context.Context, c *client.Client, _ []string) error {
			l, err := c.Users(ctx)
			if err != nil {
				return err
			}
			return list(a, form, l.Items, "no users: `dspool user add NAME` makes one", []column[user]{
				{name: "USER", text: func(u user) string { return u.Name }},
				{name: "ID", text: func(u user) string { return strconv.Itoa(u.UID) }, right: true},
				{name: "ADMIN", text: func(u user) string { return yes(u.Admin) }, raw: func(u user) string { return strconv.FormatBool(u.Admin) }},
				{name: "GROUPS", text: func(u user) string { return strings.Join(u.Groups, " ") }},
				{name: "POOL", text: func(u user) string { return u.DefaultPool }},
				{name: "CREATED", text: func(u user) string { return a.ago(u.Created) }, raw: func(u user) string { return rawTime(&u.Created) }},
			}...)
		})), &form)
}

func (a *app) userShow() *cobra.Command {
	var form string
	cmd := command("show [NAME]", "Show one account: groups, keys, open sessions", "Without NAME it is your own.", "dspool user show\ndspool user show ada -o json", positional(0, 1),
		a.with(func(ctx context.Context, c *client.Client, args []string) error {
			name, err := a.nameOrOwn(ctx, c, args)
			if err != nil {
				return err
			}
			u, err := c.User(ctx, name)
			if err != nil {
				return err
			}
			if form == "json" {
				return a.json(u)
			}
			a.showUser(u.User)
			if len(u.Keys) > 0 {
				a.printf("\n")
				table(a, "  ", u.Keys, a.keyColumns()...)
			}
			if len(u.Sessions) > 0 {
				a.printf("\n")
				table(a, "  ", u.Sessions, a.sessionColumns()...)
			}
			return nil
		}))
	cmd.ValidArgsFunction = a.completion(1, userNames)
	return showOutput(cmd, &form)
}

func (a *app) showUser(u dspool.User) {
	a.printf("user %s\n", u.Name)
	a.facts(fact{"id", strconv.Itoa(u.UID)}, fact{"admin", yes(u.Admin)}, fact{"groups", clean(strings.Join(u.Groups, ", "))}, fact{"default pool", clean(u.DefaultPool)},
		fact{"password", map[bool]string{true: "set", false: "none"}[u.HasPassword]}, fact{"created", a.fullTime(&u.Created)})
}

// nameOrOwn is the user that an argument names, or the caller.
func (a *app) nameOrOwn(ctx context.Context, c *client.Client, args []string) (string, error) {
	if len(args) > 0 {
		return args[0], nil
	}
	who, err := c.Whoami(ctx)
	if err != nil {
		return "", err
	}
	if who.User == "" {
		return "", dspool.Errorf(dspool.Invalid, "the host's root is no user of the pool").WithHint("say which user")
	}
	return who.User, nil
}

func (a *app) userSet() *cobra.Command {
	var form, pool string
	var admin, now bool
	var groups []string
	cmd := command("set NAME", "Change an account",
		"What is not given stays. The groups given are all that the user is in from then on; --group \"\" is none.\nThey hold for all that begins afterwards. What runs keeps the old ones, and is told; --now ends it.\nPeople may change their own pool, administrators everything.",
		"dspool user set ada --pool lab\ndspool user set ada --group vision --group nightly\ndspool user set ada --group \"\" --now\ndspool user set grace --admin=false", positional(1, 1), nil)
	cmd.RunE = a.with(func(ctx context.Context, c *client.Client, args []string) error {
		var req api.ChangeUserRequest
		if cmd.Flags().Changed("admin") {
			req.Admin = &admin
		}
		if cmd.Flags().Changed("pool") {
			req.DefaultPool = &pool
		}
		if cmd.Flags().Changed("group") {
			all := slices.DeleteFunc(slices.Clone(groups), func(g string) bool { return g == "" })
			if len(all) > 0 && len(all) < len(groups) {
				return badUsage(cmd, "--group \"\" is no group at all, so it stands alone")
			}
			req.Groups = &all
		}
		req.Now = now
		if req == (api.ChangeUserRequest{}) {
			return badUsage(cmd, "nothing to change: give --admin, --pool or --group")
		}
		u, err := c.ChangeUser(ctx, args[0], req)
		if err != nil {
			return err
		}
		if form == "json" {
			return a.json(u)
		}
		a.showUser(u.User)
		if said := oldRights(u.Old); said != "" && now {
			a.say("ended, because it had the old groups: %s", said)
		} else if said != "" {
			a.say("still with the old groups: %s; `dspool user set %s --now` ends it", said, u.Name)
		}
		return nil
	})
	cmd.Flags().BoolVar(&now, "now", false, "end what runs with groups from before the last change: tasks, and sessions with all in them")
	cmd.Flags().BoolVar(&admin, "admin", false, "may do everything, also for others")
	text(cmd, &pool, "pool", "POOL", "where logins land that name no pool; \"\" is the door's")
	cmd.Flags().StringArrayVar(&groups, "group", nil, "a `GROUP` the user is in; may be repeated")
	a.completeFlag(cmd, "group", groupNames)
	a.completeFlag(cmd, "pool", poolNames)
	cmd.ValidArgsFunction = a.completion(1, userNames)
	return showOutput(cmd, &form)
}

// oldRights says what runs with rights that its user had before.
func oldRights(o api.OldRights) string {
	var parts []string
	for _, p := range []struct {
		n    int
		what string
	}{{o.Tasks, "task"}, {o.Sessions, "session"}, {o.Apps, "app"}, {o.Connections, "connection"}} {
		if p.n > 0 {
			parts = append(parts, plural(int64(p.n), p.what))
		}
	}
	return strings.Join(parts, ", ")
}

func (a *app) userRemove() *cobra.Command {
	cmd := command("remove NAME", "Remove an account", "The user's tokens, keys and sessions end at once. Files stay, and the number is never given to another.",
		"dspool user remove ada", positional(1, 1),
		a.with(func(ctx context.Context, c *client.Client, args []string) error {
			if err := c.RemoveUser(ctx, args[0]); err != nil {
				return err
			}
			a.say("user %s is removed", args[0])
			return nil
		}))
	cmd.ValidArgsFunction = a.completion(1, userNames)
	return cmd
}
