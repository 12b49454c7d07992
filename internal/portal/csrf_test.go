package portal_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/client"
)

// changes are all forms of the portal: what each of them needs to come to something.
func changes(job int64) map[string]url.Values {
	id := func(n int64) string { b, _ := json.Marshal(n); return string(b) }
	return map[string]url.Values{
		"/logout": {}, "/logout/everywhere": {}, "/device/confirm": {"code": {"BCDF-GHJK"}}, "/device/refuse": {"code": {"BCDF-GHJK"}}, "/sessions/1/keep": {"for": {"1h"}}, "/sessions/1/close": {},
		"/jobs": {"script": {"true"}}, "/jobs/" + id(job) + "/cancel": {},
		"/account/password":    {"old": {password}, "new": {"another password"}, "again": {"another password"}},
		"/account/keys":        {"key": {"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIH1Zs4b0ygJ0v9Q3n1a4oVxgGmLw0GmY8H3hKx7l5JfE x"}},
		"/account/keys/remove": {"fingerprint": {"x"}}, "/account/tokens": {"name": {"stolen"}, "expires": {"1d"}},
		"/account/tokens/x/revoke": {}, "/account/browsers/x/end": {},
		"/machines/batch-1/cordon": {}, "/machines/batch-1/uncordon": {}, "/machines/batch-1/drain": {}, "/people": {"name": {"mallory"}, "admin": {"yes"}},
	}
}

