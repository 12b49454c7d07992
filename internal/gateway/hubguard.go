package gateway

import (
	"net/http"
	"strings"
)

// mostTossed bounds how many names of cookies one answer clears; the next one clears the rest.
const mostTossed = 8

// cleared sends a browser back that shows JupyterHub two cookies of one name, without those that any
// host below can set: a page of a notebook could so log its reader in as somebody else, with a cookie
// for a path more exact than that of the reader's own. What JupyterHub itself sets, it sets once, and
// for its host alone. Over TLS names do this (__Host-); browsers refuse those from plain HTTP.
func cleared(rw http.ResponseWriter, r *http.Request, host, proto string) bool {
	if proto == "https" {
		return false
	}
	twice := twiceNamed(r.Header["Cookie"])
	if len(twice) == 0 {
		return false
	}
	uri := r.URL.RequestURI()
	path, _, _ := strings.Cut(uri, "?")
	h := rw.Header()
	// A cookie without a name may look like one with a name.
	for _, name := range append(twice[:min(len(twice), mostTossed)], "") {
		for _, p := range pathsOf(path) {
			cookie := name + "=; Domain=" + host + "; Path=" + p + "; Max-Age=0"
			h.Add("Set-Cookie", cookie)
			h.Add("Set-Cookie", cookie+"; Secure; Partitioned")
		}
	}
	h.Set("Cache-Control", "no-store")
	h.Set("Location", proto+"://"+r.Host+uri) // in full, because a path may begin with //
	rw.WriteHeader(http.StatusTemporaryRedirect)
	return true
}

// foreign refuses what pages of other origins have somebody's browser ask JupyterHub, be it a picture, a
// script's request or a frame: JupyterHub starts servers for whoever opens an address. Whoever follows a link
// sees where it leads. Browsers say by themselves what they do (Fetch Metadata); a request without cookies is nobody's.
func foreign(rw http.ResponseWriter, r *http.Request) bool {
	switch r.Header.Get("Sec-Fetch-Site") {
	case "same-site", "cross-site":
	default:
		return false
	}
	if r.Header.Get("Sec-Fetch-Mode") == "navigate" && r.Header.Get("Sec-Fetch-Dest") == "document" || r.Header.Get("Cookie") == "" {
		return false
	}
	http.Error(rw, "JupyterHub is not part of other pages.", http.StatusForbidden)
	return true
}

// twiceNamed are the names that more than one cookie has.
func twiceNamed(fields []string) (twice []string) {
	seen := map[string]int{}
	for _, field := range fields {
		for pair := range strings.SplitSeq(field, ";") {
			name, _, _ := strings.Cut(strings.TrimSpace(pair), "=")
			if seen[name]++; seen[name] == 2 && name != "" && !strings.ContainsAny(name, "\x00\t\r\n") {
				twice = append(twice, name)
			}
		}
	}
	return twice
}

// mostPaths bounds how deep paths are taken apart.
const mostPaths = 16

// pathsOf are the paths of cookies that a browser sends to a path (RFC 6265, section 5.1.4).
func pathsOf(path string) (all []string) {
	if !strings.HasPrefix(path, "/") || strings.ContainsAny(path, ";\x00") {
		return []string{"/"}
	}
	for i := 0; i < len(path) && len(all) < mostPaths; i++ {
		if path[i] == '/' {
			if i > 0 {
				all = append(all, path[:i])
			}
			all = append(all, path[:i+1])
		}
	}
	if !strings.HasSuffix(path, "/") {
		all = append(all, path)
	}
	return all
}
