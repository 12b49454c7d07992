package webdoor_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/dspool/dspool/internal/webdoor"
)

func TestTheLongestPrefixWins(t *testing.T) {
	t.Parallel()
	w := newWorld(t, webdoor.Options{})
	for name, path := range map[string]string{"root": "/", "one": "/1", "deep": "/a/b/c/d", "b": "/b", "bc": "/b/c", "bcd": "/b/c/d", "mail": "/b@r/b r", "umlaut": "/ü"} {
		w.echoing(name)
		w.route(path, "http://"+name)
	}
	for target, want := range map[string]string{
		"/": "root", "/nobody": "root", "/1": "one", "/1/": "one", "/1/etc/etc/": "one", "/10": "root",
		"/a": "root", "/a/b/c": "root", "/a/b/c/d": "deep", "/a/b/c/d/e/f": "deep",
		"/b": "b", "/b/just": "b", "/b/c/d/word": "bcd", "/b/c/dword": "bc", "/b/c?d=/b/c/d": "bc",
		"/b%40r/b%20r/rest": "mail", "/b@r/b%20r": "mail", "/%C3%BC/x": "umlaut", "/b%2ec": "root", "/%62/x": "b",
	} {
		if got := w.get(target).echo(t); got.Name != want || got.Target != target {
			t.Errorf("%s came to %s as %s; want %s", target, got.Name, got.Target, want)
		}
	}
}

func TestARemovedRouteUncoversWhatIsAboveIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t, webdoor.Options{})
	for name, path := range map[string]string{"root": "/", "b": "/b", "bc": "/b/c"} {
		w.echoing(name)
		w.route(path, "http://"+name)
	}
	expect := func(target, want string) {
		t.Helper()
		if got := w.get(target).echo(t).Name; got != want {
			t.Errorf("%s came to %s, want %s", target, got, want)
		}
	}
	for _, step := range []struct{ remove, target, want string }{
		{"/b/", "/b/x", "root"}, {"", "/b/c/x", "bc"}, {"/b/c", "/b/c/x", "root"},
	} {
		if step.remove != "" {
			if found, err := w.door.Remove(step.remove); !found || err != nil {
				t.Fatalf("remove %s: %v, %v", step.remove, found, err)
			}
		}
		expect(step.target, step.want)
	}
	w.door.Remove("/")
	if a := w.get("/b"); a.StatusCode != http.StatusNotFound {
		t.Errorf("without routes: %d", a.StatusCode)
	}
}

func TestWhatIsAskedFor(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		o                    webdoor.Options
		target, asked, query string
	}{
		"the target's path comes first":                   {target: "/bar/rest/of/it", asked: "/foo/bar/rest/of/it"},
		"a query stays":                                   {target: "/bar?query=foo", asked: "/foo/bar?query=foo"},
		"the target's query comes first":                  {target: "/bar?b=2", query: "?a=1", asked: "/foo/bar?a=1&b=2"},
		"escapes stay":                                    {target: "/bar/b%40r/b%20r", asked: "/foo/bar/b%40r/b%20r"},
		"the target's path can be left out":               {o: webdoor.Options{DropTargetPath: true}, target: "/bar/rest", asked: "/bar/rest"},
		"the route's path can be left out":                {o: webdoor.Options{DropPrefix: true}, target: "/bar/rest/of/it", asked: "/foo/rest/of/it"},
		"the route's path can be left out of its own end": {o: webdoor.Options{DropPrefix: true}, target: "/bar", asked: "/foo/"},
		"both can be left out":                            {o: webdoor.Options{DropPrefix: true, DropTargetPath: true}, target: "/bar/rest?x", asked: "/rest?x"},
		"what has no place in a path is escaped":          {target: "/bar/a#b\"<>^`\xff", asked: "/foo/bar/a%23b%22%3C%3E%5E%60%FF"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, c.o)
			w.echoing("up")
			w.route("/bar", "http://up/foo"+c.query)
			got := w.says("GET " + c.target + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
			if want := `"Target":` + strings.ReplaceAll(quoted(c.asked), "&", `\u0026`); !strings.Contains(got, want) {
				t.Errorf("asked %s, want %s", got, want)
			}
		})
	}
}

func quoted(s string) string { return `"` + s + `"` }