func TestNoOtherPageChangesAnything(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	b := w.login("grace")
	job, err := w.As("grace").Submit(t.Context(), api.SubmitRequest{JobSpec: dspool.JobSpec{Command: []string{"forever"}}})
	if err != nil {
		t.Fatal(err)
	}
	w.Running(job.ID, 1)
	state := func() string {
		var s strings.Builder
		see := func(v any, err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
			text, _ := json.Marshal(v)
			s.Write(text)
		}
		users, err := w.Users(t.Context())
		see(users.Items, err)
		jobs, err := w.Jobs(t.Context(), client.JobFilter{})
		see(jobs.Items, err)
		machine, err := w.Machine(t.Context(), "batch-1")
		see(machine.Cordoned, err)
		see(machine.DrainBy, err)
		return s.String()
	}
	before, token := state(), b.csrf("/account")
	other := w.login("grace").csrf("/account")
	ended := w.login("grace")
	old := ended.csrf("/account")
	ended.post("/logout", url.Values{"csrf": {old}})
	anothers := w.login("ada").csrf("/account")
	send := func(path string, form url.Values, csrf string, headers map[string]string) page {
		f := url.Values{}
		for k, v := range form {
			f[k] = v
		}
		if csrf != "" {
			f.Set("csrf", csrf)
		}
		r := b.request("POST", path, f)
		r.Header.Set("Origin", b.base)
		r.Header.Set("Sec-Fetch-Site", "same-origin")
		for k, v := range headers {
			r.Header.Del(k)
			if v != "" {
				r.Header.Set(k, v)
			}
		}
		return b.do(r)
	}
	host := strings.TrimPrefix(b.base, "https://")
	for path, form := range changes(job.ID) {
		for name, c := range map[string]struct {
			csrf    string
			headers map[string]string
		}{
			"without an origin":                  {token, map[string]string{"Origin": "", "Sec-Fetch-Site": ""}},
			"from nowhere":                       {token, map[string]string{"Origin": "null"}},
			"from another site":                  {token, map[string]string{"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}},
			"from another site that hides it":    {token, map[string]string{"Origin": "https://evil.example", "Sec-Fetch-Site": ""}},
			"from a notebook":                    {token, map[string]string{"Origin": "https://ada.hub." + host, "Sec-Fetch-Site": "same-site"}},
			"from a longer name":                 {token, map[string]string{"Origin": b.base + ".evil.example"}},
			"over plain http":                    {token, map[string]string{"Origin": "http://" + host}},
			"from another port":                  {token, map[string]string{"Origin": "https://127.0.0.1:1"}},
			"that the browser calls another's":   {token, map[string]string{"Sec-Fetch-Site": "same-site"}},
			"that somebody typed":                {token, map[string]string{"Sec-Fetch-Site": "none"}},
			"without a token":                    {"", nil},
			"with a token that is none":          {"x", nil},
			"with the token of another login":    {other, nil},
			"with the token of one that ended":   {old, nil},
			"with the token of another person":   {anothers, nil},
			"with the token of the login page":   {w.browser().csrf("/login"), nil},
			"with a foreign forwarded host name": {"x", map[string]string{"X-Forwarded-Host": "evil.example", "Origin": "https://evil.example"}},
		} {
			if p := send(path, form, c.csrf, c.headers); p.status != http.StatusForbidden {
				t.Errorf("%s %s: %d %s", path, name, p.status, p.to())
			}
		}
		for _, method := range []string{"GET", "HEAD", "PUT", "DELETE", "OPTIONS"} {
			r := b.request(method, path+"?"+form.Encode()+"&csrf="+token, nil)
			if p := b.do(r); method != "GET" && method != "HEAD" && p.status < 400 {
				t.Errorf("%s %s: %d %s", method, path, p.status, p.to())
			}
		}
	}
	if after := state(); after != before {
		t.Errorf("something changed:\n%s\n%s", before, after)
	}
	if p := b.get("/"); p.status != http.StatusOK {
		t.Errorf("the login has ended: %d", p.status)
	}
	if tokens, err := w.Tokens(t.Context(), "grace"); err != nil || strings.Contains(mustJSON(t, tokens), "stolen") {
		t.Errorf("%v %v", tokens, err)
	}
}

func mustJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestNobodyIsLoggedInByAnotherPage(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	b := w.browser()
	form := url.Values{"csrf": {b.csrf("/login")}, "user": {"ada"}, "password": {password}}
	for name, change := range map[string]func(*http.Request){
		"without an origin": func(r *http.Request) { r.Header.Del("Origin") },
		"from another site": func(r *http.Request) { r.Header.Set("Origin", "https://evil.example") },
		"from a notebook":   func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "same-site") },
		"with two origins":  func(r *http.Request) { r.Header.Add("Origin", "https://evil.example") },
		"from nobody's browser": func(r *http.Request) {
			r.Header.Del("Cookie")
			r.AddCookie(&http.Cookie{Name: "__Host-dspool-before", Value: "chosen"})
		},
	} {
		r := b.request("POST", "/login", form)
		r.Header.Set("Origin", b.base)
		change(r)
		if strings.Contains(name, "browser") {
			other := w.browser()
			if p := other.do(r); p.status != http.StatusForbidden || other.cookie() != nil {
				t.Errorf("%s: %d", name, p.status)
			}
			continue
		}
		if p := b.do(r); p.status != http.StatusForbidden || b.cookie() != nil {
			t.Errorf("%s: %d", name, p.status)
		}
	}
}

