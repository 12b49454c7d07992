package cli_test

import (
	"crypto/rand"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
)

// desk is a server that writes down what it is asked to change.
type desk struct {
	mu       sync.Mutex
	asked    []string // METHOD path body
	who      api.Whoami
	user     dspool.User
	sessions []dspool.Session
	fail     string // the beginning of requests that are refused
}

func (d *desk) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	body, _ := io.ReadAll(r.Body)
	p := strings.TrimPrefix(r.URL.RequestURI(), "/api/v1")
	asked := strings.TrimSpace(r.Method + " " + p + " " + string(body))
	if r.Method != "GET" {
		d.asked = append(d.asked, asked)
	}
	switch {
	case d.fail != "" && strings.HasPrefix(asked, d.fail):
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(409)
		_ = json.NewEncoder(w).Encode(api.Problem{Detail: "somebody has that already", Code: dspool.Conflict})
	case p == "/whoami":
		reply(w, d.who)
	case r.Method == "GET" && strings.HasPrefix(p, "/users/"):
		reply(w, api.UserDetail{User: d.user})
	case r.Method == "GET" && strings.HasPrefix(p, "/sessions?"):
		l := api.List[dspool.Session]{}
		for _, s := range d.sessions {
			if u, pool := r.URL.Query().Get("user"), r.URL.Query().Get("pool"); (u == "" || u == s.User) && (pool == "" || pool == s.Pool) {
				l.Items = append(l.Items, s)
			}
		}
		reply(w, l)
	case r.Method == "GET" && strings.HasPrefix(p, "/sessions/"):
		for _, s := range d.sessions {
			if strings.HasSuffix(p, "/"+string(rune('0'+s.ID))) {
				reply(w, api.SessionDetail{Session: s})
				return
			}
		}
		http.NotFound(w, r)
	case strings.HasSuffix(p, "/keep"):
		reply(w, dspool.Session{ID: 3})
	case r.Method == "DELETE" && strings.HasPrefix(p, "/sessions/"), strings.HasPrefix(p, "/operations/"):
		reply(w, dspool.Operation{ID: "op", State: dspool.OperationSucceeded})
	case strings.HasSuffix(p, "/keys"):
		reply(w, dspool.UserKey{Fingerprint: "SHA256:x", User: d.user.Name})
	case r.Method == "PUT":
		w.WriteHeader(http.StatusNoContent)
	default:
		reply(w, dspool.User{Name: "bob", UID: 20002})
	}
}

// wants compares what was asked and what the person read; stderr may be only a part.
func (d *desk) wants(t *testing.T, p *program, stderr string, asked ...string) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	if diff := cmp.Diff(asked, d.asked); diff != "" {
		t.Errorf("asked (-want +got):\n%s", diff)
	}
	if !strings.Contains(p.err.String(), stderr) {
		t.Errorf("stderr %q, want %q", p.err.String(), stderr)
	}
}

