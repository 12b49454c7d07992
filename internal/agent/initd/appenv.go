package initd

import (
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// lowestPort is the first that is not reserved for root.
const lowestPort = 1024

// freePort chooses a port on which nothing listens, on any address, and which no other app of the
// machine was given. Somebody may take it before the app does: whose it is, is looked at later.
func (m *machine) freePort() (int, error) {
	taken := map[int]bool{}
	m.mu.Lock()
	for _, a := range m.apps {
		taken[a.status.Port] = true
	}
	m.mu.Unlock()
	// They are held until one is chosen, so that each is another.
	for range len(taken) + 8 {
		l, err := net.Listen("tcp", ":0")
		if err != nil {
			return 0, fmt.Errorf("choose a port: %w", err)
		}
		defer l.Close()
		if port := l.Addr().(*net.TCPAddr).Port; port >= lowestPort && !taken[port] {
			return port, nil
		}
	}
	return 0, fmt.Errorf("choose a port: the machine's ports from %d on are all taken", lowestPort)
}

// portMark is replaced by the port.
const portMark = "{port}"

// with returns the command for a port.
func (s *App) with(port int) []string {
	command := make([]string, len(s.Command))
	for i, arg := range s.Command {
		command[i] = strings.ReplaceAll(arg, portMark, strconv.Itoa(port))
	}
	return command
}

// environment for a port; the app's own entries win.
func (s *App) environment(login map[string]string, port int) map[string]string {
	env := maps.Clone(login)
	for k, v := range s.Env {
		env[k] = strings.ReplaceAll(v, portMark, strconv.Itoa(port))
	}
	return env
}

// loginEnvironment is what a login of the user has: what the image says in the files that the PAM
// service of dspool's sshd reads.
func (m *machine) loginEnvironment(user Session) map[string]string {
	env := map[string]string{"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/games", "LANG": "C.UTF-8"}
	for _, file := range []string{"environment", "default/locale"} {
		text, err := os.ReadFile(filepath.Join(m.cfg.Etc, file))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			if k, v, ok := assignment(line); ok {
				env[k] = v
			}
		}
	}
	maps.Copy(env, map[string]string{"HOME": user.Home, "USER": user.User, "LOGNAME": user.User, "SHELL": m.accounts.shell})
	return env
}

// assignment reads a line of /etc/environment as pam_env(8) does: KEY=VALUE, perhaps with "export"
// before it, quotes around the value and a comment behind it.
func assignment(line string) (key, value string, ok bool) {
	line = strings.TrimSpace(line)
	line = strings.TrimSpace(strings.TrimPrefix(line, "export "))
	if i := strings.IndexByte(line, '#'); i >= 0 {
		line = strings.TrimSpace(line[:i])
	}
	key, value, ok = strings.Cut(line, "=")
	if !ok || key == "" || strings.ContainsAny(key, " \t") || strings.ContainsRune(line, 0) {
		return "", "", false
	}
	for _, quote := range []string{`"`, `'`} {
		if rest, ok := strings.CutPrefix(value, quote); ok {
			value = strings.TrimSuffix(rest, quote)
			break
		}
	}
	return key, value, true
}

// secretKeys are parts of names of variables whose values are secrets.
var secretKeys = []string{"TOKEN", "SECRET", "PASS", "KEY", "CREDENTIAL", "AUTH"}

// leastSecret is how long a value must be to be recognised in a text.
const leastSecret = 6

// withoutSecrets takes from a text the secrets that the app was given.
func (s *App) withoutSecrets(text string) string {
	secrets := []string{s.Token}
	for k, v := range s.Env {
		k = strings.ToUpper(k)
		if slices.ContainsFunc(secretKeys, func(part string) bool { return strings.Contains(k, part) }) {
			secrets = append(secrets, v)
		}
	}
	// The longest first: one may be part of another.
	slices.SortFunc(secrets, func(a, b string) int { return len(b) - len(a) })
	for _, v := range secrets {
		if len(v) >= leastSecret {
			text = strings.ReplaceAll(text, v, "…")
		}
	}
	return text
}

// groupsOf returns the ids of the groups that list name as a member.
func (a *accounts) groupsOf(name string) (ids []int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	text, err := os.ReadFile(filepath.Join(a.dir, "group"))
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(text)) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) != 4 || !slices.Contains(strings.Split(f[3], ","), name) {
			continue
		}
		if gid, err := strconv.Atoi(f[2]); err == nil && gid >= 0 && !slices.Contains(ids, gid) {
			ids = append(ids, gid)
		}
	}
	return ids
}
