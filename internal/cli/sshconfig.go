package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/client"
)

// aliasWord is a name for a Host block: no pattern, no blank, no option.
var aliasWord = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

func (a *app) sshConfig() *cobra.Command {
	var alias string
	var to destination
	var install bool
	cmd := command("ssh-config [POOL]", "Write a Host block for ~/.ssh/config",
		`With it everything that uses OpenSSH comes in by a short name: ssh, scp, rsync, VS Code, JetBrains. The
doors' keys go into ~/.ssh/dspool_known_hosts. The block is printed; --install puts it into
~/.ssh/config instead, between marks, where a later --install changes it.`,
		"dspool ssh-config --install && ssh dspool\ndspool ssh-config lab --host lab --install\ndspool ssh-config >> ~/.ssh/config", positional(0, 1),
		a.with(func(ctx context.Context, c *client.Client, args []string) error {
			if !aliasWord.MatchString(alias) {
				return dspool.Errorf(dspool.Invalid, "--host: %s is not a name for a Host block", dspool.Quote(alias)).WithHint("use letters, digits, \".\", \"_\" and \"-\"")
			}
			home := a.getenv("HOME")
			if !filepath.IsAbs(home) {
				return dspool.Errorf(dspool.Invalid, "there is no ~/.ssh").WithHint("set HOME")
			}
			if len(args) > 0 {
				to.pool = args[0]
			}
			e, err := a.entrance(ctx, c, to)
			if err != nil {
				return err
			}
			keys := filepath.Join(home, ".ssh", "dspool_known_hosts")
			block, err := a.hostBlock(alias, e, keys)
			if err != nil {
				return err
			}
			if install {
				config := filepath.Join(home, ".ssh", "config")
				if err := installBlock(config, alias, block); err != nil {
					return err
				}
				a.say("Host %s is in %s", alias, config)
			}
			if err := e.remember(keys); err != nil {
				return err
			}
			a.say("the doors' keys are in %s", keys)
			if !install {
				a.printf("%s", block)
			}
			return nil
		}))
	alias = "dspool"
	cmd.Flags().Var(&value[string]{into: &alias, parse: func(s string) (string, error) { return s, nil }, kind: "ALIAS", text: alias}, "host", "short name that ssh is given")
	to.flags(a, cmd)
	cmd.Flags().BoolVar(&install, "install", false, "put the block into ~/.ssh/config")
	return cmd
}

// hostBlock is the block of ~/.ssh/config. Every word in it was checked by entrance.check and aliasWord.
func (a *app) hostBlock(alias string, e entrance, keys string) (string, error) {
	quoted, err := sshPath(keys)
	if err != nil {
		return "", err
	}
	lines := []string{"HostName " + e.host, "Port " + e.port, "User " + e.user}
	if e.alias != "" {
		lines = append(lines, "HostKeyAlias "+e.alias)
	}
	lines = append(lines, "UserKnownHostsFile "+quoted, "StrictHostKeyChecking yes")
	for _, key := range a.identities() {
		if key, err = sshPath(key); err != nil {
			return "", err
		}
		lines = append(lines, "IdentityFile "+key)
	}
	lines = append(lines, "# Later logins are faster over one connection:", "# ControlMaster auto", "# ControlPath ~/.ssh/dspool-%C", "# ControlPersist 10m")
	return "Host " + alias + "\n    " + strings.Join(lines, "\n    ") + "\n", nil
}

// installBlock puts a block between its marks into ssh's configuration: where they are already, else at the
// end. A file that it does not understand, it leaves alone.
func installBlock(path, alias, block string) error {
	target, err := filepath.EvalSymlinks(path) // a link into somebody's collection of dot files stays one
	if errors.Is(err, fs.ErrNotExist) {
		target, err = path, nil
	}
	if err != nil {
		return dspool.Errorf(dspool.Invalid, "%s cannot be changed: %w", path, err)
	}
	mode := fs.FileMode(0o600)
	old, err := os.ReadFile(target)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return dspool.Errorf(dspool.Invalid, "%s cannot be changed: %w", path, err)
	default:
		info, err := os.Stat(target)
		if err != nil {
			return err
		}
		mode = info.Mode().Perm()
	}
	text, err := spliceBlock(string(old), alias, block)
	if err != nil {
		return dspool.Errorf(dspool.Conflict, "%s cannot be changed: %w", path, err).WithHint("correct it by hand, or choose another name with --host")
	}
	if text == string(old) {
		return nil
	}
	return client.WriteFile(target, []byte(text), mode)
}

func spliceBlock(text, alias, block string) (string, error) {
	begin, end := "# dspool begin "+alias, "# dspool end "+alias
	block = begin + "\n" + block + end + "\n"
	var out strings.Builder
	inside, found := false, false
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		switch trimmed := strings.TrimSpace(line); {
		case trimmed == begin && (found || inside):
			return "", fmt.Errorf("it holds the mark %q more than once", begin)
		case trimmed == begin:
			inside, found = true, true
			out.WriteString(block)
		case trimmed == end && inside:
			inside = false
		case trimmed == end:
			return "", fmt.Errorf("it holds the mark %q without %q", end, begin)
		case inside:
		case len(words) > 1 && strings.EqualFold(words[0], "Host") && slices.Contains(words[1:], alias):
			return "", fmt.Errorf("it has a Host %s of its own", alias)
		default:
			out.WriteString(line)
		}
	}
	if inside {
		return "", fmt.Errorf("it holds the mark %q without %q", begin, end)
	}
	if found {
		return out.String(), nil
	}
	text = out.String()
	if text != "" && !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	if text != "" {
		text += "\n"
	}
	return text + block, nil
}
