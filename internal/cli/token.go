package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/client"
)

func (a *app) token() *cobra.Command {
	return group("token", "Make and revoke tokens for the API", a.tokenCreate(), a.tokenList(), a.tokenRevoke())
}

func (a *app) tokenCreate() *cobra.Command {
	var form string
	var req api.AddTokenRequest
	cmd := command("create", "Make a token and print its secret, this once",
		"The secret alone comes on stdout. Whoever has it acts as the user: put it into DSPOOL_TOKEN, never into a file that others read.",
		"dspool token create --user ada --name laptop --expires 90d\nexport DSPOOL_TOKEN=$(dspool token create --user ada)\ndspool token create --spawner --name hub", positional(0, 0),
		a.with(func(ctx context.Context, c *client.Client, _ []string) error {
			t, err := c.AddToken(ctx, req)
			if err != nil {
				return err
			}
			if form == "json" {
				return a.json(t)
			}
			a.printf("%s\n", t.Secret)
			until := "until it is revoked"
			if t.Expires != nil {
				until = "until " + a.fullTime(t.Expires)
			}
			a.say("token %s of user %s is valid %s; its secret is not shown again", t.ID, t.User, until)
			if req.Expires == 0 && t.Expires != nil {
				a.say("it ends with the login that made it; an administrator makes tokens that last")
			}
			return nil
		}))
	text(cmd, &req.User, "user", "USER", "whose it is (administrators; default: yourself)")
	text(cmd, &req.Name, "name", "TEXT", "what it is for")
	flag(cmd, &req.Expires, "expires", "duration", "how long it is valid, such as 90d (default: until revoked)", dspool.ParseDuration)
	cmd.Flags().BoolVar(&req.Spawner, "spawner", false, "for a JupyterHub of your own: it runs notebooks as any user, and may do nothing else (administrators)")
	a.completeFlag(cmd, "user", userNames)
	return showOutput(cmd, &form)
}

func (a *app) tokenList() *cobra.Command {
	var form, user string
	type token = dspool.Token
	cmd := command("list", "List tokens, without their secrets", "", "dspool token list\ndspool token list --user ada", positional(0, 0),
		a.with(func(ctx context.Context, c *client.Client, _ []string) error {
			l, err := c.Tokens(ctx, user)
			if err != nil {
				return err
			}
			return list(a, form, l.Items, "no tokens: `dspool token create` makes one", []column[token]{
				{name: "TOKEN", text: func(t token) string { return t.ID }},
				{name: "USER", text: func(t token) string { return t.User }},
				{name: "NAME", text: func(t token) string { return t.Name }},
				{name: "CREATED", text: func(t token) string { return a.ago(t.Created) }, raw: func(t token) string { return rawTime(&t.Created) }},
				{name: "EXPIRES", text: func(t token) string {
					if t.Expires == nil {
						return "never"
					}
					return a.ago(*t.Expires)
				}, raw: func(t token) string { return rawTime(t.Expires) }},
				{name: "USED", text: func(t token) string {
					if t.Used == nil {
						return "never"
					}
					return a.ago(*t.Used)
				}, raw: func(t token) string { return rawTime(t.Used) }},
			}...)
		}))
	text(cmd, &user, "user", "USER", "only of this user")
	a.completeFlag(cmd, "user", userNames)
	return listOutput(cmd, &form)
}

func (a *app) tokenRevoke() *cobra.Command {
	cmd := command("revoke TOKEN...", "End tokens at once", "", "dspool token revoke k3v9", positional(1, -1),
		a.with(func(ctx context.Context, c *client.Client, args []string) error {
			var errs []error
			for _, id := range args {
				if err := c.RevokeToken(ctx, id); err != nil {
					errs = append(errs, err)
					continue
				}
				a.say("token %s is revoked", id)
			}
			return a.all(errs)
		}))
	cmd.ValidArgsFunction = a.completion(-1, tokenIDs)
	return cmd
}
