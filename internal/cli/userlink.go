package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/client"
)

func (a *app) userLink() *cobra.Command {
	var req api.LinkRequest
	var remove bool
	cmd := command("link NAME", "Let somebody in who logs in at an OpenID provider",
		`Whoever the provider calls SUBJECT is then this user at the portal. Both are on the page that somebody
sees who has logged in at the provider and has no account here. An e-mail address is no identity:
providers give one to another person later, and people change theirs.`,
		"dspool user link ada --issuer https://login.example.org --subject 248289761001\ndspool user link ada --remove", positional(1, 1), nil)
	cmd.RunE = a.with(func(ctx context.Context, c *client.Client, args []string) error {
		if remove == (req.Issuer != "" && req.Subject != "") || remove && (req.Issuer != "" || req.Subject != "") {
			return badUsage(cmd, "give --issuer and --subject, or --remove alone")
		}
		if err := c.LinkUser(ctx, args[0], req); err != nil {
			return err
		}
		a.say("user %s is %s", clean(args[0]), map[bool]string{true: "linked no more", false: "linked"}[remove])
		return nil
	})
	text(cmd, &req.Issuer, "issuer", "URL", "the provider, as its own configuration writes it")
	text(cmd, &req.Subject, "subject", "SUBJECT", "what it calls the person for ever (the claim sub)")
	cmd.Flags().BoolVar(&remove, "remove", false, "let nobody in as this user by a provider any more")
	cmd.ValidArgsFunction = a.completion(1, userNames)
	return cmd
}
