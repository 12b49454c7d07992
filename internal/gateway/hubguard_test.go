package gateway_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"
)

func TestHubGuard(t *testing.T) {
	t.Parallel()
	b := newBrowsers(t)
	ask := func(url, cookies string) (int, []string, string) {
		status, _, h := b.ask(b.web, "127.0.0.1", "GET", url, "", "Cookie", cookies)
		return status, h["Set-Cookie"], h.Get("Location")
	}
	// Whatever the hub of this test answers, it is the hub that answers.
	clean, _, _ := ask("http://hub.localhost:8000/hub/home", "")
	t.Run("a browser with two logins at JupyterHub loses those that another host can set", func(t *testing.T) {
		status, set, to := ask("http://hub.localhost:8000/hub/home?x=1", "login=evil; login=mine; other=1")
		if status != http.StatusTemporaryRedirect || to != "http://hub.localhost:8000/hub/home?x=1" {
			t.Errorf("%d to %q", status, to)
		}
		for _, path := range []string{"/", "/hub", "/hub/", "/hub/home"} {
			if !slices.Contains(set, "login=; Domain=hub.localhost; Path="+path+"; Max-Age=0") {
				t.Errorf("nothing clears %s: %q", path, set)
			}
		}
		if slices.ContainsFunc(set, func(c string) bool {
			return strings.HasPrefix(c, "other") || !strings.Contains(c, "Domain=hub.localhost;")
		}) {
			t.Errorf("too much is cleared: %q", set)
		}
	})
	t.Run("it leads nowhere else", func(t *testing.T) {
		if _, _, to := ask("http://hub.localhost:8000//evil.example/", "a=1; a=2"); to != "http://hub.localhost:8000//evil.example/" {
			t.Error(to)
		}
	})
	t.Run("two that follow each other in fields of their own are two", func(t *testing.T) {
		if status, _, _ := ask("http://hub.localhost:8000/hub/home", "login=a;login=b"); status != http.StatusTemporaryRedirect {
			t.Error(status)
		}
	})
	t.Run("cookies that are one each go through", func(t *testing.T) {
		if status, set, _ := ask("http://hub.localhost:8000/hub/home", "login=mine; _xsrf=x"); status != clean || len(set) > 0 {
			t.Errorf("%d, %q", status, set)
		}
	})
	t.Run("many names make no endless answer", func(t *testing.T) {
		if _, set, _ := ask("http://hub.localhost:8000/"+strings.Repeat("a/", 500), strings.Repeat("a=1; b=1; c=1; d=1; e=1; f=1; g=1; h=1; i=1; j=1; ", 2)+"z=1"); len(set) > 400 {
			t.Errorf("%d cookies are set", len(set))
		}
	})
	t.Run("pages of other origins ask JupyterHub nothing in somebody's name", func(t *testing.T) {
		for _, c := range []struct {
			site, mode, dest, cookies string
			refused                   bool
		}{
			{"same-site", "no-cors", "image", "login=mine", true},
			{"same-site", "cors", "empty", "login=mine", true},
			{"cross-site", "navigate", "iframe", "login=mine", true},
			{"same-site", "navigate", "embed", "login=mine", true},
			{"cross-site", "cors", "empty", "", false},
			{"cross-site", "navigate", "document", "login=mine", false},
			{"same-origin", "cors", "empty", "login=mine", false},
			{"none", "navigate", "document", "login=mine", false},
			{"", "", "", "login=mine", false}, // a program, or an old browser
		} {
			status, _, _ := b.ask(b.web, "127.0.0.1", "GET", "http://hub.localhost:8000/hub/spawn", "",
				"Sec-Fetch-Site", c.site, "Sec-Fetch-Mode", c.mode, "Sec-Fetch-Dest", c.dest, "Cookie", c.cookies)
			if (status == http.StatusForbidden) != c.refused {
				t.Errorf("%+v: %d", c, status)
			}
		}
	})
}