func file(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "k.pub")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestUsersAreFurnished(t *testing.T) {
	t.Parallel()
	t.Run("with groups, pool and keys", func(t *testing.T) {
		t.Parallel()
		d := &desk{}
		p := start(t, d.ServeHTTP)
		p.Stdin = strings.NewReader("# mine\n\n" + publicKey + " b\n")
		p.must(t, "user", "add", "bob", "--key", file(t, publicKey+" a\n"), "--key", "-", "--group", "vision", "--group", "nightly", "--pool", "lab")
		d.wants(t, p, "user bob has id 20002\n", `POST /users {"name":"bob"}`, `PATCH /users/bob {"default_pool":"lab","groups":["vision","nightly"]}`,
			`POST /users/bob/keys {"key":"`+publicKey+` a"}`, `POST /users/bob/keys {"key":"`+publicKey+` b"}`)
	})
	t.Run("a bad key makes no user", func(t *testing.T) {
		t.Parallel()
		d := &desk{}
		p := start(t, d.ServeHTTP)
		p.refused(t, "is a private key", "user", "add", "bob", "--key", file(t, "-----BEGIN OPENSSH PRIVATE KEY-----\n"))
		d.wants(t, p, "give the .pub file beside it")
	})
	t.Run("half a user is named as such", func(t *testing.T) {
		t.Parallel()
		d := &desk{fail: "POST /users/bob/keys"}
		p := start(t, d.ServeHTTP)
		if code := p.run(t, "user", "add", "bob", "--key", publicKey+" c"); code != 6 || p.err.String() != "dspool: user bob is added, but not all of it: somebody has that already\n" {
			t.Errorf("code %d: %s", code, p.err.String())
		}
	})
	t.Run("set changes only what is given", func(t *testing.T) {
		t.Parallel()
		for args, want := range map[string]string{
			"--admin=false": `{"admin":false}`, "--pool=": `{"default_pool":""}`, "--group=": `{"groups":[]}`, "--group=a --group=b": `{"groups":["a","b"]}`,
		} {
			d := &desk{}
			p := start(t, d.ServeHTTP)
			p.must(t, append([]string{"user", "set", "bob"}, strings.Fields(args)...)...)
			d.wants(t, p, "", "PATCH /users/bob "+want)
		}
		d := &desk{}
		p := start(t, d.ServeHTTP)
		p.refused(t, "nothing to change", "user", "set", "bob")
		p.refused(t, "so it stands alone", "user", "set", "bob", "--group=a", "--group=")
		d.wants(t, p, "")
	})
}

func TestKeys(t *testing.T) {
	t.Parallel()
	t.Run("go to one's own account, or to another's", func(t *testing.T) {
		t.Parallel()
		d := &desk{who: api.Whoami{User: "ada"}}
		p := start(t, d.ServeHTTP)
		p.must(t, "user", "key", "add", publicKey)
		p.must(t, "user", "key", "add", "--user", "bob", publicKey)
		p.must(t, "user", "key", "remove", "SHA256:a/b+c")
		d.wants(t, p, "key SHA256:a/b+c of user ada is removed", `POST /users/ada/keys {"key":"`+publicKey+`"}`, `POST /users/bob/keys {"key":"`+publicKey+`"}`, "DELETE /users/ada/keys?fingerprint=SHA256%3Aa%2Fb%2Bc")
	})
	for claim, tt := range map[string]struct{ arg, text string }{
		"a private key is not sent":     {"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n", "is a private key"},
		"text is no key":                {publicKey + "\nhello\n", "line 2 of stdin is no public key"},
		"an empty file holds none":      {"# nothing\n", "holds no public key"},
		"a disk image is not read":      {strings.Repeat("x", 300<<10), "stdin is longer than 256 KiB"},
		"a key line in the environment": {"ssh-ed25519 AAAA\x1b[2J\n", "line 1 of stdin is no public key"},
	} {
		t.Run(claim, func(t *testing.T) {
			t.Parallel()
			d := &desk{who: api.Whoami{User: "ada"}}
			p := start(t, d.ServeHTTP)
			p.Stdin = strings.NewReader(tt.arg)
			p.refused(t, tt.text, "user", "key", "add", "-")
			d.wants(t, p, "")
		})
	}
	t.Run("a certificate is no key", func(t *testing.T) {
		t.Parallel()
		cert := &ssh.Certificate{Key: newSigner(t).PublicKey(), CertType: ssh.UserCert, ValidPrincipals: []string{"ada"}, ValidBefore: ssh.CertTimeInfinity}
		if err := cert.SignCert(rand.Reader, newSigner(t)); err != nil {
			t.Fatal(err)
		}
		d := &desk{who: api.Whoami{User: "ada"}}
		p := start(t, d.ServeHTTP)
		p.refused(t, "is a certificate, which needs no adding", "user", "add", "bob", "--key", file(t, string(ssh.MarshalAuthorizedKey(cert))))
		d.wants(t, p, "")
	})
	t.Run("the host's root says whose", func(t *testing.T) {
		t.Parallel()
		d := &desk{}
		p := start(t, d.ServeHTTP)
		p.refused(t, "hint: say whose with --user", "user", "key", "list")
		p.refused(t, "hint: say which user", "user", "show")
		p.refused(t, "is not a fingerprint", "user", "key", "remove", "MD5:00", "--user", "ada")
		d.wants(t, p, "")
	})
}

