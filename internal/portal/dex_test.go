package portal_test

import (
	"bufio"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/dspool/dspool/internal/portal"
)

// dex is a real OpenID provider that runs for one test.
type dex struct {
	t                *testing.T
	issuer, controls string
}

// buildDex builds the provider once. It is a module of its own, because nothing but this test needs it.
var buildDex = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "dspool-dex-")
	if err != nil {
		return "", err
	}
	built = dir
	bin := filepath.Join(dir, "dex")
	cmd := exec.Command("go", "build", "-modfile=", "-o", bin, ".") // not the one of scripts/go
	cmd.Dir = "testdata/dex"
	out, err := cmd.CombinedOutput()
	if err != nil {
		os.Stderr.Write(out)
	}
	return bin, err
})

var built string // directory of what buildDex has built

func TestMain(m *testing.M) {
	code := m.Run()
	if built != "" {
		os.RemoveAll(built)
	}
	os.Exit(code)
}

// withDex has people log in at a provider of this test.
func (w *world) withDex(create bool) *dex {
	w.t.Helper()
	bin, err := buildDex()
	if err != nil {
		w.t.Skipf("SKIPPED: dex, a real OpenID provider, could not be built: %v", err)
	}
	cmd := exec.Command(bin, w.web.URL+"/login/oidc/callback")
	in, err := cmd.StdinPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { in.Close(); cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		w.t.Fatal(err)
	}
	d := &dex{t: w.t}
	d.issuer, d.controls, _ = strings.Cut(strings.TrimSpace(line), " ")
	w.change(func(s *portal.Settings) {
		s.OIDC = &portal.OIDC{
			Issuer: d.issuer, ClientID: "portal", ClientSecret: func() (string, error) { return "the portal's secret", nil },
			UsernameClaim: "preferred_username", Scopes: []string{"openid", "profile", "email", "groups"}, CreateUsers: create,
		}
	})
	return d
}

func (d *dex) control(path string, form url.Values) {
	d.t.Helper()
	res, err := http.PostForm(d.controls+path, form)
	if err != nil {
		d.t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusOK {
		d.t.Fatal(res.Status)
	}
}

// person is somebody whom the provider knows by an e-mail address; the id makes the subject.
func (d *dex) person(email, id, name string, more ...string) {
	d.control("/user", url.Values{"email": {email}, "id": {id}, "name": {name}, "password": {password}, "verified": more[:min(1, len(more))], "group": more[min(1, len(more)):]})
}

func (d *dex) rotate() { d.control("/rotate", nil) }

var dexForm = regexp.MustCompile(`action="([^"]+)"`)

// atProvider begins a login in a browser, gives the password at the provider and returns the address
// that it leads back to.
func (b *browser) atProvider(email, next string) string {
	b.t.Helper()
	p := b.get("/login/oidc?next=" + url.QueryEscape(next))
	if p.status != http.StatusSeeOther {
		b.t.Fatalf("%d %s", p.status, p.body)
	}
	at, posted := p.to(), false
	for range 10 {
		if strings.HasPrefix(at, b.base) {
			return at
		}
		here, err := url.Parse(at)
		if err != nil {
			b.t.Fatal(err)
		}
		p := b.do(b.request("GET", at, nil))
		if m := dexForm.FindStringSubmatch(p.body); m != nil && !posted {
			to, err := here.Parse(strings.ReplaceAll(m[1], "&amp;", "&"))
			if err != nil {
				b.t.Fatal(err)
			}
			posted = true
			p = b.do(b.request("POST", to.String(), url.Values{"login": {email}, "password": {password}}))
			here = to
		}
		to, err := here.Parse(p.to())
		if err != nil || p.to() == "" {
			b.t.Fatalf("the provider answers %d %s", p.status, p.body)
		}
		at = to.String()
	}
	b.t.Fatal("the provider leads on and on")
	return ""
}

var subjectField = regexp.MustCompile(`--subject (\S+?)[.<]`)