func TestThePortalsCookieAtTheAPI(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	b := w.login("ada")
	call := func(method, path, body string, headers map[string]string) page {
		r := b.request(method, path, nil)
		if body != "" {
			r.Body = io.NopCloser(strings.NewReader(body))
			r.ContentLength = int64(len(body))
			r.Header.Set("Content-Type", "application/json")
		}
		for k, v := range headers {
			r.Header.Set(k, v)
		}
		return b.do(r)
	}
	own := map[string]string{"Origin": b.base, "Sec-Fetch-Site": "same-origin"}
	t.Run("the portal's pages use it as who is logged in", func(t *testing.T) {
		if p := call("GET", "/api/v1/whoami", "", map[string]string{"Sec-Fetch-Site": "same-origin"}); p.status != http.StatusOK || !strings.Contains(p.body, `"user":"ada"`) {
			t.Errorf("%d %s", p.status, p.body)
		}
		if p := call("POST", "/api/v1/tokens", `{"name":"mine"}`, own); p.status != http.StatusCreated {
			t.Errorf("%d %s", p.status, p.body)
		}
		if p := call("POST", "/api/v1/users", `{"name":"mallory"}`, own); p.status != http.StatusForbidden {
			t.Errorf("%d %s", p.status, p.body)
		}
	})
	t.Run("other pages do not", func(t *testing.T) {
		for name, headers := range map[string]map[string]string{
			"nothing said":   {},
			"another origin": {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"},
			"a notebook":     {"Origin": "https://ada.hub.localhost", "Sec-Fetch-Site": "same-site"},
			"null":           {"Origin": "null"},
		} {
			if p := call("POST", "/api/v1/tokens", `{"name":"theirs"}`, headers); p.status != http.StatusUnauthorized {
				t.Errorf("%s: %d %s", name, p.status, p.body)
			}
			if p := call("DELETE", "/api/v1/tokens/x", "", headers); p.status != http.StatusUnauthorized {
				t.Errorf("%s: %d %s", name, p.status, p.body)
			}
			if len(headers) > 0 {
				if p := call("GET", "/api/v1/whoami", "", headers); p.status != http.StatusUnauthorized {
					t.Errorf("%s: %d %s", name, p.status, p.body)
				}
			}
		}
	})
	t.Run("a token counts, and the cookie beside it does not", func(t *testing.T) {
		token, err := w.AddToken(t.Context(), api.AddTokenRequest{User: "bob"})
		if err != nil {
			t.Fatal(err)
		}
		if p := call("GET", "/api/v1/whoami", "", map[string]string{"Authorization": "Bearer " + token.Secret}); !strings.Contains(p.body, "bob") {
			t.Errorf("%d %s", p.status, p.body)
		}
		if p := call("GET", "/api/v1/whoami", "", map[string]string{"Authorization": "Bearer wrong", "Sec-Fetch-Site": "same-origin"}); p.status != http.StatusUnauthorized {
			t.Errorf("%d %s", p.status, p.body)
		}
	})
	t.Run("a login that ends takes its streams along", func(t *testing.T) {
		r := b.request("GET", "/api/v1/events/stream?after=1", nil)
		r.Header.Set("Sec-Fetch-Site", "same-origin")
		res, err := b.http.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if res.StatusCode != http.StatusOK {
			t.Fatal(res.Status)
		}
		b.post("/logout", url.Values{"csrf": {b.csrf("/")}})
		_, _ = io.Copy(io.Discard, res.Body) // until it ends
	})
}

func TestNamesThatAreNotTheServers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	b := w.login("ada")
	for _, host := range []string{"evil.example", "evil.example:8000", "localhost.evil.example", "hub.localhost", "ada.hub.localhost", "127.0.0.1.evil.example", "0x7f000001.evil"} {
		for _, path := range []string{"/", "/login", "/assets/portal.css", "/live/home"} {
			r := b.request("GET", path, nil)
			r.Host = host
			if p := b.do(r); p.status != http.StatusMisdirectedRequest {
				t.Errorf("%s%s: %d", host, path, p.status)
			}
		}
		r := b.request("GET", "/api/v1/whoami", nil)
		r.Host = host
		r.Header.Set("Cookie", "dspool="+b.cookie().Value)
		if p := b.do(r); p.status != http.StatusUnauthorized {
			t.Errorf("%s: %d %s", host, p.status, p.body)
		}
	}
	r := b.request("GET", "/login", nil)
	r.Header.Set("X-Forwarded-Host", "evil.example")
	r.Header.Set("X-Forwarded-Proto", "https")
	if p := w.browser().do(r); p.status != http.StatusOK || strings.Contains(strings.Join(p.header.Values("Set-Cookie"), " "), "__Host-") || strings.Contains(p.body, "evil") {
		t.Errorf("%d %v", p.status, p.header)
	}
}
