package webdoor

import (
	"net/url"
	"path"
	"strings"
	"testing"
)

// What a request asks for goes on as one target of the same upstream, whatever its bytes, and every way in
// which a program could read its path is looked at before a route is chosen.
func FuzzPath(f *testing.F) {
	for _, s := range []string{"/user/ada/lab?x=1", "/a/../b", "/a/%2e%2e/b", "/a%2f..%2fb", `/a\..\b`, "/a;x/..;/b", "//evil.example/x", "/a%25%32%66", "/\x00", "/ä", "/a?b#c d", "%"} {
		f.Add(s, "q="+s)
	}
	base := &url.URL{Scheme: "http", Host: "10.0.0.1:8888", Path: "/base/"}
	f.Fuzz(func(t *testing.T, raw, query string) {
		for _, to := range []*url.URL{nil, base} {
			target := joinTarget(to, safeTarget(raw), safeTarget(query))
			if target == "" || strings.ContainsFunc(target, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '#' || r == '\\' }) {
				t.Fatalf("%q with %q becomes %q", raw, query, target)
			}
			if to != nil && !strings.HasPrefix(target, "/base/") {
				t.Fatalf("%q leaves its base: %q", raw, target)
			}
		}
		seen := map[string]bool{}
		readings(raw, func(p string) bool {
			seen[p] = true
			return true
		})
		plain := raw
		for range mostDecodings {
			decoded, err := url.PathUnescape(plain)
			if err != nil {
				break
			}
			if !seen[decoded] || !seen[path.Clean("/"+decoded)] || !seen[path.Clean("/"+strings.ReplaceAll(decoded, `\`, "/"))] {
				t.Fatalf("%q can be read as %q, which nobody looks at", raw, decoded)
			}
			plain = decoded
		}
		if isPlain(raw) && strings.HasPrefix(raw, "/") {
			if got, err := url.PathUnescape(raw); err != nil || got != raw || path.Clean(raw) != strings.TrimSuffix(raw, "/") && raw != "/" {
				t.Fatalf("%q is plain and is read as %q, %q", raw, got, path.Clean(raw))
			}
		}
		if r := cleanRoute(raw); cleanRoute(r) != r && !strings.HasSuffix(r, "/") {
			t.Fatalf("%q becomes %q, and that %q", raw, r, cleanRoute(r))
		} else if checkRoute(r) == nil && r != "/" && path.Clean(r) != r && !strings.Contains(r, "//") {
			t.Fatalf("the route %q is read as %q", r, path.Clean(r))
		}
	})
}