func TestPasswords(t *testing.T) {
	t.Parallel()
	for claim, tt := range map[string]struct {
		admin, has   bool
		args, stdin  string
		secrets      []string
		asked, shown string
	}{
		"one's first is asked for twice":           {secrets: []string{"n3w", "n3w"}, asked: `PUT /users/ada/password {"new":"n3w"}`, shown: "new password of ada: \nonce more: \npassword of user ada is set\n"},
		"one's next needs the old one":             {has: true, secrets: []string{"old", "n3w", "n3w"}, asked: `PUT /users/ada/password {"old":"old","new":"n3w"}`, shown: "old password of ada: \n"},
		"administrators need no old one":           {admin: true, has: true, args: "bob", secrets: []string{"n3w", "n3w"}, asked: `PUT /users/bob/password {"new":"n3w"}`},
		"two that differ change nothing":           {secrets: []string{"n3w", "new"}, shown: "the two passwords differ; nothing was changed"},
		"an empty one is none":                     {secrets: []string{"", ""}, shown: "hint: dspool user password ada --remove"},
		"programs give it on stdin":                {args: "--stdin", stdin: "n3w with blanks \r\nmore\n", asked: `PUT /users/ada/password {"new":"n3w with blanks "}`},
		"programs give the old one first":          {has: true, args: "--stdin", stdin: "old\nn3w", asked: `PUT /users/ada/password {"old":"old","new":"n3w"}`},
		"programs that give nothing change none":   {args: "--stdin", shown: "stdin ended before an answer came"},
		"removing one's own needs the old one":     {has: true, args: "--remove", secrets: []string{"old"}, asked: `PUT /users/ada/password {"old":"old","new":""}`, shown: "password of user ada is removed\n"},
		"without a terminal stdin is to be named":  {shown: "hint: give it on stdin, with --stdin"},
		"a password on stdin is not also no other": {args: "--stdin --remove", stdin: "x\n", shown: "--remove takes no password from stdin"},
	} {
		t.Run(claim, func(t *testing.T) {
			t.Parallel()
			d := &desk{who: api.Whoami{User: "ada", Admin: tt.admin}, user: dspool.User{Name: "ada", HasPassword: tt.has}}
			p := start(t, d.ServeHTTP)
			if tt.secrets != nil {
				p.typed("", tt.secrets...)
			}
			if tt.stdin != "" {
				p.Stdin = strings.NewReader(tt.stdin)
			}
			p.run(t, append([]string{"user", "password"}, strings.Fields(tt.args)...)...)
			var want []string
			if tt.asked != "" {
				want = []string{tt.asked}
			}
			d.wants(t, p, tt.shown, want...)
		})
	}
}

