package portal_test

import (
	"bufio"
	"context"
	"fmt"
	"html"
	"math"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/portal"
	"github.com/dspool/dspool/internal/servertest"
)

func TestPages(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	ada, grace := w.login("ada"), w.login("grace")
	job, err := w.As("ada").Submit(t.Context(), api.SubmitRequest{JobSpec: dspool.JobSpec{Name: `<b>"x"</b>`, Command: []string{"forever", "<script>alert(1)</script>"}, Array: "1-3"}})
	if err != nil {
		t.Fatal(err)
	}
	w.Running(job.ID, 3)
	theirs, err := w.As("bob").Submit(t.Context(), api.SubmitRequest{JobSpec: dspool.JobSpec{Name: "secret-of-bob", Command: []string{"forever"}}})
	if err != nil {
		t.Fatal(err)
	}
	w.Running(theirs.ID, 1)
	mine := fmt.Sprintf("/jobs/%d", job.ID)
	all := []string{"/", "/jobs", "/jobs/new", mine, mine + "?task=2&stream=stderr", "/account", "/bill", "/bill?by=pool&month=2020-01", "/events"}
	admins := []string{"/pools", "/machines", "/machines?all", "/machines/batch-1", "/people", "/jobs?all", "/bill?by=user"}
	t.Run("all are shown, with the headers that guard them", func(t *testing.T) {
		for _, path := range append(all, admins...) {
			p := grace.get(path)
			if path != mine && p.status != http.StatusOK {
				t.Errorf("%s: %d %s", path, p.status, p.body)
			}
			guarded(t, path, p)
			if strings.Contains(p.body, "<b>\"x\"") || strings.Contains(p.body, "<script>alert") || strings.Contains(p.body, "ZgotmplZ") {
				t.Errorf("%s does not escape: %s", path, p.body)
			}
			if m := inline.FindString(p.body); m != "" {
				t.Errorf("%s has %q, which its own policy forbids", path, m)
			}
		}
		for _, path := range []string{"/nothing", "/login", "/assets/portal.css", "/assets/nothing"} {
			guarded(t, path, w.browser().get(path))
		}
	})
	t.Run("people see what is theirs", func(t *testing.T) {
		for _, path := range all {
			if p := ada.get(path); p.status != http.StatusOK || strings.Contains(p.body, "secret-of-bob") || strings.Contains(p.body, "bob") {
				t.Errorf("%s: %d %s", path, p.status, p.body)
			}
		}
		if p := ada.get(mine); !strings.Contains(p.body, "&lt;script&gt;alert(1)") {
			t.Error(p.body)
		}
	})
	t.Run("and nothing else, nor that it is there", func(t *testing.T) {
		for _, path := range append(admins[:5:5], fmt.Sprintf("/jobs/%d", theirs.ID), fmt.Sprintf("/live/jobs/%d", theirs.ID), "/live/people", "/live/machines", "/live/machines/batch-1", "/live/pools") {
			none := strings.NewReplacer(strconv.FormatInt(theirs.ID, 10), "999").Replace(path)
			p, n := ada.get(path), ada.get(none)
			if p.status != n.status || p.status == http.StatusOK && !strings.HasPrefix(path, "/live") {
				t.Errorf("%s: %d, and of none %d", path, p.status, n.status)
			}
			if strings.Contains(p.body, "bob") {
				t.Errorf("%s: %s", path, p.body)
			}
		}
		for path, form := range map[string]url.Values{
			fmt.Sprintf("/jobs/%d/cancel", theirs.ID): {}, "/machines/batch-1/cordon": {}, "/machines/batch-1/drain": {}, "/people": {"name": {"mallory"}}, "/sessions/1/close": {},
		} {
			form.Set("csrf", ada.csrf("/account"))
			if p := ada.post(path, form); p.status != http.StatusForbidden && p.status != http.StatusNotFound {
				t.Errorf("%s: %d %s", path, p.status, p.to())
			}
		}
		if p := ada.get("/jobs?all"); strings.Contains(p.body, "secret-of-bob") {
			t.Error(p.body)
		}
	})
	t.Run("addresses that are none are missing", func(t *testing.T) {
		for _, path := range []string{"/jobs/x", "/jobs/-1", "/jobs/99999999999999999999", mine + "?task=77", "/machines/none", "/machines/..%2f..%2fetc", "/sessions/1", "/../../etc/passwd", "/assets/..%2fportal.go"} {
			if p := grace.get(path); p.status != http.StatusNotFound && p.status != http.StatusMovedPermanently && p.status != http.StatusTemporaryRedirect {
				t.Errorf("%s: %d", path, p.status)
			}
		}
	})
	t.Run("whoever is not logged in is led to the login", func(t *testing.T) {
		b := w.browser()
		for _, path := range append(all, admins...) {
			if p := b.get(path); p.status != http.StatusSeeOther || !strings.HasPrefix(p.to(), "/login?next=") {
				t.Errorf("%s: %d %s", path, p.status, p.to())
			}
		}
	})
	t.Run("terminals open at the web door", func(t *testing.T) {
		if p := ada.get("/terminal/open"); p.status != http.StatusServiceUnavailable || !strings.Contains(p.body, "web door") {
			t.Errorf("%d %s", p.status, p.body)
		}
		w.change(func(s *portal.Settings) { s.URL = "http://localhost:8000" })
		defer w.change(func(s *portal.Settings) { s.URL = "" })
		if p := ada.get("/terminal/open?pool=batch"); p.to() != "http://localhost:8000/terminal/open?pool=batch" {
			t.Errorf("%d %s", p.status, p.to())
		}
	})
	t.Run("a terminal's size goes with it, and one that the pool has not is refused", func(t *testing.T) {
		w.change(func(s *portal.Settings) { s.URL = "http://localhost:8000" })
		defer w.change(func(s *portal.Settings) { s.URL = "" })
		if p := ada.get("/terminal/open?pool=batch&size=large"); p.to() != "http://localhost:8000/terminal/open?pool=batch&size=large" {
			t.Errorf("%d %s", p.status, p.to())
		}
	})
	t.Run("files are kept by their hash", func(t *testing.T) {
		p := ada.get("/")
		for _, m := range assetLink.FindAllStringSubmatch(p.body, -1) {
			f := w.browser().get(m[1])
			if f.status != http.StatusOK || !strings.Contains(f.header.Get("Cache-Control"), "immutable") || f.body == "" {
				t.Errorf("%s: %d", m[1], f.status)
			}
		}
	})
}

