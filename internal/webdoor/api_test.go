package webdoor_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/dspool/dspool/internal/webdoor"
)

const auth = "token " + token

func TestTheAPIAnswersAsConfigurableHTTPProxy(t *testing.T) {
	t.Parallel()
	w := newWorld(t, webdoor.Options{Resolve: webdoor.Direct})
	good := `{"target":"http://127.0.0.1:1","user":"ada"}`
	for _, c := range []struct {
		claim, method, path, body, auth string
		code                            int
		says, kind                      string
	}{
		{"no routes", "GET", "/api/routes", "", auth, 200, "{}", "application/json"},
		{"a missing route", "GET", "/api/routes/path", "", auth, 404, "", ""},
		{"a missing route cannot be deleted", "DELETE", "/api/routes/path", "", auth, 404, "", ""},
		{"a route is made", "POST", "/api/routes/user/foo", good, auth, 201, "", ""},
		{"and made again", "POST", "/api/routes/user/foo/", good, auth, 201, "", ""},
		{"the token stands after its name", "GET", "/api/routes/nope", "", "Token token  " + token, 404, "", ""},
		{"no token", "GET", "/api/routes", "", "", 403, "", ""},
		{"a wrong token", "GET", "/api/routes", "", "token x", 403, "", ""},
		{"a part of the token", "GET", "/api/routes", "", auth[:len(auth)-1], 403, "", ""},
		{"another scheme", "GET", "/api/routes", "", "Bearer " + token, 403, "", ""},
		{"no token, and a body", "POST", "/api/routes/x", good, "", 403, "", ""},
		{"a body that is no JSON", "POST", "/api/routes/x", "{", auth, 400, "Body not valid JSON: unexpected end of JSON input", ""},
		{"no body", "POST", "/api/routes/x", "", auth, 400, "Body not valid JSON: unexpected end of JSON input", ""},
		{"no target", "POST", "/api/routes/x", "{}", auth, 400, "Must specify 'target' as string", ""},
		{"null", "POST", "/api/routes/x", "null", auth, 400, "Must specify 'target' as string", ""},
		{"a list", "POST", "/api/routes/x", "[]", auth, 400, "Must specify 'target' as string", ""},
		{"a word", "POST", "/api/routes/x", `"http://127.0.0.1"`, auth, 400, "Must specify 'target' as string", ""},
		{"a number for a target", "POST", "/api/routes/x", `{"target":1}`, auth, 400, "Must specify 'target' as string", ""},
		{"null for a target", "POST", "/api/routes/x", `{"target":null}`, auth, 400, "Must specify 'target' as string", ""},
		{"a bad date", "GET", "/api/routes?inactive_since=endoftheuniverse", "", auth, 400, "Invalid datestamp 'endoftheuniverse' must be ISO8601.", ""},
		{"a bad date, as it is spelled now", "GET", "/api/routes?inactiveSince=2020-13-01", "", auth, 400, "Invalid datestamp '2020-13-01' must be ISO8601.", ""},
		{"another method", "PUT", "/api/routes/x", good, auth, 405, "Method not supported", ""},
		{"another path", "GET", "/api/other", "", auth, 404, "Not Found", ""},
		{"a path that only begins so", "GET", "/api/routesx", "", auth, 404, "Not Found", ""},
		{"a route is deleted", "DELETE", "/api/routes/user/foo", "", auth, 204, "", ""},
		{"and is gone", "GET", "/api/routes/user/foo", "", auth, 404, "", ""},
	} {
		a := w.call(c.method, c.path, c.body, c.auth)
		if a.StatusCode != c.code || a.body != c.says || a.Header.Get("Content-Type") != c.kind {
			t.Errorf("%s: %d %q %q, want %d %q %q", c.claim, a.StatusCode, a.body, a.Header.Get("Content-Type"), c.code, c.says, c.kind)
		}
	}
}

func TestARouteTellsWhatWasSaidOfIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t, webdoor.Options{Resolve: webdoor.Direct})
	before := time.Now().Truncate(time.Millisecond)
	w.call("POST", "/api/routes/user/foo%40bar%20x", `{ "target": "http://127.0.0.1:8998", "jupyterhub": true, "n": [1, {"b": "é"}], "last_activity": "1999", "target": "http://127.0.0.1:9" }`, auth)
	for _, path := range []string{"/api/routes/user/foo%40bar%20x", "/api/routes/user/foo@bar%20x/"} {
		a := w.call("GET", path, "", auth)
		var got struct {
			Target   string    `json:"target"`
			Hub      bool      `json:"jupyterhub"`
			Activity time.Time `json:"last_activity"`
		}
		if err := json.Unmarshal([]byte(a.body), &got); err != nil {
			t.Fatalf("%s: %v", a.body, err)
		}
		if got.Target != "http://127.0.0.1:9" || !got.Hub || got.Activity.Before(before) || !strings.HasPrefix(a.body, `{"target":"http://127.0.0.1:9","jupyterhub":true,"n":[1,{"b":"é"}],"last_activity":"2`) || !strings.HasSuffix(a.body, `Z"}`) {
			t.Errorf("%s: %s", path, a.body)
		}
	}
	var all map[string]json.RawMessage
	if a := w.call("GET", "/api/routes", "", auth); json.Unmarshal([]byte(a.body), &all) != nil || len(all) != 1 || all["/user/foo@bar x"] == nil {
		t.Errorf("%s", a.body)
	}
}