func TestSessionsAreFound(t *testing.T) {
	t.Parallel()
	own := dspool.Session{ID: 3, User: "ada", Pool: "lab", Machine: "lab-7", State: dspool.SessionOpen}
	second := dspool.Session{ID: 5, User: "ada", Pool: "gpu", State: dspool.SessionWaiting}
	other := dspool.Session{ID: 4, User: "bob", Pool: "lab", State: dspool.SessionOpen}
	for claim, tt := range map[string]struct {
		who      string
		sessions []dspool.Session
		args     string
		asked    string
		shown    string
	}{
		"one's only one":             {"ada", []dspool.Session{other, own}, "", `POST /sessions/3/keep {"for":"2h"}`, ""},
		"one's own in a pool":        {"ada", []dspool.Session{other, own, second}, "gpu --for 30m", `POST /sessions/5/keep {"for":"30m"}`, ""},
		"any by its number":          {"", []dspool.Session{own, other}, "4 --for 0s", `POST /sessions/4/keep {"for":"0s"}`, "is no longer kept"},
		"none of several by a guess": {"ada", []dspool.Session{own, second}, "", "", "user ada has 2 sessions: 3 in lab, 5 in gpu\nhint: say which"},
		"none where there is none":   {"ada", []dspool.Session{other}, "", "", "user ada has no session\nhint: `dspool ssh` begins one"},
		"none in another pool":       {"ada", []dspool.Session{own}, "gpu", "", "user ada has no session in pool gpu\nhint: `dspool ssh gpu` begins one"},
		"none of root's":             {"", []dspool.Session{own}, "", "", "the host's root has no session of its own"},
		"none by nonsense":           {"ada", []dspool.Session{own}, "../3", "", "\"../3\" is neither a session's number nor a pool"},
		"none by a negative number":  {"ada", []dspool.Session{own}, "-- -3", "", "\"-3\" is neither a session's number nor a pool"},
	} {
		t.Run(claim, func(t *testing.T) {
			t.Parallel()
			d := &desk{who: api.Whoami{User: tt.who}, sessions: tt.sessions}
			p := start(t, d.ServeHTTP)
			p.run(t, append([]string{"session", "keep"}, strings.Fields(tt.args)...)...)
			var want []string
			if tt.asked != "" {
				want = []string{tt.asked}
			}
			d.wants(t, p, tt.shown, want...)
		})
	}
}

func TestClosingAsksBeforeSomethingIsLost(t *testing.T) {
	t.Parallel()
	alive := dspool.Session{ID: 3, User: "ada", Pool: "lab", Machine: "lab-7", State: dspool.SessionOpen, Active: true, Activity: told("a kernel runs"), Connections: 2}
	quiet := dspool.Session{ID: 3, User: "ada", Pool: "lab", Machine: "lab-7", State: dspool.SessionOpen}
	const question = "session 3 of ada on lab-7: something lives in it: a kernel runs, 2 connections open. End it? [y/N] "
	for claim, tt := range map[string]struct {
		session dspool.Session
		tty     bool
		answer  string
		args    string
		code    int
		shown   string
	}{
		"yes ends it":                {alive, true, "y\n", "", 0, question + "session 3 is closed\n"},
		"Enter keeps it":             {alive, true, "\n", "", 1, question + "dspool: session 3 stays\n"},
		"nonsense keeps it":          {alive, true, "yess\n", "", 1, question + "dspool: session 3 stays\n"},
		"--yes asks nothing":         {alive, true, "", "--yes", 0, "session 3 is closed\n"},
		"a quiet one is not asked":   {quiet, true, "", "", 0, "session 3 is closed\n"},
		"programs are never asked":   {alive, false, "", "", 0, "session 3 is closed\n"},
		"an answer that never comes": {alive, true, "", "", 2, question + "dspool: stdin ended before an answer came\n"},
	} {
		t.Run(claim, func(t *testing.T) {
			t.Parallel()
			d := &desk{who: api.Whoami{User: "ada"}, sessions: []dspool.Session{tt.session}}
			p := start(t, d.ServeHTTP)
			p.StdinTTY, p.Stdin = tt.tty, strings.NewReader(tt.answer)
			code := p.run(t, append([]string{"session", "close"}, strings.Fields(tt.args)...)...)
			if closed := slices.Contains(d.asked, "DELETE /sessions/3"); code != tt.code || p.err.String() != tt.shown || closed != (tt.code == 0) {
				t.Errorf("code %d, closed %t\n got %q\nwant %q", code, closed, p.err.String(), tt.shown)
			}
		})
	}
}