func TestHostRouting(t *testing.T) {
	t.Parallel()
	w := newWorld(t, webdoor.Options{HostRouting: true})
	for name, path := range map[string]string{"hub": "/hub.localhost", "ada": "/ada.hub.localhost/user/ada", "bob": "/Bob.hub.localhost/user/bob/"} {
		w.echoing(name)
		w.route(path, "http://"+name)
	}
	for name, c := range map[string]struct{ host, target, want string }{
		"by host":                              {"hub.localhost", "/hub/login", "hub"},
		"by host and path":                     {"ada.hub.localhost", "/user/ada/lab", "ada"},
		"the port does not count":              {"hub.localhost:8000", "/", "hub"},
		"case does not count":                  {"HUB.Localhost", "/", "hub"},
		"nor does the case of a route's host":  {"bob.hub.localhost", "/user/bob", "bob"},
		"nor does the root's dot":              {"hub.localhost.", "/", "hub"},
		"a host's path is only that host's":    {"hub.localhost", "/user/ada", "hub"},
		"another path of a host leads nowhere": {"ada.hub.localhost", "/hub/", ""},
		"a stranger's host leads nowhere":      {"evil.example", "/user/ada", ""},
		"a host in the path is none":           {"evil.example", "/hub.localhost/", ""},
		"a host above is none":                 {"localhost", "/", ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := w.request("GET", c.target, "")
			r.Host = c.host
			a := w.do(r)
			if c.want == "" {
				if a.StatusCode != http.StatusNotFound {
					t.Fatalf("%d %s", a.StatusCode, a.body)
				}
				return
			}
			if got := a.echo(t); got.Name != c.want || got.Host != c.host {
				t.Fatalf("came to %s as %s", got.Name, got.Host)
			}
		})
	}
}

// Whatever a program behind the door makes of a path, it cannot be a path of another route.
func TestAnEncodedPathNeverCrossesRoutes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, webdoor.Options{})
	for name, path := range map[string]string{"hub": "/", "ada": "/user/ada", "bob": "/user/bob"} {
		w.echoing(name)
		w.route(path, "http://"+name)
	}
	for _, target := range []string{
		"/user/ada/../bob", "/user/ada/%2e%2e/bob", "/user/ada/%2e%2e%2fbob", "/user/ada/..%2fbob", "/user/ada/..%2Fbob/",
		"/user/ada/%252e%252e/bob", "/user/ada/%252e%252e%252fbob", "/user/ada/%25252e%25252e%25252fbob",
		`/user/ada/..\bob`, "/user/ada/..%5cbob", `/user\ada/x`, "/user%5Cada/x", "/user%255cada/x",
		"/user/ada/..;/bob", "/user/ada/..;x=y/bob", "/user;a/ada", "/user;/bob", "/user/ada;x/lab", "/user/bob%3bx",
		"/user%2fada/lab", "/user%252fbob", "//user//ada", "/user//bob/x", "/user/./ada", "/user/%2e/bob",
		"/hub/../user/ada", "/hub/%2e%2e/user/ada/lab", "/user/ada/../../hub", "/user/ada/../..", "/%2e%2e/user/ada/../bob",
	} {
		if a := w.get(target); a.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %d %s", target, a.StatusCode, a.body)
		}
	}
	for target, want := range map[string]string{
		"/user/ada/files/a%2Fb": "ada", "/user/ada/lab/tree/x/../y": "ada", "/user/ada/a;b=c/d": "ada", "/user/ada//double": "ada",
		"/user/ada/%E4%BD%A0": "ada", "/user/ada/100%25": "ada", "/user/ada/%25zz": "ada", "/user/ada/.hidden": "ada",
		"/user/ada/...": "ada", "/hub/..": "hub", "/hub/login;x": "hub", "//hub": "hub", `/hub/a%5Cb`: "hub", "/user/ada/%00": "ada",
	} {
		if got := w.get(target).echo(t); got.Name != want || got.Target != target {
			t.Errorf("%s came to %s as %s", target, got.Name, got.Target)
		}
	}
}

