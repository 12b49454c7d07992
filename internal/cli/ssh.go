package cli

import (
	"cmp"
	"context"
	"errors"
	"net"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/client"
)

// entrance is all that an SSH client must know to come in.
type entrance struct {
	host, port, user string
	alias            string   // name by which the door's certificate is checked, where that is not host
	keys             []string // lines for known_hosts
}

// words that go into ssh's configuration and command line: no blanks, quotes, wildcards, tokens, and no
// hyphen first. What a server or a user says differently is refused, never escaped.
var (
	hostWord = regexp.MustCompile(`^[A-Za-z0-9:][A-Za-z0-9.:_-]{0,252}$`)
	portWord = regexp.MustCompile(`^[1-9][0-9]{0,4}$`)
	userWord = regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}(\+[a-z][a-z0-9-]{0,31}|\+([a-z][a-z0-9-]{0,31})?\+[a-z][a-z0-9-]{0,31})?$`)
)

func (e entrance) check() error {
	for _, w := range []struct {
		kind, word string
		form       *regexp.Regexp
	}{{"host name", e.host, hostWord}, {"port", e.port, portWord}, {"user name", e.user, userWord}, {"host name", cmp.Or(e.alias, e.host), hostWord}} {
		if !w.form.MatchString(w.word) {
			return dspool.Errorf(dspool.Invalid, "%s %s is not one that ssh can be given safely", w.kind, dspool.Quote(w.word))
		}
	}
	return nil
}

// destination is where somebody wants to go; "" is what the server has for them.
type destination struct{ pool, size, user, address string }

// flags are those that every command with a destination has.
func (d *destination) flags(a *app, cmd *cobra.Command) {
	text(cmd, &d.size, "size", "SIZE", "on a machine of this size, one of the pool's (default: any)")
	text(cmd, &d.user, "user", "USER", "log in as this user (default: who you are to the server)")
	text(cmd, &d.address, "address", "HOST", "reach the door at this name or address (default: the server's)")
	a.completeFlag(cmd, "size", sizeNames)
	cmd.ValidArgsFunction = a.completion(1, poolNames)
}

// entrance finds out how to come in: through the door of the pool where it has one, else through the first.
func (a *app) entrance(ctx context.Context, c *client.Client, to destination) (e entrance, err error) {
	pool, user, address := to.pool, to.user, to.address
	if to.size != "" {
		if err := dspool.CheckName("size", to.size); err != nil {
			return e, err
		}
	}
	if pool != "" {
		if err := dspool.CheckName("pool", pool); err != nil {
			return e, err
		}
		if _, err := c.Pool(ctx, pool); err != nil {
			return e, err
		}
	}
	if user == "" {
		if user, err = a.userOrOwn(ctx, c, ""); err != nil {
			return e, err
		}
	}
	if err := dspool.CheckUserName(user); err != nil {
		return e, err
	}
	doors, err := c.Doors(ctx)
	if err != nil {
		return e, err
	}
	ways := slices.DeleteFunc(doors.Items, func(d dspool.Door) bool { return d.Protocol != dspool.ProtocolSSH })
	if len(ways) == 0 {
		return e, dspool.Errorf(dspool.Unavailable, "the server has no door for SSH").WithHint("the administrator adds one under doors in the configuration file")
	}
	door := ways[0]
	if i := slices.IndexFunc(ways, func(d dspool.Door) bool { return d.Pool == pool }); i >= 0 {
		door = ways[i]
	}
	if e.user = user; pool != "" || to.size != "" {
		e.user += "+" + pool // also for the door's own pool: the user may have a default that comes before it
	}
	if to.size != "" {
		e.user += "+" + to.size
	}
	if err := e.place(c, door, address); err != nil {
		return e, err
	}
	text, err := c.KnownHosts(ctx)
	if err != nil {
		return e, err
	}
	if err := e.trust(text); err != nil {
		return e, err
	}
	return e, e.check()
}

// place says where the door is, as seen from here.
func (e *entrance) place(c *client.Client, door dspool.Door, address string) error {
	listen, port, err := net.SplitHostPort(door.Listen)
	if err != nil {
		return dspool.Errorf(dspool.Internal, "the server has a door at %s, which is no address", dspool.Quote(door.Listen))
	}
	if e.port = port; !portWord.MatchString(port) {
		return dspool.Errorf(dspool.Internal, "the server has a door at port %s, which is none", dspool.Quote(port))
	}
	ip := net.ParseIP(listen)
	everywhere := listen == "" || ip != nil && ip.IsUnspecified()
	server := c.Host()
	near := server == "" || server == "localhost" || isLoopback(server) // this is the server's host
	switch {
	case address != "":
		e.host = address
	case everywhere && server == "":
		e.host = "localhost"
	case everywhere:
		e.host = server
	case isLoopback(listen) && !near:
		return dspool.Errorf(dspool.Unavailable, "the door at %s can only be reached on the server's host", clean(door.Listen)).WithHint("log in there, or name the address that leads to it with --address")
	case near || net.ParseIP(server) != nil:
		e.host = listen
	default: // a name says more than an address, and stays when the address does not
		e.host = server
	}
	return nil
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// sshPath puts a path into ssh's configuration, where %, $ and quotes mean something.
func sshPath(path string) (string, error) {
	if strings.ContainsAny(path, "\"'\\$") || strings.ContainsFunc(path, func(r rune) bool { return r < 0x20 || r == 0x7f }) {
		return "", dspool.Errorf(dspool.Invalid, "the path %s holds characters that ssh's configuration cannot", dspool.Quote(path)).WithHint("set HOME or XDG_CONFIG_HOME to another directory")
	}
	return `"` + strings.ReplaceAll(path, "%", "%%") + `"`, nil
}

func (a *app) ssh() *cobra.Command {
	var to destination
	var show bool
	cmd := command("ssh [POOL] [-- SSH-ARGUMENT...]", "Log into the pool with ssh",
		`It runs the ssh of this computer with the right address, user and host keys; after -- come its own
