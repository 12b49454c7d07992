package initd

import (
	"fmt"
	"maps"
	"net"
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
