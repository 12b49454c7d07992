package portal_test

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/client"
	"github.com/dspool/dspool/internal/cli"
	"github.com/dspool/dspool/internal/portal"
)

// computer is one that asks to be let in, from the address of a browser of its own.
type computer struct {
	*browser
	api.DeviceLogin
}

// call asks the API without any credential.
func (b *browser) call(path string, in, out any) page {
	b.t.Helper()
	text, err := json.Marshal(in)
	if err != nil {
		b.t.Fatal(err)
	}
	r := b.request("POST", "/api/v1"+path, nil)
	r.Body, r.ContentLength = io.NopCloser(strings.NewReader(string(text))), int64(len(text))
	p := b.do(r)
	if err := json.Unmarshal([]byte(p.body), out); err != nil {
		b.t.Fatalf("%s: %d %s", path, p.status, p.body)
	}
	return p
}

func (w *world) computer(name string) computer {
	w.t.Helper()
	c := computer{browser: w.browser()}
	if p := c.call("/login/device", api.DeviceRequest{Name: name}, &c.DeviceLogin); p.status != http.StatusOK {
		w.t.Fatalf("%d %s", p.status, p.body)
	}
	return c
}

// ask asks once for the token; code is that of a refusal, or "".
func (c computer) ask() (got api.DeviceToken, code dspool.Code) {
	c.t.Helper()
	var both struct {
		api.DeviceToken
		Code dspool.Code
	}
	c.call("/login/device/token", api.DeviceTokenRequest{DeviceCode: c.DeviceCode}, &both)
	return both.DeviceToken, both.Code
}

// answer confirms or refuses as the page's form does.
func (b *browser) answer(what string, c computer) page {
	b.t.Helper()
	return b.post("/device/"+what, url.Values{"csrf": {b.csrf("/device?code=" + c.UserCode)}, "code": {c.UserCode}})
}

func TestAComputerIsLetIn(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	c := w.computer("ada@laptop")
	if c.ExpiresIn != 600 || c.Interval < 1 || c.URI != w.web.URL+"/device" || c.URIComplete != c.URI+"?code="+c.UserCode || len(c.DeviceCode) < 32 || len(c.UserCode) != 9 {
		t.Fatalf("%+v", c.DeviceLogin)
	}
	t.Run("nobody is asked who has not logged in, and then is", func(t *testing.T) {
		b := w.browser()
		path := "/device?code=" + c.UserCode
		if p := b.get(path); p.status != http.StatusSeeOther || p.to() != "/login?"+(url.Values{"next": {path}}).Encode() {
			t.Errorf("%d %s", p.status, p.to())
		}
		if p := b.tryLogin("bob", password, path); p.to() != path {
			t.Error(p.to())
		}
	})
	t.Run("asking too often makes the wait longer, for good", func(t *testing.T) {
		slow := w.computer("")
		wants := []api.DeviceToken{{State: api.DevicePending, Interval: 2}, {State: api.DeviceSlowDown, Interval: 7}, {State: api.DeviceSlowDown, Interval: 12}}
		for i, want := range wants {
			if got, code := slow.ask(); got != want || code != "" {
				t.Errorf("%d: %+v %s", i, got, code)
			}
		}
	})
	ada := w.login("ada")
	t.Run("the page says who asks, and warns", func(t *testing.T) {
		p := ada.get("/device?code=" + strings.ToLower(strings.ReplaceAll(c.UserCode, "-", "")))
		from, _, _ := strings.Cut(c.from, ":")
		for _, text := range []string{"Only confirm if you started this yourself", c.UserCode, from, "ada@laptop", "Anybody can call a computer so", "12h"} {
			if !strings.Contains(p.body, text) {
				t.Errorf("no %q: %d %s", text, p.status, p.body)
			}
		}
		guarded(t, "/device", p)
		if m := inline.FindString(p.body); m != "" || strings.Contains(p.body, c.DeviceCode) {
			t.Errorf("%q %s", m, p.body)
		}
	})
	t.Run("looking at the page lets nobody in", func(t *testing.T) {
		for _, method := range []string{"GET", "HEAD", "PUT", "OPTIONS"} {
			ada.do(ada.request(method, "/device/confirm?code="+c.UserCode+"&csrf="+ada.csrf("/account"), nil))
		}
		if got, _ := c.ask(); got.State != api.DevicePending {
			t.Errorf("%+v", got)
		}
	})
	if p := ada.answer("confirm", c); p.status != http.StatusOK || !strings.Contains(p.body, "logs in as ada") {
		t.Fatalf("%d %s", p.status, p.body)
	}
	got, _ := c.ask()
	if got.State != api.DeviceGranted || got.Login == nil {
		t.Fatalf("%+v", got)
	}
	t.Run("the token is the confirming user's, as a password would buy it", func(t *testing.T) {
		me, err := w.WithToken(got.Login.Secret).Whoami(t.Context())
		if err != nil || me.User != "ada" || me.Admin || got.Login.NewToken.User != "ada" || got.Login.User.Name != "ada" {
			t.Errorf("%+v %+v %v", me, got.Login, err)
		}
		by, err := w.Server.Control.Login(t.Context(), "10.8.0.1:1", api.LoginRequest{User: "ada", Password: password})
		if err != nil || by.Name != got.Login.Name || got.Login.Expires == nil || by.Expires.Sub(by.Created) != got.Login.Expires.Sub(got.Login.Created) {
			t.Errorf("%+v and %+v, %v", got.Login, by, err)
		}
	})
	t.Run("it is given once, and the code is worth nothing afterwards", func(t *testing.T) {
		if got, code := c.ask(); code != dspool.Unauthenticated || got.Login != nil {
			t.Errorf("%+v %s", got, code)
		}
		for _, b := range []*browser{ada, w.login("bob")} {
			if p := b.post("/device/confirm", url.Values{"csrf": {b.csrf("/account")}, "code": {c.UserCode}}); p.status != http.StatusNotFound {
				t.Errorf("%d %s", p.status, p.body)
			}
		}
	})
	t.Run("it is written down", func(t *testing.T) {
		events, err := w.As("ada").Events(t.Context(), client.EventFilter{Latest: true, Limit: 100})
		if text := mustJSON(t, events); err != nil || !strings.Contains(text, "login.confirmed") || !strings.Contains(text, "that calls itself ada@laptop log in") || strings.Contains(text, c.UserCode) {
			t.Errorf("%v %s", err, text)
		}
	})
}