options and the command. Without POOL it is your default pool, else the door's. When no machine
is free, ssh waits and says for what.`,
		"dspool ssh\ndspool ssh lab\ndspool ssh lab --size large\ndspool ssh lab -- -L 8888:localhost:8888\ndspool ssh -- nvidia-smi", cobra.ArbitraryArgs, nil)
	cmd.RunE = a.with(func(ctx context.Context, c *client.Client, args []string) error {
		pool, rest, err := beforeDash(cmd, args)
		if err != nil {
			return err
		}
		to.pool = pool
		e, err := a.entrance(ctx, c, to)
		if err != nil {
			return err
		}
		argv, err := a.sshCommand(e, rest)
		if err != nil {
			return err
		}
		if show {
			a.printf("%s\n", shellLine(argv))
			return nil
		}
		start := a.Exec
		if start == nil {
			start = become
		}
		return start(argv)
	})
	to.flags(a, cmd)
	cmd.Flags().BoolVar(&show, "print", false, "print the command instead of running it")
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		var unknown *pflag.NotExistError
		if errors.As(err, &unknown) && unknown.GetSpecifiedShortnames() != "" {
			return badUsage(cmd, "%s has no flag -%s", cmd.CommandPath(), clean(unknown.GetSpecifiedName())).WithHint("ssh's own options come after --")
		}
		return flagError(cmd, err)
	})
	return cmd
}

// beforeDash takes the one optional argument before --.
func beforeDash(cmd *cobra.Command, args []string) (first string, rest []string, err error) {
	n := cmd.ArgsLenAtDash()
	if n < 0 {
		n = len(args)
	}
	if n > 1 {
		return "", nil, badUsage(cmd, "%s takes one POOL; %s and what follows it belong after --", cmd.CommandPath(), dspool.Quote(args[1]))
	}
	if n == 1 {
		first = args[0]
	}
	return first, args[n:], nil
}

// sshCommand is the command line of ssh, with the door's keys kept where it finds them.
func (a *app) sshCommand(e entrance, rest []string) ([]string, error) {
	dir := client.ConfigDir(a.getenv)
	if dir == "" {
		return nil, dspool.Errorf(dspool.Invalid, "there is no place to keep the doors' keys").WithHint("set HOME")
	}
	path := filepath.Join(dir, "known_hosts")
	quoted, err := sshPath(path)
	if err != nil {
		return nil, err
	}
	if err := e.remember(path); err != nil {
		return nil, err
	}
	argv := []string{"ssh", "-o", "UserKnownHostsFile=" + quoted, "-o", "StrictHostKeyChecking=yes"}
	if e.alias != "" {
		argv = append(argv, "-o", "HostKeyAlias="+e.alias)
	}
	for _, key := range a.identities() {
		if key, err = sshPath(key); err != nil {
			return nil, err
		}
		argv = append(argv, "-o", "IdentityFile="+key)
	}
	return append(append(argv, "-p", e.port, "-l", e.user, e.host), rest...), nil
}