func TestSizesOnTheFirstPage(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	b := w.login("ada")
	apply := func(change ...string) {
		t.Helper()
		if _, err := w.Apply(t.Context(), w.ConfigRequest(strings.NewReplacer(change...).Replace(servertest.Config))); err != nil {
			t.Fatal(err)
		}
	}
	apply("kind: batch", "kind: interactive")
	t.Run("each has the price of a person's part and links that name it", func(t *testing.T) {
		rows := offerRows(b.get("/").body)
		want := []string{
			"small 1 cpu, 2 GiB 0.9 an hour | http://hub.localhost:8000/hub/spawn?pool=batch&size=small JupyterLab on batch, size small | /terminal/open?pool=batch&size=small Terminal on batch, size small",
			"large 4 cpu, 8 GiB 3.6 an hour | http://hub.localhost:8000/hub/spawn?pool=batch&size=large JupyterLab on batch, size large | /terminal/open?pool=batch&size=large Terminal on batch, size large",
		}
		if !slices.Equal(rows, want) {
			t.Errorf("%q, not %q", rows, want)
		}
	})
	t.Run("where a pool has one there is nothing to choose", func(t *testing.T) {
		apply("kind: batch", "kind: interactive", "sizes: [small, large]", "sizes: [small]")
		p := b.get("/")
		want := []string{" | http://hub.localhost:8000/hub/spawn?pool=batch JupyterLab on batch | /terminal/open?pool=batch Terminal on batch"}
		if rows := offerRows(p.body); !slices.Equal(rows, want) || !strings.Contains(p.body, "1 cpu, 2 GiB") || !strings.Contains(p.body, "0.9 an hour") {
			t.Errorf("%q %s", rows, p.body)
		}
	})
}

// offerRows are the rows of sizes on the first page: what is said, and each link with its label.
func offerRows(body string) (rows []string) {
	for _, li := range offerRow.FindAllStringSubmatch(body, -1) {
		text := tag.ReplaceAllString(strings.Split(li[1], `<div class="row">`)[0], " ")
		row := strings.Join(strings.Fields(text), " ")
		for _, a := range offerLink.FindAllStringSubmatch(li[1], -1) {
			row += " | " + html.UnescapeString(a[1]) + " " + html.UnescapeString(a[2])
		}
		rows = append(rows, row)
	}
	return rows
}

var (
	offerRow  = regexp.MustCompile(`(?s)<li>(.*?)</li>`)
	offerLink = regexp.MustCompile(`href="([^"]+)" aria-label="([^"]+)"`)
	tag       = regexp.MustCompile(`<[^>]*>`)

	inline    = regexp.MustCompile(`(?i)<style|<script>|\son[a-z]+=|\sstyle=|javascript:`)
	assetLink = regexp.MustCompile(`(?:href|src)="(/assets/[^"]+)"`)
)