func TestAComputerIsNotLetIn(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	ada := w.login("ada")
	t.Run("who is refused", func(t *testing.T) {
		c := w.computer("evil")
		if p := ada.answer("refuse", c); p.status != http.StatusOK || !strings.Contains(p.body, "Refused") {
			t.Errorf("%d %s", p.status, p.body)
		}
		if p := ada.post("/device/confirm", url.Values{"csrf": {ada.csrf("/account")}, "code": {c.UserCode}}); p.status != http.StatusNotFound {
			t.Errorf("confirmed after all: %d", p.status)
		}
		if got, code := c.ask(); code != dspool.Forbidden || got.Login != nil {
			t.Errorf("%+v %s", got, code)
		}
		if _, code := c.ask(); code != dspool.Unauthenticated {
			t.Error(code)
		}
	})
	t.Run("by a page that is not the portal's", func(t *testing.T) {
		c := w.computer("")
		token := ada.csrf("/account")
		for name, change := range map[string]func(*http.Request, url.Values){
			"another site":     func(r *http.Request, _ url.Values) { r.Header.Set("Origin", "https://evil.example") },
			"a notebook":       func(r *http.Request, _ url.Values) { r.Header.Set("Sec-Fetch-Site", "same-site") },
			"no origin":        func(r *http.Request, _ url.Values) { r.Header.Del("Origin") },
			"no token":         func(_ *http.Request, f url.Values) { f.Del("csrf") },
			"another's token":  func(_ *http.Request, f url.Values) { f.Set("csrf", w.login("bob").csrf("/account")) },
			"the code for one": func(_ *http.Request, f url.Values) { f.Set("csrf", c.UserCode) },
		} {
			form := url.Values{"csrf": {token}, "code": {c.UserCode}}
			r := ada.request("POST", "/device/confirm", form)
			r.Header.Set("Origin", ada.base)
			r.Header.Set("Sec-Fetch-Site", "same-origin")
			change(r, form)
			r.Body, r.ContentLength = io.NopCloser(strings.NewReader(form.Encode())), int64(len(form.Encode()))
			if p := ada.do(r); p.status != http.StatusForbidden {
				t.Errorf("%s: %d %s", name, p.status, p.body)
			}
		}
		if got, _ := c.ask(); got.State != api.DevicePending {
			t.Errorf("%+v", got)
		}
	})
	t.Run("with a code that is none", func(t *testing.T) {
		c := w.computer("")
		for i, code := range []string{"BCDF-GHJK", "x", "<script>alert(1)</script>", c.DeviceCode} {
			b := w.login([]string{"ada", "bob", "grace"}[i%3]) // guesses of one person are held back
			p := b.get("/device?" + url.Values{"code": {code}}.Encode())
			if p.status != http.StatusNotFound || !strings.Contains(p.body, "No computer waits with this code") || strings.Contains(p.body, "<script>alert") {
				t.Errorf("%s: %d %s", code, p.status, p.body)
			}
		}
		c.DeviceCode = c.UserCode
		if _, code := c.ask(); code != dspool.Unauthenticated {
			t.Error(code)
		}
	})
	t.Run("for somebody who has gone, nor for another of that name", func(t *testing.T) {
		gone, again := w.computer(""), w.computer("")
		b := w.login("bob")
		b.answer("confirm", gone)
		b.answer("confirm", again)
		if err := w.RemoveUser(t.Context(), "bob"); err != nil {
			t.Fatal(err)
		}
		if got, code := gone.ask(); code != dspool.Unauthenticated || got.Login != nil {
			t.Errorf("%+v %s", got, code)
		}
		w.addAgain("bob")
		if got, code := again.ask(); code != dspool.Unauthenticated || got.Login != nil {
			t.Errorf("%+v %s", got, code)
		}
	})
	t.Run("that tells a story, or has no words", func(t *testing.T) {
		b := w.browser()
		for _, name := range []string{"the IT department", "<b>", "a\nb", "\u202egnp", strings.Repeat("a", 65)} {
			var problem api.Problem
			if p := b.call("/login/device", api.DeviceRequest{Name: name}, &problem); p.status != http.StatusUnprocessableEntity || problem.Code != dspool.Invalid {
				t.Errorf("%q: %d %s", name, p.status, p.body)
			}
		}
		for _, body := range []string{"", "[]", `{"name":7,"device_code":7}`, strings.Repeat(" ", 20<<10)} {
			for _, path := range []string{"/login/device", "/login/device/token"} {
				r := b.request("POST", "/api/v1"+path, nil)
				r.Body, r.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
				if p := b.do(r); p.status != http.StatusUnprocessableEntity {
					t.Errorf("%s %q: %d %s", path, body, p.status, p.body)
				}
			}
		}
	})
}

func TestOnlyOneOfManyTakesTheToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	c := w.computer("")
	w.login("grace").answer("confirm", c)
	var wg sync.WaitGroup
	var mu sync.Mutex
	granted := 0
	for range 20 {
		wg.Go(func() {
			got, _ := c.ask()
			mu.Lock()
			defer mu.Unlock()
			if got.Login != nil {
				granted++
			}
		})
	}
	wg.Wait()
	if granted != 1 {
		t.Errorf("%d took it", granted)
	}
}

func TestTooManyComputersWait(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	b := w.browser()
	var problem api.Problem
	p, n := page{status: http.StatusOK}, 0
	for ; p.status == http.StatusOK && n < 1000; n++ {
		p = b.call("/login/device", api.DeviceRequest{}, &problem)
	}
	if p.status != http.StatusServiceUnavailable || problem.Hint == "" || n < 30 {
		t.Errorf("after %d: %d %s", n, p.status, p.body)
	}
	w.computer("") // from another address
}

// The whole of it, with the program that people run.
func TestLoginByBrowserFromTheCommandLine(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	home := t.TempDir()
	ca := filepath.Join(home, "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: w.web.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	for answer, want := range map[string]struct {
		code int
		text string
	}{"confirm": {0, "user grace is logged in at"}, "refuse": {4, "the login was refused in the browser"}} {
		t.Run(answer, func(t *testing.T) {
			env := map[string]string{"HOME": home, "USER": "somebody"}
			var out, said bytes.Buffer
			grace := w.login("grace")
			code := cli.Main(t.Context(), []string{"login", "--web", "--url", w.web.URL, "--ca", ca, "-o", "json"}, cli.Env{
				Stdin: strings.NewReader(""), Stdout: &out, Stderr: &said, Now: time.Now, Version: "v1", Signals: make(chan os.Signal),
				LookupEnv: func(k string) (string, bool) { v, ok := env[k]; return v, ok },
				Sleep: func(context.Context, time.Duration) error {
					var d api.DeviceLogin
					if err := json.Unmarshal(out.Bytes(), &d); err != nil {
						t.Fatal(err)
					}
					if p := grace.answer(answer, computer{DeviceLogin: d}); p.status != http.StatusOK {
						t.Errorf("%d %s", p.status, p.body)
					}
					return nil
				},
			})
			if code != want.code || !strings.Contains(said.String(), want.text) {
				t.Fatalf("code %d: %s", code, said.String())
			}
			if answer == "refuse" {
				return
			}
			var login struct{ Token string }
			if err := json.Unmarshal([]byte(strings.SplitAfter(out.String(), "\n")[1]), &login); err != nil {
				t.Fatal(err)
			}
			if me, err := w.WithToken(login.Token).Whoami(t.Context()); err != nil || me.User != "grace" || !me.Admin {
				t.Errorf("%+v %v", me, err)
			}
			if text, err := os.ReadFile(filepath.Join(home, ".ssh/dspool-ed25519-cert.pub")); err != nil || !strings.Contains(string(text), "dspool grace@") {
				t.Errorf("%s %v", text, err)
			}
		})
	}
}

// The address that counts behind a door is the person's, and the page is on the portal that people know.
func TestAComputerBehindAWebDoor(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	w.swap(w.portal().DoorHandler())
	w.change(func(s *portal.Settings) { s.URL = "https://pool.example.org" })
	b := w.browser()
	begin := func(from string) api.DeviceLogin {
		r := b.request("POST", "/api/v1/login/device", nil)
		r.Body, r.ContentLength = io.NopCloser(strings.NewReader("{}")), 2
		r.Host = "pool.example.org"
		r.Header.Set("X-Forwarded-For", from)
		r.Header.Set("X-Forwarded-Proto", "https")
		p := b.do(r)
		var d api.DeviceLogin
		_ = json.Unmarshal([]byte(p.body), &d)
		return d
	}
	for range 200 {
		begin("198.51.100.7")
	}
	for _, from := range []string{"198.51.100.8", "2001:db8::1"} {
		if d := begin(from); d.URI != "https://pool.example.org/device" {
			t.Errorf("%s: %+v", from, d)
		}
	}
}