func TestACraftedHostNeverCrossesRoutes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, webdoor.Options{HostRouting: true})
	for name, path := range map[string]string{"ada": "/ada.hub.localhost/user/ada", "bob": "/bob.hub.localhost/user/bob"} {
		w.echoing(name)
		w.route(path, "http://"+name)
	}
	const ada = "GET /user/ada/ HTTP/1.1\r\nHost: ada.hub.localhost\r\nConnection: close\r\n"
	for name, text := range map[string]string{
		"X-Forwarded-Host":  ada + "X-Forwarded-Host: bob.hub.localhost\r\n\r\n",
		"X-Host":            ada + "X-Host: bob.hub.localhost\r\n\r\n",
		"Forwarded":         ada + "Forwarded: host=bob.hub.localhost\r\n\r\n",
		"X-Original-URL":    ada + "X-Original-URL: /user/bob\r\nX-Rewrite-URL: /user/bob\r\n\r\n",
		"an absolute form":  "GET http://ada.hub.localhost/user/ada/ HTTP/1.1\r\nHost: bob.hub.localhost\r\nConnection: close\r\n\r\n",
		"a hop's host":      ada + "Connection: close, Host\r\n\r\n",
		"a port and a name": strings.Replace(ada, "localhost", "localhost:80", 1) + "\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			got := w.says(text)
			if !strings.Contains(got, `"Name":"ada"`) || strings.Contains(strings.ToLower(got), "bob") {
				t.Error(got)
			}
		})
	}
	for name, text := range map[string]string{
		"two hosts":          ada + "Host: bob.hub.localhost\r\n\r\n",
		"two names":          "GET /user/bob HTTP/1.1\r\nHost: ada.hub.localhost, bob.hub.localhost\r\nConnection: close\r\n\r\n",
		"an escaped name":    "GET /user/bob HTTP/1.1\r\nHost: bob%2ehub.localhost\r\nConnection: close\r\n\r\n",
		"a path in the name": "GET / HTTP/1.1\r\nHost: bob.hub.localhost/user/bob\r\nConnection: close\r\n\r\n",
		"a user in the name": "GET /user/bob HTTP/1.1\r\nHost: x@bob.hub.localhost\r\nConnection: close\r\n\r\n",
		"no host":            "GET /user/bob HTTP/1.0\r\n\r\n",
		"two hosts by case":  ada + "hOST: bob.hub.localhost\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			got := w.says(text)
			if !strings.HasPrefix(got, "HTTP/1.1 400 ") && !strings.HasPrefix(got, "HTTP/1.1 404 ") && !strings.HasPrefix(got, "HTTP/1.0 404 ") {
				t.Error(got)
			}
		})
	}
}

func TestARouteThatLeadsNowhereIsNeverDialled(t *testing.T) {
	t.Parallel()
	w := newWorld(t, webdoor.Options{})
	up := w.echoing("ada")
	w.route("/user/ada", "http://ada")
	for _, target := range []string{
		"http://169.254.169.254/latest", "http://127.0.0.1:8443", "http+unix://%2Frun%2Fdspool.sock", "file:///etc/passwd", "http://", "ada",
	} {
		a := w.call("POST", "/api/routes/user/eve", `{"target":"`+target+`"}`, "token "+token)
		if a.StatusCode != http.StatusBadRequest || a.body == "" {
			t.Errorf("%s: %d %q", target, a.StatusCode, a.body)
		}
	}
	if a := w.get("/user/eve"); a.StatusCode != http.StatusNotFound {
		t.Errorf("a refused route answers %d", a.StatusCode)
	}
	if a := w.get("/user/ada"); a.StatusCode != http.StatusOK {
		t.Errorf("a good route answers %d", a.StatusCode)
	}
	w.mu.Lock()
	delete(w.upstreams, "ada")
	w.mu.Unlock()
	seen := make(chan struct{}, 1)
	up.Config.Handler = http.HandlerFunc(func(http.ResponseWriter, *http.Request) { seen <- struct{}{} })
	if a := w.get("/user/ada"); a.StatusCode != http.StatusBadGateway {
		t.Errorf("a route that has gone bad answers %d", a.StatusCode)
	}
	select {
	case <-seen:
		t.Error("the upstream was asked")
	default:
	}
}

func TestAServiceThatMovesIsFollowed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, webdoor.Options{})
	w.echoing("before")
	w.echoing("after")
	w.move("ada", w.upstreams["before"])
	w.route("/user/ada", "http://ada")
	if got := w.get("/user/ada").echo(t).Name; got != "before" {
		t.Fatal(got)
	}
	w.move("ada", w.upstreams["after"])
	if got := w.get("/user/ada").echo(t).Name; got != "after" {
		t.Fatal(got)
	}
}

func TestAConnectionOfOneTargetNeverServesAnother(t *testing.T) {
	t.Parallel()
	w := newWorld(t, webdoor.Options{Resolve: nil})
	// Ada's program has ended, but a child of it keeps the connection that it had; Bob's has the port now.
	conns := make(chan string, 2)
	w.upstream("ada", func(rw http.ResponseWriter, r *http.Request) { conns <- r.RemoteAddr })
	w.move("bob", w.upstreams["ada"])
	w.route("/user/ada", "http://ada")
	w.route("/user/bob", "http://bob")
	w.get("/user/ada")
	w.get("/user/bob")
	if a, b := within(t, "ada's request", conns), within(t, "bob's request", conns); a == b {
		t.Error("Bob's request went over Ada's connection")
	}
}
