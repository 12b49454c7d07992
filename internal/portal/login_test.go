package portal_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
)

func TestLogin(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	t.Run("the right password opens the page that was wanted", func(t *testing.T) {
		b := w.browser()
		p := b.get("/?x=1")
		if p.status != http.StatusSeeOther || p.to() != "/login?next=%2F%3Fx%3D1" {
			t.Fatalf("%d %s", p.status, p.to())
		}
		if p = b.tryLogin("ada", password, "/?x=1"); p.status != http.StatusSeeOther || p.to() != "/?x=1" {
			t.Fatalf("%d %s", p.status, p.to())
		}
		if p = b.get("/"); p.status != http.StatusOK || !strings.Contains(p.body, "ada") {
			t.Errorf("%d %s", p.status, p.body)
		}
	})
	t.Run("the cookie is the portal's alone, and new with every login", func(t *testing.T) {
		b := w.browser()
		b.setCookie(&http.Cookie{Name: "__Host-dspool", Value: "dsp_chosenbysomebodyelse"})
		p := b.tryLogin("ada", password, "")
		var set string
		for _, c := range p.header.Values("Set-Cookie") {
			if strings.HasPrefix(c, "__Host-dspool=") {
				set = c
			}
		}
		for _, part := range []string{"; Path=/;", "; HttpOnly", "; Secure", "; SameSite=Lax", "; Max-Age=604800"} {
			if !strings.Contains(set+";", part) {
				t.Errorf("%q lacks %q", set, part)
			}
		}
		if strings.Contains(set, "Domain") || strings.Contains(set, "chosenby") {
			t.Error(set)
		}
		if p := b.get("/login"); p.to() != "/" {
			t.Errorf("%d %s", p.status, p.to())
		}
	})
	t.Run("a login in the same browser ends the one before", func(t *testing.T) {
		b := w.browser()
		form := url.Values{"csrf": {b.csrf("/login")}, "user": {"ada"}, "password": {password}}
		before := b.cookieNamed("__Host-dspool-before")
		b.post("/login", form)
		first := b.cookie()
		b.setCookie(before)
		b.post("/login", form)
		second := b.cookie()
		if first.Value == second.Value {
			t.Error("the secret is the same")
		}
		old := w.browser()
		old.setCookie(first)
		if p := old.get("/"); p.status != http.StatusSeeOther {
			t.Errorf("the first login still counts: %d", p.status)
		}
	})
	t.Run("who is unknown and who errs get the same answer", func(t *testing.T) {
		texts := map[string]string{}
		for _, user := range []string{"ada", "nobody-here", "../etc", strings.Repeat("x", 2000), "", "jupyterhub"} {
			p := w.browser().tryLogin(user, "wrong password", "")
			if p.status != http.StatusForbidden {
				t.Errorf("%.20q: %d", user, p.status)
			}
			texts[csrfField.ReplaceAllString(valueField.ReplaceAllString(p.body, ""), "")] = user
		}
		if len(texts) != 1 {
			t.Errorf("%d different answers: %v", len(texts), texts)
		}
	})
	t.Run("a cookie of somebody who was removed, or one that is none, is nobody's", func(t *testing.T) {
		b := w.login("bob")
		if err := w.RemoveUser(t.Context(), "bob"); err != nil {
			t.Fatal(err)
		}
		if p := b.get("/"); p.status != http.StatusSeeOther {
			t.Errorf("%d", p.status)
		}
		w.addAgain("bob")
		if p := b.get("/"); p.status != http.StatusSeeOther {
			t.Errorf("another person of the same name: %d", p.status)
		}
		for _, v := range []string{"x", strings.Repeat("a", 5000), "dsp_"} {
			b.setCookie(&http.Cookie{Name: "__Host-dspool", Value: v})
			if p := b.get("/"); p.status != http.StatusSeeOther {
				t.Errorf("%d", p.status)
			}
		}
	})
	t.Run("logging out ends this login, logging out everywhere all", func(t *testing.T) {
		one, two, three := w.login("grace"), w.login("grace"), w.login("grace")
		cookie := one.cookie()
		if p := one.post("/logout", url.Values{"csrf": {one.csrf("/")}}); p.to() != "/login?out" || one.cookie() != nil {
			t.Errorf("%d %s", p.status, p.to())
		}
		one.setCookie(cookie)
		if p := one.get("/"); p.status != http.StatusSeeOther {
			t.Errorf("the cookie still counts: %d", p.status)
		}
		if p := two.get("/"); p.status != http.StatusOK {
			t.Errorf("%d", p.status)
		}
		two.post("/logout/everywhere", url.Values{"csrf": {two.csrf("/")}})
		if p := three.get("/"); p.status != http.StatusSeeOther {
			t.Errorf("%d", p.status)
		}
	})
	t.Run("the secret of a cookie is no token of the API", func(t *testing.T) {
		if _, err := w.WithToken(w.login("ada").cookie().Value).Whoami(t.Context()); err == nil {
			t.Error("it is")
		}
	})
}

func TestLoginLeadsNowhereElse(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	for _, next := range []string{
		"//evil.example", "/\\evil.example", "\\\\evil.example", "https://evil.example", "javascript:alert(1)", "/%2fevil.example", "/%5cevil.example",
		"/\t/evil.example", "/\n/evil.example", "///evil.example", "/.//evil.example", "/a/..//evil.example", "/%09/evil.example", "http:evil.example",
		" /x", "evil.example", "", "/%2e%2e//evil", "/x\r\nSet-Cookie: a=b", "@evil.example", "/" + strings.Repeat("a", 5000), "/%zz", "?next=//evil",
		"/login/../..//evil.example", "/\u2028/evil", "/%E2%80%A8",
	} {
		b := w.browser()
		if p := b.tryLogin("ada", password, next); p.to() != "/" {
			t.Errorf("%q leads to %q", next, p.to())
		}
		if p := b.get("/login?" + url.Values{"next": {next}}.Encode()); p.to() != "/" {
			t.Errorf("%q leads who is logged in to %q", next, p.to())
		}
	}
	for _, next := range []string{"/jobs/1", "/jobs?pool=a%20b&x=//y", "/oauth/authorize?redirect_uri=http%3A%2F%2Fhub.localhost"} {
		if p := w.browser().tryLogin("ada", password, next); p.to() != next {
			t.Errorf("%q leads to %q", next, p.to())
		}
	}
}

// JupyterHub sends people here who have logged out of it.
func TestLeavingIsAsked(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	if p := w.browser().get("/logout"); p.status != http.StatusSeeOther || p.to() != "/login" {
		t.Errorf("nobody: %d %s", p.status, p.to())
	}
	ada := w.login("ada")
	if p := ada.get("/logout"); p.status != http.StatusOK || !strings.Contains(p.body, `action="/logout/everywhere"`) {
		t.Errorf("ada: %d %s", p.status, p.body)
	}
	if p := ada.get("/"); p.status != http.StatusOK {
		t.Errorf("asking has logged her out: %d", p.status)
	}
}
