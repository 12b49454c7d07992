package cli

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/client"
)

// trust takes the authorities of the doors out of the server's known_hosts lines and writes them anew for
// the address in use. Where the doors have no certificate for that address (a tunnel, another name),
// the client checks for a name that they have.
func (e *entrance) trust(text []byte) error {
	var names []string
	type line struct{ marker, key string }
	var lines []line
	for rest := text; ; {
		marker, hosts, key, _, after, err := ssh.ParseKnownHosts(rest)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return dspool.Errorf(dspool.Internal, "the server's known_hosts lines cannot be read: %w", err)
		}
		rest = after
		if marker == "revoked" {
			continue
		}
		l := line{marker, strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))}
		if !slices.Contains(lines, l) {
			lines = append(lines, l)
		}
		for _, h := range hosts {
			name, port := h, "22"
			if n, p, err := net.SplitHostPort(h); err == nil && strings.HasPrefix(h, "[") {
				name, port = n, p
			}
			if port == e.port && !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	if len(lines) == 0 || len(names) == 0 {
		return dspool.Errorf(dspool.Unavailable, "the server does not say yet by which key its doors are known").WithHint("try again in a few seconds")
	}
	pattern := e.host
	if e.port != "22" {
		pattern = "[" + e.host + "]:" + e.port
	}
	if !slices.Contains(names, e.host) {
		// A real name says more to people than localhost, which every server has.
		e.alias = names[0]
		if i := slices.IndexFunc(names, func(n string) bool { return n != "localhost" && net.ParseIP(n) == nil }); i >= 0 {
			e.alias = names[i]
		}
		pattern = e.alias
	}
	for _, l := range lines {
		s := pattern + " " + l.key
		if l.marker != "" {
			s = "@" + l.marker + " " + s
		}
		e.keys = append(e.keys, s)
	}
	return nil
}

// remember puts the door's lines into a known_hosts file, in the place of those for the same address.
func (e entrance) remember(path string) error {
	old, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return dspool.Errorf(dspool.Invalid, "the doors' keys cannot be kept: %w", err)
	}
	pattern := func(line string) string {
		words := strings.Fields(line)
		if len(words) > 0 && strings.HasPrefix(words[0], "@") {
			words = words[1:]
		}
		if len(words) == 0 {
			return ""
		}
		return words[0]
	}
	var out bytes.Buffer
	for line := range strings.Lines(string(old)) {
		if line = strings.TrimSpace(line); line != "" && pattern(line) != pattern(e.keys[0]) {
			out.WriteString(line + "\n")
		}
	}
	for _, k := range e.keys {
		out.WriteString(k + "\n")
	}
	if bytes.Equal(out.Bytes(), old) {
		return nil
	}
	return client.WriteFile(path, out.Bytes(), 0o600)
}