func TestSessionsOnTheFirstPage(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	ada, bob := w.login("ada"), w.login("bob")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go w.Server.Control.OpenSession(ctx, api.OpenSession{Connection: "one", User: "ada", Pool: "batch", Size: "large", Protocol: dspool.ProtocolSSH, From: "192.0.2.1:1", Auth: "password"},
		func(api.SessionStep) error { return nil })
	w.Until("there is a session", func() bool { return len(w.EventsOf("session.login")) == 1 })
	p := ada.get("/")
	if !strings.Contains(p.body, `id="session-1"`) || !strings.Contains(p.body, "Pool batch, size large ·") || !strings.Contains(p.body, "/sessions/1/keep") {
		t.Fatal(p.body)
	}
	if p := bob.get("/"); strings.Contains(p.body, "session-1") {
		t.Error("bob sees it")
	}
	t.Run("another's is neither kept nor ended", func(t *testing.T) {
		for path, form := range map[string]url.Values{"/sessions/1/keep": {"for": {"1h"}}, "/sessions/1/close": {}} {
			form.Set("csrf", bob.csrf("/account"))
			if p := bob.post(path, form); p.status != http.StatusNotFound {
				t.Errorf("%s: %d", path, p.status)
			}
		}
	})
	t.Run("the own is kept, kept no longer, and ended", func(t *testing.T) {
		csrf := ada.csrf("/account")
		if p := ada.post("/sessions/1/keep", url.Values{"csrf": {csrf}, "for": {"1h"}}); p.to() != "/" {
			t.Fatalf("%d %s", p.status, p.body)
		}
		if p := ada.get("/"); !strings.Contains(p.body, "kept until") {
			t.Error(p.body)
		}
		if p := ada.post("/sessions/1/keep", url.Values{"csrf": {csrf}, "for": {"0s"}}); p.to() != "/" {
			t.Fatalf("%d %s", p.status, p.body)
		}
		if p := ada.get("/"); strings.Contains(p.body, "kept until") {
			t.Error(p.body)
		}
		if p := ada.post("/sessions/1/keep", url.Values{"csrf": {csrf}, "for": {"900d"}}); p.status != http.StatusBadRequest {
			t.Errorf("%d %s", p.status, p.body)
		}
		if p := ada.post("/sessions/1/close", url.Values{"csrf": {csrf}}); p.to() != "/" {
			t.Fatalf("%d %s", p.status, p.body)
		}
		w.Until("it ends", func() bool {
			s, err := w.Session(t.Context(), 1)
			return err == nil && (s.State == dspool.SessionClosing || s.State == dspool.SessionClosed)
		})
	})
}

func guarded(t *testing.T, path string, p page) {
	t.Helper()
	csp := p.header.Get("Content-Security-Policy")
	for _, part := range []string{"default-src 'none'", "script-src 'self';", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'self'"} {
		if !strings.Contains(csp, part) {
			t.Errorf("%s: the policy %q lacks %s", path, csp, part)
		}
	}
	if strings.Contains(csp, "unsafe-inline") && !strings.HasPrefix(path, "/terminal/open") || strings.Contains(csp, "unsafe-eval") {
		t.Errorf("%s: %s", path, csp)
	}
	for name, value := range map[string]string{
		"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "same-origin",
		"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin", "Strict-Transport-Security": "",
	} {
		if p.header.Get(name) != value {
			t.Errorf("%s: %s is %q", path, name, p.header.Get(name))
		}
	}
	if !strings.HasPrefix(path, "/assets/") && p.header.Get("Cache-Control") != "no-store" {
		t.Errorf("%s is kept: %s", path, p.header.Get("Cache-Control"))
	}
	if strings.Contains(p.header.Get("Access-Control-Allow-Origin"), "*") {
		t.Errorf("%s is everybody's", path)
	}
}

