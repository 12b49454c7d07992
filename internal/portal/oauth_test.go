package portal_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/portal"
)

func TestJupyterHubLogsInByTheAuthorizationCode(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	ada := w.login("ada")
	t.Run("who is not logged in does so first, and comes back", func(t *testing.T) {
		b := w.browser()
		p := b.get(authorization(nil))
		u, err := url.Parse(p.to())
		if err != nil || u.Path != "/login" {
			t.Fatalf("%d %s", p.status, p.to())
		}
		if p = b.tryLogin("ada", password, u.Query().Get("next")); p.to() != authorization(nil) {
			t.Errorf("%d %s", p.status, p.to())
		}
	})
	t.Run("the login page lets its form lead on to JupyterHub, and to nothing else", func(t *testing.T) {
		if csp := w.browser().get("/login").header.Get("Content-Security-Policy"); !strings.Contains(csp, "form-action 'self' "+hub+" http://*.hub.localhost:8000;") {
			t.Error(csp)
		}
	})
	t.Run("the code leads to the callback with the state, and trades for who somebody is", func(t *testing.T) {
		u, err := url.Parse(ada.get(authorization(nil)).to())
		if err != nil || !strings.HasPrefix(u.String(), hub+"/hub/oauth_callback?") || u.Query().Get("state") != "the state" {
			t.Fatal(u)
		}
		p, a := w.trade(u.Query().Get("code"), nil)
		if p.status != http.StatusOK || a["token_type"] != "Bearer" || p.header.Get("Cache-Control") != "no-store" || a["expires_in"].(float64) < 3600 {
			t.Errorf("%d %v", p.status, a)
		}
		status, who := w.userinfo(a["access_token"].(string))
		if status != http.StatusOK || who["name"] != "ada" || who["admin"] != false || who["uid"].(float64) < 1000 || who["groups"] == nil {
			t.Errorf("%d %v", status, who)
		}
		if _, who := w.userinfo(w.accessToken(w.login("grace"))); who["admin"] != true {
			t.Error(who)
		}
	})
	t.Run("the secret may stand in the form instead", func(t *testing.T) {
		p, _ := w.trade(ada.code(), func(r *http.Request, f url.Values) {
			r.Header.Del("Authorization")
			f.Set("client_id", clientID)
			f.Set("client_secret", secret)
		})
		if p.status != http.StatusOK {
			t.Errorf("%d %s", p.status, p.body)
		}
	})
}

func TestAuthorizationRequestsThatAreNotJupyterHubs(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	ada := w.login("ada")
	for name, change := range map[string]func(url.Values){
		"another client":             func(q url.Values) { q.Set("client_id", "other") },
		"no client":                  func(q url.Values) { q.Del("client_id") },
		"two clients":                func(q url.Values) { q.Add("client_id", clientID) },
		"another place":              func(q url.Values) { q.Set("redirect_uri", "http://evil.example/hub/oauth_callback") },
		"a place below the callback": func(q url.Values) { q.Set("redirect_uri", hub+"/hub/oauth_callback/../x") },
		"a longer host":              func(q url.Values) { q.Set("redirect_uri", hub+".evil.example/hub/oauth_callback") },
		"the callback with a query":  func(q url.Values) { q.Set("redirect_uri", hub+"/hub/oauth_callback?x=1") },
		"two places":                 func(q url.Values) { q.Add("redirect_uri", "http://evil.example") },
		"no place":                   func(q url.Values) { q.Del("redirect_uri") },
	} {
		t.Run(name+" is shown an error, and led nowhere", func(t *testing.T) {
			if p := ada.get(authorization(change)); p.status != http.StatusBadRequest || p.to() != "" {
				t.Errorf("%d %s", p.status, p.to())
			}
		})
	}
	for name, change := range map[string]func(url.Values){
		"unsupported_response_type": func(q url.Values) { q.Set("response_type", "token") },
		"invalid_request":           func(q url.Values) { q.Set("code_challenge_method", "plain") },
		"invalid_request ":          func(q url.Values) { q.Del("code_challenge") },
		"invalid_request  ":         func(q url.Values) { q.Add("scope", "a"); q.Add("scope", "b") },
	} {
		t.Run("the client is told "+name, func(t *testing.T) {
			u, _ := url.Parse(ada.get(authorization(change)).to())
			if u.Query().Get("error") != strings.TrimSpace(name) || u.Query().Get("state") != "the state" || u.Query().Has("code") {
				t.Error(u)
			}
		})
	}
	t.Run("without a JupyterHub there is no client", func(t *testing.T) {
		w.change(func(s *portal.Settings) { s.Hub = "" })
		defer w.change(func(s *portal.Settings) { s.Hub = hub })
		if p := ada.get(authorization(func(q url.Values) { q.Set("redirect_uri", "/hub/oauth_callback") })); p.status != http.StatusBadRequest {
			t.Errorf("%d %s", p.status, p.to())
		}
	})
	t.Run("only GET asks for a code", func(t *testing.T) {
		if p := ada.post("/oauth/authorize", url.Values{}); p.status == http.StatusSeeOther || p.status == http.StatusOK {
			t.Errorf("%d %s", p.status, p.to())
		}
	})
}

