package webdoor

import (
	"net/url"
	"path"
	"strings"

	"github.com/dspool/dspool"
)

// mostDecodings is how often a path is decoded to see what somebody further on could make of it.
const mostDecodings = 4

// keepSlashes puts what no route has in place of encoded slashes.
var keepSlashes = strings.NewReplacer("%2f", "%00", "%2F", "%00")

// isPlain says that a path as sent reads the same to everybody.
func isPlain(raw string) bool {
	for i := range len(raw) {
		switch c := raw[i]; {
		case c == '%', c == ';', c == '\\', c >= 0x7f, c < ' ':
			return false
		case c == '/' && i+1 < len(raw) && (raw[i+1] == '.' || raw[i+1] == '/'):
			return false
		}
	}
	return true
}

// readings calls yield with every path that a program could take raw, a path as sent, for: decoded
// once or more often, with what follows semicolons left out, with backslashes for slashes, with dot
// elements resolved, with encoded slashes that part nothing. It stops and returns false when yield does.
func readings(raw string, yield func(string) bool) bool {
	for range mostDecodings {
		if kept := keepSlashes.Replace(raw); kept != raw {
			if s, err := url.PathUnescape(kept); err == nil && !yield(s) {
				return false
			}
		}
		decoded, err := url.PathUnescape(raw)
		if err != nil { // a percent sign that stands for itself, after some decoding
			return true
		}
		for _, s := range [...]string{decoded, strings.ReplaceAll(decoded, `\`, "/")} {
			bare := withoutParameters(s)
			if !yield(s) || !yield(path.Clean("/"+s)) || !yield(bare) || !yield(path.Clean("/"+bare)) {
				return false
			}
		}
		if decoded == raw {
			return true
		}
		raw = decoded
	}
	return true
}

// withoutParameters leaves out what follows a semicolon in each element (RFC 3986 section 3.3).
func withoutParameters(s string) string {
	if !strings.Contains(s, ";") {
		return s
	}
	elements := strings.Split(s, "/")
	for i, e := range elements {
		elements[i], _, _ = strings.Cut(e, ";")
	}
	return strings.Join(elements, "/")
}

// cleanRoute brings a route's path into the form in which it is kept: a slash in front, none behind.
func cleanRoute(p string) string {
	if !strings.HasPrefix(p, "/") {
		p = "/" + p
	}
	if len(p) > 1 {
		p = strings.TrimSuffix(p, "/")
	}
	return p
}

// checkRoute refuses paths that requests could reach in two ways, or never.
func checkRoute(p string) error {
	refuse := func(why string) error {
		return dspool.Errorf(dspool.Invalid, "the route %.200q %s", p, why)
	}
	if len(p) > 4096 {
		return refuse("is longer than 4096 bytes")
	}
	if p == "/" {
		return nil
	}
	for i := range len(p) {
		switch c := p[i]; {
		case c < ' ' || c == 0x7f:
			return refuse("has a control character")
		case c == '%' || c == ';' || c == '\\':
			return refuse("has one of % ; \\, which programs read in different ways")
		}
	}
	if strings.ToValidUTF8(p, "") != p {
		return refuse("is not UTF-8")
	}
	for element := range strings.SplitSeq(p, "/") {
		if element == "." || element == ".." {
			return refuse("has a . or .. element")
		}
	}
	return nil
}

// hostOnly is the name in a Host header: without port, in lower case, without the root's dot.
func hostOnly(host string) string {
	if strings.HasPrefix(host, "[") {
		if end := strings.IndexByte(host, ']'); end > 0 {
			host = host[:end+1]
		}
	} else {
		host, _, _ = strings.Cut(host, ":")
	}
	return strings.TrimSuffix(strings.ToLower(host), ".")
}

// safeTarget is a path or query as sent, with those bytes escaped that have no place there
// (RFC 3986 section 3.3): a later reader could take them for something else.
func safeTarget(s string) string {
	bad := 0
	for i := range len(s) {
		if !inTarget(s[i]) {
			bad++
		}
	}
	if bad == 0 {
		return s
	}
	const digits = "0123456789ABCDEF"
	out := make([]byte, 0, len(s)+2*bad)
	for i := range len(s) {
		if c := s[i]; inTarget(c) {
			out = append(out, c)
		} else {
			out = append(out, '%', digits[c>>4], digits[c&15])
		}
	}
	return string(out)
}

// inTarget also lets through what browsers leave alone in queries.
func inTarget(c byte) bool {
	switch c {
	case '#', '"', '<', '>', '\\', '^', '`':
		return false
	}
	return c > ' ' && c < 0x7f
}

// joinTarget puts a target's own path and query before a request's, with one slash between them.
func joinTarget(base *url.URL, path, query string) string {
	if base != nil {
		if prefix := base.EscapedPath(); prefix != "" && prefix != "/" {
			path = strings.TrimSuffix(prefix, "/") + "/" + strings.TrimPrefix(path, "/")
		}
		if base.RawQuery != "" {
			if query == "" {
				query = base.RawQuery
			} else {
				query = base.RawQuery + "&" + query
			}
		}
	}
	if path == "" {
		path = "/"
	}
	if query != "" {
		return path + "?" + query
	}
	return path
}