func TestTheRootRouteIsMadeWithoutAPath(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"/api/routes", "/api/routes/"} {
		w := newWorld(t, webdoor.Options{})
		w.echoing("hub")
		if a := w.call("POST", path, `{"target":"http://hub"}`, auth); a.StatusCode != 201 {
			t.Fatal(a.StatusCode, a.body)
		}
		if got := w.get("/any/random/url").echo(t); got.Name != "hub" {
			t.Fatal(got)
		}
		if a := w.call("DELETE", path, "", auth); a.StatusCode != 204 {
			t.Fatal(a.StatusCode)
		}
	}
}

func TestAHostIsToldWithHostRouting(t *testing.T) {
	t.Parallel()
	w := newWorld(t, webdoor.Options{Resolve: webdoor.Direct, HostRouting: true})
	w.call("POST", "/api/routes/hub.localhost", `{"target":"http://127.0.0.1:1","host":"elsewhere"}`, auth)
	w.call("POST", "/api/routes", `{"target":"http://127.0.0.1:1"}`, auth)
	a := w.call("GET", "/api/routes", "", auth)
	if strings.Count(a.body, `"host"`) != 1 || !strings.Contains(a.body, `"host":"hub.localhost"`) {
		t.Error(a.body)
	}
}

func TestRoutesThatCouldNotBeReachedOneWayAreRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, webdoor.Options{Resolve: webdoor.Direct})
	for _, path := range []string{
		"/user/ada/..", "/user/userb/..%2f..", "/user/%2e%2e/bob", "/a/./b", "/a%3bb", "/a%5cb", "/100%25", "/a%00b", "/a%0ab", "/%ff", "/" + strings.Repeat("x", 5000),
	} {
		a := w.call("POST", "/api/routes"+path, `{"target":"http://127.0.0.1:1"}`, auth)
		if a.StatusCode != http.StatusBadRequest || !strings.HasPrefix(a.body, "the route ") || len(a.body) > 1000 {
			t.Errorf("%.20s: %d %q", path, a.StatusCode, a.body)
		}
	}
	if routes := w.door.Routes(); len(routes) != 0 {
		t.Error(routes)
	}
}

func TestABodyHasALimit(t *testing.T) {
	t.Parallel()
	w := newWorld(t, webdoor.Options{Resolve: webdoor.Direct})
	a := w.call("POST", "/api/routes/x", `{"target":"http://127.0.0.1:1","x":"`+strings.Repeat("x", 2<<20)+`"}`, auth)
	if a.StatusCode != http.StatusRequestEntityTooLarge {
		t.Error(a.StatusCode)
	}
}

func TestInactiveRoutesCanBeListed(t *testing.T) {
	t.Parallel()
	// Routes that another door hands over were last used when it says.
	now := time.Now().Truncate(time.Second)
	inherit := fmt.Sprintf(`[{"path":"/yesterday","data":{"target":"http://x"},"active":%d},{"path":"/today","data":{"target":"http://x"},"active":%d}]`,
		now.Add(-24*time.Hour).UnixMilli(), now.UnixMilli())
	w := newWorld(t, webdoor.Options{Inherit: []byte(inherit)})
	for _, c := range []struct {
		name, since string
		want        int
	}{
		{"long ago", "1970-01-01T00:00:00.001Z", 0},
		{"an hour ago", now.Add(-time.Hour).UTC().Format("2006-01-02T15:04:05.000Z"), 1},
		{"an hour ago, in another zone", now.Add(-time.Hour).In(time.FixedZone("", 3600)).Format("2006-01-02T15:04:05.999999-07:00"), 1},
		{"an hour ago, without a zone", now.Add(-time.Hour).UTC().Format("2006-01-02T15:04:05"), 1},
		{"the future", now.Add(48 * time.Hour).UTC().Format("2006-01-02"), 2},
		{"that very moment", now.UTC().Format(time.RFC3339), 1},
		{"never", "", 2},
	} {
		for _, name := range []string{"inactiveSince", "inactive_since"} {
			a := w.call("GET", "/api/routes?"+name+"="+strings.ReplaceAll(c.since, "+", "%2B"), "", auth)
			var got map[string]any
			if err := json.Unmarshal([]byte(a.body), &got); err != nil || len(got) != c.want {
				t.Errorf("%s: %d %s", c.name, a.StatusCode, a.body)
			}
			if c.want == 1 && got["/yesterday"] == nil {
				t.Errorf("%s: %s", c.name, a.body)
			}
		}
	}
}

func TestTheDoorAnswersForItsHealth(t *testing.T) {
	t.Parallel()
	w := newWorld(t, webdoor.Options{})
	if a := w.get("/_chp_healthz"); a.StatusCode != 200 || a.body != `{"status":"OK"}` || a.Header.Get("Content-Type") != "application/json" {
		t.Error(a.StatusCode, a.body)
	}
}
