package portal_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/auth"
	"github.com/dspool/dspool/internal/httpapi"
	"github.com/dspool/dspool/internal/portal"
	"github.com/dspool/dspool/internal/servertest"
)

const (
	password = "four words are enough"
	hub      = "http://hub.localhost:8000"
	clientID = "jupyterhub"
	secret   = "the hub's secret"
)

var root = auth.Subject{Admin: true}

// world is a running system with a portal of its own, whose settings a test chooses.
type world struct {
	*servertest.System
	t    *testing.T
	web  *httptest.Server
	key  []byte
	mu   sync.Mutex
	set  portal.Settings
	swap func(http.Handler)
}

func newWorld(t *testing.T, tls bool) *world {
	t.Helper()
	w := &world{System: servertest.New(t, servertest.Options{}), t: t, key: []byte("a key of at least sixteen bytes")}
	w.set = portal.Settings{Hub: hub, ClientID: clientID, ClientSecret: secret}
	var mu sync.RWMutex
	var now http.Handler
	w.swap = func(h http.Handler) { mu.Lock(); defer mu.Unlock(); now = h }
	h := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		mu.RLock()
		h := now
		mu.RUnlock()
		if from := r.Header.Get("Test-From"); from != "" {
			r.RemoteAddr = from // guesses from one address are held back
			r.Header.Del("Test-From")
		}
		h.ServeHTTP(rw, r)
	})
	w.swap(w.portal().Handler())
	if tls {
		w.web = httptest.NewTLSServer(h)
	} else {
		w.web = httptest.NewServer(h)
	}
	t.Cleanup(w.web.Close)
	for _, u := range []string{"ada", "bob", "grace"} {
		if err := w.Server.Control.SetPassword(t.Context(), root, u, api.PasswordRequest{New: password}); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

// portal makes a portal over the system that runs now.
func (w *world) portal() *portal.Portal {
	w.t.Helper()
	p, err := portal.New(portal.Options{
		Control: w.Server.Control, API: httpapi.New(w.Server.Control, nil), Key: w.key, Log: slog.New(slog.DiscardHandler),
		Settings: func(context.Context) (portal.Settings, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.set, nil
		},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

func (w *world) change(fn func(*portal.Settings)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	fn(&w.set)
}

// browser is one with cookies of its own that shows where it would be led.
type browser struct {
	t    *testing.T
	http *http.Client
	base string
	from string // address
}

var browsers atomic.Int64

func (w *world) browser() *browser {
	jar, err := cookiejar.New(nil)
	if err != nil {
		w.t.Fatal(err)
	}
	c, n := *w.web.Client(), browsers.Add(1)
	c.Jar, c.CheckRedirect = jar, func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &browser{t: w.t, http: &c, base: w.web.URL, from: fmt.Sprintf("10.9.%d.%d:1", n/250, n%250)}
}

// page is an answer.
type page struct {
	status int
	header http.Header
	body   string
}

func (p page) to() string { return p.header.Get("Location") }

func (b *browser) do(r *http.Request) page {
	b.t.Helper()
	res, err := b.http.Do(r)
	if err != nil {
		b.t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return page{res.StatusCode, res.Header, string(body)}
}

func (b *browser) request(method, path string, form url.Values) *http.Request {
	b.t.Helper()
	if !strings.Contains(path, "://") {
		path = b.base + path
	}
	var body io.Reader
	if form != nil {
		body = strings.NewReader(form.Encode())
	}
	r, err := http.NewRequestWithContext(b.t.Context(), method, path, body)
	if err != nil {
		b.t.Fatal(err)
	}
	r.Header.Set("Test-From", b.from)
	if form != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	return r
}

func (b *browser) get(path string) page { return b.do(b.request("GET", path, nil)) }

// post sends a form as a page of the portal does.
func (b *browser) post(path string, form url.Values) page {
	r := b.request("POST", path, form)
	r.Header.Set("Origin", b.base)
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	return b.do(r)
}

var csrfField = regexp.MustCompile(`name="csrf" value="([^"]+)"`)

// csrf is the token of the forms on a page.
func (b *browser) csrf(path string) string {
	b.t.Helper()
	p := b.get(path)
	m := csrfField.FindStringSubmatch(p.body)
	if m == nil {
		b.t.Fatalf("%s has no form: %d %s", path, p.status, p.body)
	}
	return m[1]
}

func (b *browser) tryLogin(user, pass, next string) page {
	return b.post("/login", url.Values{"csrf": {b.csrf("/login")}, "user": {user}, "password": {pass}, "next": {next}})
}

// login returns a browser in which somebody is logged in.
func (w *world) login(user string) *browser {
	w.t.Helper()
	b := w.browser()
	if p := b.tryLogin(user, password, ""); p.status != http.StatusSeeOther || p.to() != "/" {
		w.t.Fatalf("log in: %d %s", p.status, p.body)
	}
	return b
}

// cookie is the value of the login's cookie.
func (b *browser) cookie() *http.Cookie {
	u, err := url.Parse(b.base)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, c := range b.http.Jar.Cookies(u) {
		if c.Name == "dspool" || c.Name == "__Host-dspool" {
			return c
		}
	}
	return nil
}

func (b *browser) setCookie(c *http.Cookie) {
	u, _ := url.Parse(b.base)
	b.http.Jar.SetCookies(u, []*http.Cookie{{Name: c.Name, Value: c.Value, Path: "/", Secure: u.Scheme == "https"}})
}

// verifier of PKCE, with its challenge.
const verifier = "a-verifier-of-at-least-forty-three-characters"

func challenge() string {
	sum := sha256.Sum256([]byte(verifier))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

func authorization(change func(url.Values)) string {
	q := url.Values{
		"response_type": {"code"}, "client_id": {clientID}, "redirect_uri": {hub + "/hub/oauth_callback"}, "state": {"the state"},
		"code_challenge": {challenge()}, "code_challenge_method": {"S256"},
	}
	if change != nil {
		change(q)
	}
	return "/oauth/authorize?" + q.Encode()
}

// code gets one for the browser's user.
func (b *browser) code() string {
	b.t.Helper()
	p := b.get(authorization(nil))
	u, err := url.Parse(p.to())
	if err != nil || u.Query().Get("code") == "" {
		b.t.Fatalf("no code: %d %s %s", p.status, p.to(), p.body)
	}
	return u.Query().Get("code")
}

// trade shows a code as JupyterHub does.
func (w *world) trade(code string, change func(*http.Request, url.Values)) (page, map[string]any) {
	w.t.Helper()
	b := w.browser()
	form := url.Values{"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {hub + "/hub/oauth_callback"}, "code_verifier": {verifier}}
	r := b.request("POST", "/oauth/token", form)
	r.SetBasicAuth(clientID, url.QueryEscape(secret))
	if change != nil {
		change(r, form)
		r.Body = io.NopCloser(strings.NewReader(form.Encode()))
		r.ContentLength = int64(len(form.Encode()))
	}
	p := b.do(r)
	var answer map[string]any
	if err := json.Unmarshal([]byte(p.body), &answer); err != nil {
		w.t.Fatalf("%d %s", p.status, p.body)
	}
	return p, answer
}

// accessToken is one for the browser's user.
func (w *world) accessToken(b *browser) string {
	w.t.Helper()
	p, a := w.trade(b.code(), nil)
	token, _ := a["access_token"].(string)
	if p.status != http.StatusOK || token == "" {
		w.t.Fatalf("%d %s", p.status, p.body)
	}
	return token
}

func (w *world) userinfo(token string) (int, map[string]any) {
	w.t.Helper()
	b := w.browser()
	r := b.request("GET", "/oauth/userinfo", nil)
	r.Header.Set("Authorization", "Bearer "+token)
	p := b.do(r)
	var answer map[string]any
	_ = json.Unmarshal([]byte(p.body), &answer)
	return p.status, answer
}

var valueField = regexp.MustCompile(`value="[^"]*"|autofocus`)

func (b *browser) cookieNamed(name string) *http.Cookie {
	u, _ := url.Parse(b.base)
	for _, c := range b.http.Jar.Cookies(u) {
		if c.Name == name {
			return c
		}
	}
	return nil
}

// addAgain gives the name of an account that was removed to another person.
func (w *world) addAgain(name string) {
	w.t.Helper()
	home := filepath.Join(w.Dir, "shares", "home", name)
	if err := os.Rename(home, home+".old"); err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.AddUser(w.t.Context(), api.AddUserRequest{Name: name}); err != nil {
		w.t.Fatal(err)
	}
}