func TestJobsFromTheForm(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	b := w.login("ada")
	form := url.Values{"csrf": {b.csrf("/jobs/new")}, "key": {"one"}, "script": {"# first\r\necho <hello>\r\n"}, "pool": {"batch"}, "array": {"1-2"}, "memory": {"64MiB"}, "time_limit": {"1h"}}
	p := b.post("/jobs", form)
	if p.status != http.StatusSeeOther || p.to() != "/jobs/1" {
		t.Fatalf("%d %s %s", p.status, p.to(), p.body)
	}
	t.Run("its script is bash's, its name the first command", func(t *testing.T) {
		job, err := w.Job(t.Context(), 1)
		if err != nil || job.User != "ada" || job.Spec.Name != "echo <hello>" || job.Spec.Command[2] != "# first\necho <hello>\n" || job.Spec.Memory != 64<<20 || job.Tasks.Total != 2 {
			t.Errorf("%+v, %v", job, err)
		}
	})
	t.Run("sent twice it is one job", func(t *testing.T) {
		if p := b.post("/jobs", form); p.to() != "/jobs/1" {
			t.Errorf("%d %s", p.status, p.to())
		}
	})
	t.Run("what is wrong is said, and what was typed is kept", func(t *testing.T) {
		for name, value := range map[string]string{"cpus": "many", "memory": "-1", "gpus": "1.5", "array": "9-1", "pool": "none", "time_limit": "soon", "script": " ", "name": "a\x07b", "max_running": "-1"} {
			f := url.Values{"csrf": form["csrf"], "script": {"echo kept"}, "pool": {"batch"}, name: {value}}
			if p := b.post("/jobs", f); p.status < 400 || p.status >= 500 || !strings.Contains(p.body, `role="alert"`) || name != "script" && !strings.Contains(p.body, "echo kept") {
				t.Errorf("%s: %d %s", name, p.status, p.body)
			}
		}
	})
	t.Run("a form that is too long is refused", func(t *testing.T) {
		if p := b.post("/jobs", url.Values{"csrf": form["csrf"], "script": {strings.Repeat("x", 1<<20)}}); p.status != http.StatusBadRequest {
			t.Errorf("%d", p.status)
		}
	})
}

func TestTheOutputOfATask(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	job := w.MustSubmit(dspool.JobSpec{Command: []string{"forever"}})
	w.Running(job.ID, 1)
	dir := filepath.Join(w.Dir, "shares", "team", "jobs", "ada", strconv.FormatInt(job.ID, 10), "0")
	found, err := filepath.Glob(filepath.Join(w.Dir, "shares", "team", "*", "*", "*", "0"))
	if err != nil || len(found) == 0 {
		found = []string{dir}
	}
	user, err := w.User(t.Context(), "ada")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(found[0], 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(found[0], "stdout.txt")
	text := strings.Repeat("a line of a long log\n", 10_000) + "\x1b[31m<b>red</b>\x1b[0m \xff\n"
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(file, user.UID, user.UID); err != nil {
		t.Fatal(err)
	}
	p := w.login("ada").get(fmt.Sprintf("/jobs/%d", job.ID))
	if p.status != http.StatusOK || !strings.Contains(p.body, "&lt;b&gt;red&lt;/b&gt; \ufffd\n") || strings.Contains(p.body, "\x1b") {
		t.Fatalf("%d …%s", p.status, p.body[max(0, len(p.body)-2000):])
	}
	if len(p.body) > 100<<10 || !strings.Contains(p.body, "Earlier output") || !strings.Contains(p.body, fmt.Sprintf(`data-offset="%d"`, len(text))) {
		t.Errorf("%d bytes: %s", len(p.body), p.body[:3000])
	}
}

func TestTheAccountPage(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	b, other := w.login("ada"), w.login("ada")
	csrf := b.csrf("/account")
	t.Run("a new token is shown once", func(t *testing.T) {
		p := b.post("/account/tokens", url.Values{"csrf": {csrf}, "name": {"<laptop>"}, "expires": {"1d"}})
		secret := regexp.MustCompile(`dsp_[a-z0-9]+`).FindString(p.body)
		if me, err := w.WithToken(secret).Whoami(t.Context()); err != nil || me.User != "ada" {
			t.Fatalf("%v %v %s", me, err, p.body)
		}
		if p := b.get("/account"); strings.Contains(p.body, secret) || !strings.Contains(p.body, "&lt;laptop&gt;") {
			t.Error(p.body)
		}
	})
	t.Run("a password needs the old one, typed twice", func(t *testing.T) {
		for _, f := range []url.Values{
			{"old": {"wrong password"}, "new": {"another one"}, "again": {"another one"}},
			{"old": {password}, "new": {"another one"}, "again": {"another two"}},
			{"old": {password}, "new": {""}, "again": {""}},
			{"old": {password}, "new": {"short"}, "again": {"short"}},
		} {
			f.Set("csrf", csrf)
			if p := b.post("/account/password", f); p.status < 400 || !strings.Contains(p.body, `role="alert"`) {
				t.Errorf("%v: %d", f, p.status)
			}
		}
	})
	t.Run("an administrator's, too", func(t *testing.T) {
		g := w.login("grace")
		if p := g.post("/account/password", url.Values{"csrf": {g.csrf("/account")}, "new": {"another one"}, "again": {"another one"}}); p.status != http.StatusForbidden {
			t.Errorf("%d", p.status)
		}
	})
	t.Run("a new one logs other browsers out", func(t *testing.T) {
		p := b.post("/account/password", url.Values{"csrf": {csrf}, "old": {password}, "new": {"another one"}, "again": {"another one"}})
		if p.status != http.StatusOK {
			t.Fatalf("%d %s", p.status, p.body)
		}
		if p := other.get("/"); p.status != http.StatusSeeOther {
			t.Errorf("%d", p.status)
		}
		if p := b.get("/"); p.status != http.StatusOK {
			t.Errorf("%d", p.status)
		}
		if p := w.browser().tryLogin("ada", "another one", ""); p.to() != "/" {
			t.Errorf("%d", p.status)
		}
	})
}

func TestPagesAreLive(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	b := w.login("ada")
	r := b.request("GET", "/live/jobs", nil)
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	res, err := b.http.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK || res.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatal(res.Status)
	}
	lines := bufio.NewScanner(res.Body)
	next := func(want string) {
		t.Helper()
		for lines.Scan() {
			if strings.Contains(lines.Text(), want) {
				return
			}
		}
		t.Fatalf("the stream ended without %q: %v", want, lines.Err())
	}
	next("no jobs")
	if _, err := w.As("ada").Submit(t.Context(), api.SubmitRequest{JobSpec: dspool.JobSpec{Name: "a-new-one", Command: []string{"true"}}}); err != nil {
		t.Fatal(err)
	}
	next("a-new-one")
	b.post("/logout", url.Values{"csrf": {b.csrf("/account")}})
	next("event: gone")
	if lines.Scan(); lines.Scan() && lines.Scan() {
		t.Errorf("it goes on: %q", lines.Text())
	}
	t.Run("for the portal's own pages alone", func(t *testing.T) {
		b := w.login("ada")
		r := b.request("GET", "/live/home", nil)
		r.Header.Set("Sec-Fetch-Site", "same-site")
		if p := b.do(r); p.status != http.StatusForbidden {
			t.Errorf("%d", p.status)
		}
	})
}

