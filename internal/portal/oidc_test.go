package portal_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/portal"
)

func TestLoginAtARealProvider(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	d := w.withDex(true)
	d.person("carol@example.org", "1", "carol", "true")
	t.Run("the first login makes the account, the next finds it, and it leads where it was to", func(t *testing.T) {
		for _, next := range []string{"/?a=1", "/?b=2"} {
			b := w.browser()
			if p := b.get(b.atProvider("carol@example.org", next)); p.status != http.StatusSeeOther || p.to() != next {
				t.Fatalf("%d %s %s", p.status, p.to(), p.body)
			}
			if p := b.get("/"); p.status != http.StatusOK || !strings.Contains(p.body, "carol") {
				t.Errorf("%d %s", p.status, p.body)
			}
		}
		u, err := w.User(t.Context(), "carol")
		if err != nil || u.Admin || u.HasPassword {
			t.Errorf("%+v, %v", u, err)
		}
	})
	t.Run("keys that have changed meanwhile are read anew", func(t *testing.T) {
		for range 2 {
			d.rotate()
			b := w.browser()
			if p := b.get(b.atProvider("carol@example.org", "/")); p.to() != "/" {
				t.Fatalf("%d %s", p.status, p.body)
			}
		}
	})
	t.Run("an address that was used does nothing again, in this browser or another", func(t *testing.T) {
		b := w.browser()
		back := b.atProvider("carol@example.org", "/")
		trip := b.cookieNamed("dspool-foreign")
		if p := b.get(back); p.to() != "/" {
			t.Fatalf("%d %s", p.status, p.body)
		}
		for _, again := range []*browser{b, w.browser()} {
			again.setCookie(trip)
			if p := again.get(back); p.status != http.StatusForbidden {
				t.Errorf("%d %s", p.status, p.to())
			}
			if p := again.get(back); p.status != http.StatusForbidden {
				t.Errorf("%d %s", p.status, p.to())
			}
		}
	})
	t.Run("an address that another browser has come by does nothing", func(t *testing.T) {
		attacker, victim := w.browser(), w.browser()
		back := attacker.atProvider("carol@example.org", "/")
		victim.atProvider("carol@example.org", "/")
		if p := victim.get(back); p.status != http.StatusForbidden || victim.cookie() != nil {
			t.Errorf("%d %s", p.status, p.to())
		}
	})
	t.Run("the state of one login with the code of another does nothing", func(t *testing.T) {
		one, two := w.browser(), w.browser()
		u1, _ := url.Parse(one.atProvider("carol@example.org", "/"))
		u2, _ := url.Parse(two.atProvider("carol@example.org", "/"))
		q := u1.Query()
		q.Set("code", u2.Query().Get("code"))
		u1.RawQuery = q.Encode()
		if p := one.get(u1.String()); p.status != http.StatusForbidden || one.cookie() != nil {
			t.Errorf("%d %s", p.status, p.to())
		}
	})
	t.Run("a login that was refused there says so, and no more", func(t *testing.T) {
		b := w.browser()
		u, _ := url.Parse(b.atProvider("carol@example.org", "/"))
		p := b.get("/login/oidc/callback?" + url.Values{"state": {u.Query().Get("state")}, "error": {"access_denied"}, "error_description": {"<script>"}}.Encode())
		if p.status != http.StatusForbidden || strings.Contains(p.body, "<script>") {
			t.Errorf("%d %s", p.status, p.body)
		}
	})
	t.Run("it leads nowhere else", func(t *testing.T) {
		b := w.browser()
		if p := b.get(b.atProvider("carol@example.org", "//evil.example")); p.to() != "/" {
			t.Errorf("%d %s", p.status, p.to())
		}
	})
}

