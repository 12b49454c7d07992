package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/client"
)

func (a *app) userPassword() *cobra.Command {
	var stdin, remove bool
	cmd := command("password [NAME]", "Set a password, for doors and for dspool login",
		`Without NAME it is your own. It is asked for twice, and the old one before, where it is needed:
everybody but administrators proves who they are. With --stdin it is one line of stdin, and
the old one, where it is needed, the line before.`,
		"dspool user password\ndspool user password ada --stdin < password.txt\ndspool user password ada --remove", positional(0, 1), nil)
	cmd.RunE = a.with(func(ctx context.Context, c *client.Client, args []string) error {
		if stdin && remove {
			return badUsage(cmd, "--remove takes no password from stdin")
		}
		who, err := c.Whoami(ctx)
		if err != nil {
			return err
		}
		name, err := a.nameOrOwn(ctx, c, args)
		if err != nil {
			return err
		}
		req, err := a.passwordRequest(ctx, c, name, who, stdin, remove)
		if err != nil {
			return err
		}
		if err := c.SetPassword(ctx, name, req); err != nil {
			return err
		}
		a.say("password of user %s is %s", clean(name), map[bool]string{true: "removed", false: "set"}[remove])
		return nil
	})
	cmd.Flags().BoolVar(&stdin, "stdin", false, "read it from stdin instead of asking")
	cmd.Flags().BoolVar(&remove, "remove", false, "leave the user without a password")
	cmd.ValidArgsFunction = a.completion(1, userNames)
	return cmd
}

func (a *app) passwordRequest(ctx context.Context, c *client.Client, name string, who api.Whoami, stdin, remove bool) (req api.PasswordRequest, err error) {
	u, err := c.User(ctx, name)
	if err != nil {
		return req, err
	}
	if !who.Admin && u.HasPassword {
		if stdin {
			req.Old, err = a.line(ctx)
		} else {
			req.Old, err = a.secret(ctx, "old password of "+name)
		}
		if err != nil {
			return req, err
		}
	}
	switch {
	case remove:
		return req, nil
	case stdin:
		req.New, err = a.line(ctx)
	default:
		req.New, err = a.newSecret(ctx, name)
	}
	if err == nil && req.New == "" {
		err = dspool.Errorf(dspool.Invalid, "an empty password is none").WithHint("dspool user password %s --remove leaves the user without one", clean(name))
	}
	return req, err
}