// The contrast of WCAG 2.2, success criteria 1.4.3 (text, 4.5) and 1.4.11 (edges of fields, 3).
func TestColoursHaveContrast(t *testing.T) {
	t.Parallel()
	css, err := os.ReadFile("assets/portal.css")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile(`:root \{([^}]+)\}`).FindAllStringSubmatch(string(css), -1)
	if len(blocks) != 2 {
		t.Fatalf("%d palettes, not light and dark", len(blocks))
	}
	for i, b := range blocks {
		c := map[string]float64{}
		for _, m := range regexp.MustCompile(`--([a-z-]+): #([0-9a-f]{6})`).FindAllStringSubmatch(b[1], -1) {
			c[m[1]] = luminance(t, m[2])
		}
		for _, pair := range []struct {
			a, b string
			need float64
		}{
			{"text", "bg", 4.5}, {"text", "surface", 4.5}, {"muted", "bg", 4.5}, {"muted", "surface", 4.5}, {"accent", "bg", 4.5}, {"accent", "surface", 4.5},
			{"on-accent", "accent", 4.5}, {"good", "bg", 4.5}, {"good", "surface", 4.5}, {"warn", "bg", 4.5}, {"warn", "surface", 4.5}, {"bad", "bg", 4.5}, {"bad", "surface", 4.5},
			{"edge", "bg", 3}, {"edge", "surface", 3},
		} {
			a, okA := c[pair.a]
			b, okB := c[pair.b]
			if got := (max(a, b) + 0.05) / (min(a, b) + 0.05); !okA || !okB || got < pair.need {
				t.Errorf("palette %d: %s on %s has %.2f", i, pair.a, pair.b, got)
			}
		}
	}
	if m := regexp.MustCompile(`(?:color|background)[a-z-]*: *#`).FindString(strings.ReplaceAll(string(css), "background: #000", "")); m != "" {
		t.Errorf("a colour outside the palettes: %s", m)
	}
}

// luminance is the relative luminance of WCAG 2.2.
func luminance(t *testing.T, hex string) float64 {
	t.Helper()
	n, err := strconv.ParseUint(hex, 16, 32)
	if err != nil {
		t.Fatal(err)
	}
	part := func(v uint64) float64 {
		c := float64(v&0xff) / 255
		if c <= 0.04045 {
			return c / 12.92
		}
		return math.Pow((c+0.055)/1.055, 2.4)
	}
	return 0.2126*part(n>>16) + 0.7152*part(n>>8) + 0.0722*part(n)
}