func TestWhoSomebodyIsAtAProvider(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	d := w.withDex(true)
	refused := func(t *testing.T, email, says string) page {
		t.Helper()
		b := w.browser()
		p := b.get(b.atProvider(email, "/"))
		if p.status != http.StatusForbidden || b.cookie() != nil || !strings.Contains(p.body, says) {
			t.Errorf("%d %s %s", p.status, p.to(), p.body)
		}
		return p
	}
	t.Run("a name that somebody has here is not taken over, and an administrator can link it", func(t *testing.T) {
		d.person("ada@example.org", "7", "ada", "true")
		p := refused(t, "ada@example.org", "dspool user link NAME")
		if !strings.Contains(p.body, d.issuer) {
			t.Error(p.body)
		}
		subject := subjectField.FindStringSubmatch(p.body)
		if subject == nil {
			t.Fatal(p.body)
		}
		link := api.LinkRequest{Issuer: d.issuer, Subject: subject[1]}
		for _, user := range []string{"ada", "bob"} {
			if err := w.As(user).LinkUser(t.Context(), "ada", link); dspool.ErrorCode(err) != dspool.Forbidden {
				t.Errorf("%s links: %v", user, err)
			}
		}
		if err := w.As("grace").LinkUser(t.Context(), "ada", link); err != nil {
			t.Fatal(err)
		}
		if err := w.As("grace").LinkUser(t.Context(), "bob", link); dspool.ErrorCode(err) != dspool.Conflict {
			t.Errorf("two accounts have one subject: %v", err)
		}
		b := w.browser()
		if p := b.get(b.atProvider("ada@example.org", "/")); p.to() != "/" {
			t.Errorf("%d %s", p.status, p.body)
		}
	})
	t.Run("the same e-mail with another subject is another person", func(t *testing.T) {
		d.person("ada@example.org", "8", "ada", "true")
		refused(t, "ada@example.org", "dspool user link NAME")
		d.person("ada@example.org", "9", "ada-two", "true")
		b := w.browser()
		if p := b.get(b.atProvider("ada@example.org", "/")); p.to() != "/" {
			t.Fatalf("%d %s", p.status, p.body)
		}
		if p := b.get("/"); !strings.Contains(p.body, "ada-two") {
			t.Error(p.body)
		}
	})
	t.Run("the same subject with another e-mail and name is the same person", func(t *testing.T) {
		d.person("ada-two@example.net", "9", "grace", "false")
		b := w.browser()
		if p := b.get(b.atProvider("ada-two@example.net", "/")); p.to() != "/" {
			t.Fatalf("%d %s", p.status, p.body)
		}
		if p := b.get("/"); !strings.Contains(p.body, "ada-two") {
			t.Error(p.body)
		}
	})
	t.Run("names that cannot be accounts make none", func(t *testing.T) {
		for i, name := range []string{"root", "jupyterhub", "../x", "Ada Lovelace", "a\x00b", "ada@example.org", strings.Repeat("a", 300), ""} {
			email := "x" + string(rune('a'+i)) + "@example.org"
			d.person(email, "bad"+email, name, "true")
			refused(t, email, "dspool user link NAME")
		}
	})
	t.Run("the name of an account that was removed makes none", func(t *testing.T) {
		if err := w.RemoveUser(t.Context(), "bob"); err != nil {
			t.Fatal(err)
		}
		d.person("bob@example.org", "10", "bob", "true")
		refused(t, "bob@example.org", "dspool user link NAME")
	})
	t.Run("where no accounts are made, only who is linked comes in", func(t *testing.T) {
		w.change(func(s *portal.Settings) { c := *s.OIDC; c.CreateUsers = false; s.OIDC = &c })
		d.person("dora@example.org", "11", "dora", "true")
		refused(t, "dora@example.org", "no account here is linked")
		if _, err := w.User(t.Context(), "dora"); dspool.ErrorCode(err) != dspool.NotFound {
			t.Error(err)
		}
	})
	t.Run("only members of the groups that may come in", func(t *testing.T) {
		w.change(func(s *portal.Settings) {
			c := *s.OIDC
			c.CreateUsers, c.AllowedGroups = true, []string{"science"}
			s.OIDC = &c
		})
		d.person("eve@example.org", "12", "eve", "true", "sciences", "Science")
		refused(t, "eve@example.org", "none of your groups")
		d.person("finn@example.org", "13", "finn", "true", "other", "science")
		b := w.browser()
		if p := b.get(b.atProvider("finn@example.org", "/")); p.to() != "/" {
			t.Errorf("%d %s", p.status, p.body)
		}
	})
	t.Run("a provider that does not answer is said to, and passwords still do", func(t *testing.T) {
		w.change(func(s *portal.Settings) { c := *s.OIDC; c.Issuer = "http://127.0.0.1:1"; s.OIDC = &c })
		if p := w.browser().get("/login/oidc"); p.status != http.StatusServiceUnavailable || strings.Contains(p.body, "refused") {
			t.Errorf("%d %s", p.status, p.body)
		}
		w.login("ada")
	})
	t.Run("without a provider there is no such login", func(t *testing.T) {
		w.change(func(s *portal.Settings) { s.OIDC = nil })
		for _, path := range []string{"/login/oidc", "/login/oidc/callback?code=x&state=y"} {
			if p := w.browser().get(path); p.status != http.StatusNotFound {
				t.Errorf("%d %s", p.status, p.to())
			}
		}
	})
}

// A login that ends while a kernel runs ends nothing but the login: the session is the pool's affair.
func TestALoginThatEndsLeavesWorkAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	ada := w.As("ada")
	job, err := ada.Submit(t.Context(), api.SubmitRequest{JobSpec: dspool.JobSpec{Command: []string{"forever"}}})
	if err != nil {
		t.Fatal(err)
	}
	w.Running(job.ID, 1)
	b := w.login("ada")
	token := w.accessToken(b)
	b.post("/logout/everywhere", url.Values{"csrf": {b.csrf("/")}})
	if status, _ := w.userinfo(token); status != http.StatusUnauthorized {
		t.Errorf("%d", status)
	}
	w.Running(job.ID, 1)
	if _, err := ada.CancelJob(t.Context(), job.ID); err != nil {
		t.Fatal(err)
	}
}