func TestCodesThatDoNotTrade(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	ada := w.login("ada")
	for name, c := range map[string]struct {
		status int
		code   string
		change func(*http.Request, url.Values)
	}{
		"without the secret": {401, "invalid_client", func(r *http.Request, _ url.Values) { r.Header.Del("Authorization") }},
		"with another":       {401, "invalid_client", func(r *http.Request, _ url.Values) { r.SetBasicAuth(clientID, "other") }},
		"with an empty one":  {401, "invalid_client", func(r *http.Request, _ url.Values) { r.SetBasicAuth(clientID, "") }},
		"of another client":  {401, "invalid_client", func(r *http.Request, _ url.Values) { r.SetBasicAuth("other", secret) }},
		"with two secrets":   {401, "invalid_client", func(_ *http.Request, f url.Values) { f.Set("client_secret", secret) }},
		"of another grant":   {400, "unsupported_grant_type", func(_ *http.Request, f url.Values) { f.Set("grant_type", "password") }},
		"without verifier":   {400, "invalid_grant", func(_ *http.Request, f url.Values) { f.Del("code_verifier") }},
		"another verifier":   {400, "invalid_grant", func(_ *http.Request, f url.Values) { f.Set("code_verifier", verifier+"x") }},
		"for another place":  {400, "invalid_grant", func(_ *http.Request, f url.Values) { f.Set("redirect_uri", hub+"/other") }},
		"an unknown code":    {400, "invalid_grant", func(_ *http.Request, f url.Values) { f.Set("code", "unknown") }},
		"no code":            {400, "invalid_grant", func(_ *http.Request, f url.Values) { f.Del("code") }},
		"two codes":          {400, "invalid_request", func(_ *http.Request, f url.Values) { f.Add("code", "another") }},
	} {
		t.Run(name, func(t *testing.T) {
			p, a := w.trade(ada.code(), c.change)
			if p.status != c.status || a["error"] != c.code || strings.Contains(p.body, secret) {
				t.Errorf("%d %s", p.status, p.body)
			}
			if c.status == 401 && p.header.Get("WWW-Authenticate") == "" {
				t.Error("no WWW-Authenticate")
			}
		})
	}
	t.Run("a wrong verifier uses the code up", func(t *testing.T) {
		b := w.login("ada")
		code := b.code()
		w.trade(code, func(_ *http.Request, f url.Values) { f.Set("code_verifier", verifier+"x") })
		if p, _ := w.trade(code, nil); p.status != http.StatusBadRequest {
			t.Errorf("%d", p.status)
		}
	})
	t.Run("a code shown twice ends the login and its tokens", func(t *testing.T) {
		b := w.login("ada")
		code := b.code()
		_, a := w.trade(code, nil)
		if p, a := w.trade(code, nil); p.status != http.StatusBadRequest || a["error"] != "invalid_grant" {
			t.Errorf("%d %v", p.status, a)
		}
		if status, _ := w.userinfo(a["access_token"].(string)); status != http.StatusUnauthorized {
			t.Errorf("the token still counts: %d", status)
		}
		if p := b.get("/"); p.status != http.StatusSeeOther {
			t.Errorf("the login still counts: %d", p.status)
		}
	})
	t.Run("of a login that has ended", func(t *testing.T) {
		b := w.login("ada")
		code := b.code()
		b.post("/logout", url.Values{"csrf": {b.csrf("/")}})
		if p, _ := w.trade(code, nil); p.status != http.StatusBadRequest {
			t.Errorf("%d", p.status)
		}
	})
}

func TestAccessTokensEndWithWhatTheyCameFrom(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	refused := func(t *testing.T, token string) {
		t.Helper()
		if status, a := w.userinfo(token); status != http.StatusUnauthorized || a["error"] == nil || a["name"] != nil {
			t.Errorf("%d %v", status, a)
		}
	}
	t.Run("a restart of the server ends none", func(t *testing.T) {
		token := w.accessToken(w.login("ada"))
		w.Restart()
		w.swap(w.portal().Handler())
		if status, who := w.userinfo(token); status != http.StatusOK || who["name"] != "ada" {
			t.Errorf("%d %v", status, who)
		}
	})
	t.Run("logging out does", func(t *testing.T) {
		b := w.login("ada")
		token := w.accessToken(b)
		b.post("/logout", url.Values{"csrf": {b.csrf("/")}})
		refused(t, token)
	})
	t.Run("other rights do", func(t *testing.T) {
		token, yes, no := w.accessToken(w.login("bob")), true, false
		if _, err := w.ChangeUser(t.Context(), "bob", api.ChangeUserRequest{Admin: &yes}); err != nil {
			t.Fatal(err)
		}
		refused(t, token)
		if _, err := w.ChangeUser(t.Context(), "bob", api.ChangeUserRequest{Admin: &no}); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("the account's end does, also when its name is given again", func(t *testing.T) {
		token := w.accessToken(w.login("bob"))
		if err := w.RemoveUser(t.Context(), "bob"); err != nil {
			t.Fatal(err)
		}
		refused(t, token)
		w.addAgain("bob")
		refused(t, token)
	})
	t.Run("forged and foreign ones are none", func(t *testing.T) {
		token := w.accessToken(w.login("ada"))
		body, mac, _ := strings.Cut(token, ".")
		other := w.accessToken(w.login("grace"))
		otherBody, _, _ := strings.Cut(other, ".")
		for _, bad := range []string{"", "x", body, body + ".", "." + mac, otherBody + "." + mac, token + "x", strings.Repeat("a", 9000), w.login("ada").cookie().Value} {
			refused(t, bad)
		}
	})
}
