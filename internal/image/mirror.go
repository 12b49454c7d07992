package image

import (
	"bufio"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Mirror is where Debian packages come from.
type Mirror struct {
	Archive  string // such as http://mirror.example.org/debian
	Security string // such as http://mirror.example.org/debian-security; "" is none
}

const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// sources returns the apt sources of an image with the given suite.
func (m Mirror) sources(suite string) []string {
	line := func(uri, suite string) string {
		return fmt.Sprintf("deb [signed-by=%s] %s %s main", keyring, uri, suite)
	}
	out := []string{line(m.Archive, suite)}
	if suite == "sid" || suite == "unstable" || suite == "experimental" {
		return out // these have neither updates nor security
	}
	out = append(out, line(m.Archive, suite+"-updates"))
	if m.Security != "" {
		out = append(out, line(m.Security, suite+"-security"))
	}
	return out
}

// HostMirror returns the mirror that the host itself uses, read from the apt
// configuration folder etc ("/etc/apt"): the first sources of Debian's archive and of
// its security archive, in sources.list, *.list and *.sources. It returns
// the zero Mirror where there is none; other people's repositories, addresses with a
// password and other schemes than http and https are passed over.
func HostMirror(etc string) Mirror {
	files := []string{filepath.Join(etc, "sources.list")}
	more, _ := filepath.Glob(filepath.Join(etc, "sources.list.d", "*")) // sorted
	for _, f := range more {
		if ext := filepath.Ext(f); ext == ".list" || ext == ".sources" {
			files = append(files, f)
		}
	}
	var m Mirror
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		parse := parseList
		if filepath.Ext(f) == ".sources" {
			parse = parseSources
		}
		for _, s := range parse(string(text)) {
			uri, ok := s.debian()
			switch {
			case !ok:
			case strings.HasSuffix(s.suite, "-security"):
				if m.Security == "" {
					m.Security = uri
				}
			case m.Archive == "":
				m.Archive = uri
			}
		}
	}
	if m.Archive == "" {
		return Mirror{}
	}
	return m
}

// source is one apt source with one address and one suite.
type source struct {
	uri, suite, signedBy string
	components           []string
}

// debian returns the source's address if it looks like Debian's own archive.
func (s source) debian() (string, bool) {
	uri := s.uri
	if file, ok := strings.CutPrefix(uri, "mirror+file:"); ok {
		// Debian's cloud images keep the list of mirrors in a file.
		uri = firstMirror("/" + strings.TrimLeft(file, "/"))
	}
	uri = strings.TrimSuffix(uri, "/")
	u, err := url.Parse(uri)
	if err != nil || checkMirror(uri) != nil {
		return "", false
	}
	if s.signedBy != "" && !strings.Contains(s.signedBy, "debian-archive") {
		return "", false
	}
	named := slices.ContainsFunc(strings.Split(u.Path, "/"), func(part string) bool {
		return part == "debian" || part == "debian-security"
	})
	return uri, named && slices.Contains(s.components, "main")
}

func firstMirror(file string) string {
	f, err := os.Open(file)
	if err != nil {
		return ""
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if words := strings.Fields(lines.Text()); len(words) > 0 && strings.HasPrefix(words[0], "http") {
			return words[0]
		}
	}
	return ""
}

// parseList reads the one-line form: deb [options] URI SUITE COMPONENT...
func parseList(text string) (out []source) {
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), "deb")
		if !ok || !strings.HasPrefix(rest, " ") && !strings.HasPrefix(rest, "\t") {
			continue
		}
		rest = strings.TrimSpace(rest)
		var s source
		if strings.HasPrefix(rest, "[") {
			options, after, ok := strings.Cut(rest[1:], "]")
			if !ok {
				continue
			}
			for option := range strings.FieldsSeq(options) {
				if by, ok := strings.CutPrefix(option, "signed-by="); ok {
					s.signedBy = by
				}
			}
			rest = after
		}
		if words := strings.Fields(rest); len(words) > 2 {
			s.uri, s.suite, s.components = words[0], words[1], words[2:]
			out = append(out, s)
		}
	}
	return out
}

// parseSources reads the deb822 form: stanzas of "Field: value".
func parseSources(text string) (out []source) {
	fields, last := map[string]string{}, ""
	flush := func() {
		defer clear(fields)
		if !slices.Contains(strings.Fields(fields["types"]), "deb") {
			return
		}
		switch strings.ToLower(strings.TrimSpace(fields["enabled"])) {
		case "no", "false", "without", "off", "disable", "0":
			return
		}
		for uri := range strings.FieldsSeq(fields["uris"]) {
			for suite := range strings.FieldsSeq(fields["suites"]) {
				out = append(out, source{uri: uri, suite: suite, signedBy: strings.TrimSpace(fields["signed-by"]), components: strings.Fields(fields["components"])})
			}
		}
	}
	for line := range strings.Lines(text) {
		switch {
		case strings.HasPrefix(line, "#"):
		case strings.TrimSpace(line) == "":
			flush()
		case line[0] == ' ' || line[0] == '\t':
			fields[last] += line
		default:
			name, value, _ := strings.Cut(line, ":")
			last = strings.ToLower(name)
			fields[last] = value
		}
	}
	flush()
	return out
}
