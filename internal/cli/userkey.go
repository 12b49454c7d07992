package cli

import (
	"context"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/client"
)

func (a *app) userKey() *cobra.Command {
	return group("key", "Add, list and remove the SSH keys with which people come in", a.userKeyAdd(), a.userKeyList(), a.userKeyRemove())
}

func (a *app) keyColumns() []column[dspool.UserKey] {
	type key = dspool.UserKey
	return []column[key]{
		{name: "FINGERPRINT", text: func(k key) string { return k.Fingerprint }},
		{name: "TYPE", text: func(k key) string { kind, _, _ := strings.Cut(k.Key, " "); return kind }},
		{name: "ADDED", text: func(k key) string { return a.ago(k.Added) }, raw: func(k key) string { return rawTime(&k.Added) }},
		{name: "COMMENT", text: func(k key) string { return k.Comment }},
	}
}

// whose adds --user to a command about a user's own things.
func (a *app) whose(cmd *cobra.Command, user *string) *cobra.Command {
	text(cmd, user, "user", "USER", "whose (administrators; default: your own)")
	a.completeFlag(cmd, "user", userNames)
	return cmd
}

func (a *app) userOrOwn(ctx context.Context, c *client.Client, user string) (string, error) {
	if user != "" {
		return user, nil
	}
	name, err := a.nameOrOwn(ctx, c, nil)
	if dspool.ErrorCode(err) == dspool.Invalid {
		return "", dspool.Errorf(dspool.Invalid, "the host's root is no user of the pool").WithHint("say whose with --user")
	}
	return name, err
}

func (a *app) userKeyAdd() *cobra.Command {
	var user string
	cmd := command("add FILE.pub...", "Add public keys",
		"A key is a file, - for stdin, or the line itself. A file may hold several, one a line. Private keys are\nrefused here and never sent.",
		"dspool user key add ~/.ssh/id_ed25519.pub\nssh-add -L | dspool user key add -", positional(1, -1),
		a.with(func(ctx context.Context, c *client.Client, args []string) error {
			var keys []string
			for _, arg := range args {
				lines, err := a.publicKeys(arg)
				if err != nil {
					return err
				}
				keys = append(keys, lines...)
			}
			name, err := a.userOrOwn(ctx, c, user)
			if err != nil {
				return err
			}
			var errs []error
			for _, line := range keys {
				k, err := c.AddUserKey(ctx, name, line)
				if err != nil {
					errs = append(errs, err)
					continue
				}
				a.say("key %s of user %s is added", clean(k.Fingerprint), clean(k.User))
			}
			return a.all(errs)
		}))
	cmd.ValidArgsFunction = cobra.FixedCompletions([]string{"pub"}, cobra.ShellCompDirectiveFilterFileExt)
	return a.whose(cmd, &user)
}

// maxKeys bounds what is read as public keys.
const maxKeys = 256 << 10

// publicKeys reads the public keys that an argument names: a file, - for stdin, or the line itself.
func (a *app) publicKeys(arg string) ([]string, error) {
	content, where := []byte(arg), "the argument"
	if kind, _, ok := strings.Cut(arg, " "); !ok || !strings.HasPrefix(kind, "ssh-") && !strings.HasPrefix(kind, "ecdsa-") && !strings.HasPrefix(kind, "sk-") {
		in := a.Stdin
		where = "stdin"
		if arg != "-" {
			where = clean(arg)
			f, err := os.Open(arg)
			if err != nil {
				return nil, dspool.Errorf(dspool.Invalid, "the public key cannot be read: %w", err).WithHint("name a .pub file, or - for stdin")
			}
			defer f.Close()
			in = f
		}
		var err error
		if content, err = io.ReadAll(io.LimitReader(in, maxKeys+1)); err != nil {
			return nil, dspool.Errorf(dspool.Invalid, "the public key cannot be read: %w", err)
		}
	}
	if len(content) > maxKeys {
		return nil, dspool.Errorf(dspool.Invalid, "%s is longer than %s", where, dspool.FormatBytes(maxKeys)).WithHint("is it the right file?")
	}
	if strings.Contains(string(content), "PRIVATE KEY") {
		return nil, dspool.Errorf(dspool.Invalid, "%s is a private key, which nobody but its owner should have", where).WithHint("give the .pub file beside it")
	}
	var keys []string
	n := 0
	for line := range strings.Lines(string(content)) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
		if _, is := key.(*ssh.Certificate); is {
			return nil, dspool.Errorf(dspool.Invalid, "line %d of %s is a certificate, which needs no adding", n, where).WithHint("give the public key, whose file does not end in -cert.pub")
		}
		if err != nil {
			return nil, dspool.Errorf(dspool.Invalid, "line %d of %s is no public key", n, where).WithHint("a line of a .pub file begins like ssh-ed25519 AAAA…")
		}
		keys = append(keys, line)
	}
	if len(keys) == 0 {
		return nil, dspool.Errorf(dspool.Invalid, "%s holds no public key", where).WithHint("ssh-keygen -t ed25519 makes one")
	}
	return keys, nil
}

func (a *app) userKeyList() *cobra.Command {
	var form, user string
	cmd := command("list", "List public keys", "", "dspool user key list\ndspool user key list --user ada -o csv", positional(0, 0),
		a.with(func(ctx context.Context, c *client.Client, _ []string) error {
			name, err := a.userOrOwn(ctx, c, user)
			if err != nil {
				return err
			}
			l, err := c.UserKeys(ctx, name)
			if err != nil {
				return err
			}
			columns := append([]column[dspool.UserKey]{{name: "USER", text: func(k dspool.UserKey) string { return k.User }}}, a.keyColumns()...)
			return list(a, form, l.Items, "no keys: `dspool user key add FILE.pub` adds one", columns...)
		}))
	return listOutput(a.whose(cmd, &user), &form)
}

func (a *app) userKeyRemove() *cobra.Command {
	var user string
	cmd := command("remove FINGERPRINT...", "Remove public keys", "Nobody comes in with them from then on; sessions that are open stay.",
		"dspool user key remove SHA256:nYc2lQc8dGtXqXrjNKCeYbBSIVXnFDyKCZ2aoYFQmq4", positional(1, -1),
		a.with(func(ctx context.Context, c *client.Client, args []string) error {
			for _, fp := range args {
				if !strings.HasPrefix(fp, "SHA256:") {
					return dspool.Errorf(dspool.Invalid, "%s is not a fingerprint", dspool.Quote(fp)).WithHint("SHA256:…, as `dspool user key list` shows it")
				}
			}
			name, err := a.userOrOwn(ctx, c, user)
			if err != nil {
				return err
			}
			var errs []error
			for _, fp := range args {
				if err := c.RemoveUserKey(ctx, name, fp); err != nil {
					errs = append(errs, err)
					continue
				}
				a.say("key %s of user %s is removed", clean(fp), clean(name))
			}
			return a.all(errs)
		}))
	cmd.ValidArgsFunction = a.completion(-1, func(ctx context.Context, c *client.Client) ([]string, error) {
		name, err := a.userOrOwn(ctx, c, user)
		if err != nil {
			return nil, err
		}
		l, err := c.UserKeys(ctx, name)
		return words(l, err, func(k dspool.UserKey) (string, string) { return k.Fingerprint, k.Comment })
	})
	return a.whose(cmd, &user)
}
