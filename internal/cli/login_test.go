package cli_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"crypto/tls"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
)

// office is a server that people log in at: TLS by an authority of its own, certificates by another.
type office struct {
	*httptest.Server
	ca          []byte // PEM
	fingerprint string
	userCA      ssh.Signer
	hostCA      ssh.Signer
	doors       []dspool.Door
	known       string // lines for known_hosts

	mu      sync.Mutex
	asked   []string
	secret  string
	forged  bool // certificates are for another's key
	expires time.Time
	device  api.DeviceLogin
	name    string             // what the computer called itself
	polls   []http.HandlerFunc // what asking for the token gets, one after the other
}

func newSigner(t *testing.T) ssh.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func openOffice(t *testing.T) *office {
	t.Helper()
	o := &office{secret: "dspool_SECRET", userCA: newSigner(t), hostCA: newSigner(t), expires: time.Now().Add(12 * time.Hour)}
	o.doors = []dspool.Door{{Listen: ":2222", Protocol: dspool.ProtocolSSH, Pool: "lab"}, {Listen: "[::]:2223", Protocol: dspool.ProtocolSSH, Pool: "batch"}}
	o.known = o.knownFor("[localhost]:2222") + o.knownFor("[pool.example.org]:2222") + o.knownFor("[localhost]:2223")
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	root := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "own"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, root, root, pub, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: root.NotBefore, NotAfter: root.NotAfter, DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, root, pub, key)
	if err != nil {
		t.Fatal(err)
	}
	o.ca = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	o.fingerprint = strings.ToUpper(strings.ReplaceAll(fmt.Sprintf("% x", sha256.Sum256(der)), " ", ":"))
	o.Server = httptest.NewUnstartedServer(o)
	o.Config.ErrorLog = log.New(io.Discard, "", 0)
	o.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{leafDER}, PrivateKey: key}}}
	o.StartTLS()
	t.Cleanup(o.Close)
	return o
}

func (o *office) knownFor(pattern string) string {
	return "@cert-authority " + pattern + " " + string(ssh.MarshalAuthorizedKey(o.hostCA.PublicKey()))
}

func (o *office) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	o.mu.Lock()
	defer o.mu.Unlock()
	what := r.Method + " " + strings.TrimPrefix(r.URL.Path, "/api/v1")
	o.asked = append(o.asked, what)
	refuse := func(status int, code dspool.Code, text string) {
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(api.Problem{Detail: text, Code: code})
	}
	open := what == "GET /ca" || strings.HasPrefix(what, "POST /login") || what == "GET /ssh/known_hosts"
	if auth := r.Header.Get("Authorization"); open && auth != "" && what == "GET /ca" {
		refuse(500, dspool.Internal, "a token was sent where nobody needs it")
		return
	} else if !open && auth != "Bearer "+o.secret {
		refuse(401, dspool.Unauthenticated, "no valid token")
		return
	}
	switch what {
	case "GET /ca":
		_, _ = w.Write(o.ca)
	case "POST /login":
		var req api.LoginRequest
		_ = json.NewDecoder(r.Body).Decode(&req)
		if req.User != "ada" || req.Password != "correct horse" {
			refuse(401, dspool.Unauthenticated, "user or password is wrong")
			return
		}
		reply(w, api.Login{NewToken: api.NewToken{Token: dspool.Token{ID: "t9", User: "ada", Expires: &o.expires}, Secret: o.secret}, User: dspool.User{Name: "ada"}})
	case "POST /login/device":
		var req api.DeviceRequest
		_ = json.NewDecoder(r.Body).Decode(&req)
		o.name = req.Name
		reply(w, o.device)
	case "POST /login/device/token":
		var req api.DeviceTokenRequest
		_ = json.NewDecoder(r.Body).Decode(&req)
		if req.DeviceCode != o.device.DeviceCode || len(o.polls) == 0 {
			refuse(401, dspool.Unauthenticated, "this login has expired")
			return
		}
		answer := o.polls[0]
		o.polls = o.polls[1:]
		answer(w, r)
	case "POST /ssh/certificate":
		var req api.CertificateRequest
		_ = json.NewDecoder(r.Body).Decode(&req)
		key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(req.PublicKey))
		if err != nil {
			refuse(422, dspool.Invalid, "bad key")
			return
		}
		if o.forged {
			key = o.hostCA.PublicKey()
		}
		cert := ssh.Certificate{Key: key, CertType: ssh.UserCert, Serial: 7, KeyId: "ada", ValidPrincipals: []string{"ada"}, ValidAfter: uint64(time.Now().Add(-time.Minute).Unix()), ValidBefore: uint64(o.expires.Unix())}
		_ = cert.SignCert(rand.Reader, o.userCA)
		reply(w, api.Certificate{Certificate: string(ssh.MarshalAuthorizedKey(&cert)), Serial: 7, Expires: o.expires})
	case "GET /whoami":
		reply(w, api.Whoami{User: "ada"})
	case "GET /doors":
		reply(w, api.List[dspool.Door]{Items: o.doors})
	case "GET /pools/lab", "GET /pools/batch", "GET /pools/gpu":
		reply(w, api.PoolStatus{})
	case "GET /ssh/known_hosts":
		_, _ = io.WriteString(w, o.known)
	case "DELETE /tokens/t9":
		w.WriteHeader(http.StatusNoContent)
	default:
		http.NotFound(w, r)
	}
}

func (o *office) wasAsked(what string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Contains(o.asked, what)
}

// at makes a program of a person with a home directory.
func (o *office) at(t *testing.T, home string) *program {
	t.Helper()
	p := start(t, nil)
	p.env["HOME"], p.env["USER"] = home, "ada"
	p.Now = time.Now
	return p
}

// typed is what a person types at a terminal: answers to questions, and passwords unseen.
func (p *program) typed(answers string, secrets ...string) {
	p.StdinTTY, p.Stdin = true, strings.NewReader(answers)
	p.Secret = func(context.Context) (string, error) {
		if len(secrets) == 0 {
			return "", errors.New("asked once too often")
		}
		s := secrets[0]
		secrets = secrets[1:]
		return s, nil
	}
}

func (p *program) must(t *testing.T, args ...string) {
	t.Helper()
	if code := p.run(t, args...); code != 0 {
		t.Fatalf("%v: code %d: %s", args, code, p.err.String())
	}
}

// refused says whether a run failed with that text, and shows what it said when not.
func (p *program) refused(t *testing.T, text string, args ...string) {
	t.Helper()
	if code := p.run(t, args...); code == 0 || !strings.Contains(p.err.String(), text) {
		t.Errorf("%v: code %d, want a refusal with %q:\n%s", args, code, text, p.err.String())
	}
}

// startAgent starts a real ssh-agent.
func startAgent(t *testing.T) (socket string, keys agent.ExtendedAgent) {
	t.Helper()
	path, err := exec.LookPath("ssh-agent")
	if err != nil {
		t.Skip("ssh-agent is not installed")
	}
	dir, err := os.MkdirTemp("", "agent") // short, for the socket's name
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket = filepath.Join(dir, "s")
	cmd := exec.Command(path, "-D", "-a", socket)
	out, err := cmd.StdoutPipe() // it says its socket once it listens
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return socket, agent.NewClient(conn)
}

func TestLoginPutsACertificateIntoTheAgentAndPrintsTheToken(t *testing.T) {
	t.Parallel()
	o, home := openOffice(t), t.TempDir()
	socket, keys := startAgent(t)
	_, other, _ := ed25519.GenerateKey(rand.Reader)
	if err := keys.Add(agent.AddedKey{PrivateKey: &other, Comment: "dspool my own key"}); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second takes the first one's place
		p := o.at(t, home)
		p.env["SSH_AUTH_SOCK"] = socket
		p.Stdin = strings.NewReader("correct horse\n")
		p.must(t, "login", "--url", o.URL, "--stdin", "--fingerprint", strings.ToLower(o.fingerprint))
		ca := filepath.Join(home, ".config/dspool/authorities/"+strings.NewReplacer(":", "_").Replace(strings.TrimPrefix(o.URL, "https://"))+".pem")
		if want := fmt.Sprintf("export DSPOOL_URL=%s\nexport DSPOOL_TOKEN=dspool_SECRET\nexport DSPOOL_CA=%s\n", o.URL, ca); p.out.String() != want {
			t.Errorf("got %s\nwant %s", p.out.String(), want)
		}
		if strings.Contains(p.err.String(), "SECRET") || !strings.Contains(p.err.String(), "in the ssh-agent until") {
			t.Errorf("stderr: %s", p.err.String())
		}
	}
	list, err := keys.List()
	if err != nil || len(list) != 2 {
		t.Fatalf("%d keys in the agent, want the certificate and the user's own key: %v", len(list), err)
	}
	if c := list[1]; c.Comment != "dspool ada@127.0.0.1" || !strings.Contains(c.Format, "cert") {
		t.Errorf("%s %s", c.Format, c.Comment)
	}
	if _, err := os.Stat(filepath.Join(home, ".ssh")); err == nil {
		t.Error("a key was also written to a file")
	}
	p := o.at(t, home)
	p.env["SSH_AUTH_SOCK"] = socket
	p.must(t, "logout")
	if list, _ := keys.List(); len(list) != 1 || list[0].Comment != "dspool my own key" {
		t.Errorf("after logout: %v", list)
	}
}

func TestLoginSavesOnlyWhenAsked(t *testing.T) {
	t.Parallel()
	o, home := openOffice(t), t.TempDir()
	file := filepath.Join(home, ".config/dspool/credentials.json")
	p := o.at(t, home)
	p.typed("y\n", "correct horse")
	p.must(t, "login", "--url", o.URL, "--save")
	if p.out.Len() > 0 || !strings.Contains(p.err.String(), o.fingerprint) || !strings.Contains(p.err.String(), "Is that the right one? [y/N]") {
		t.Errorf("stdout %q, stderr %s", p.out.String(), p.err.String())
	}
	for path, mode := range map[string]os.FileMode{file: 0o600, filepath.Dir(file): os.ModeDir | 0o700, home + "/.ssh/dspool-ed25519": 0o600, home + "/.ssh/dspool-ed25519-cert.pub": 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode() != mode {
			t.Errorf("%s: %v, want mode %v", path, info, mode)
		}
	}
	t.Run("ssh can use the files", func(t *testing.T) {
		out, err := exec.Command("ssh-keygen", "-y", "-f", home+"/.ssh/dspool-ed25519").Output()
		if errors.Is(err, exec.ErrNotFound) {
			t.Skip(err)
		}
		cert, err2 := os.ReadFile(home + "/.ssh/dspool-ed25519-cert.pub")
		key, _, _, _, err3 := ssh.ParseAuthorizedKey(cert)
		private, _, _, _, err4 := ssh.ParseAuthorizedKey(out)
		if err := errors.Join(err, err2, err3, err4); err != nil || !bytes.Equal(key.(*ssh.Certificate).Key.Marshal(), private.Marshal()) {
			t.Error(err)
		}
	})
	t.Run("later commands use it, and ask nothing", func(t *testing.T) {
		p := o.at(t, home)
		p.must(t, "door", "list")
		p = o.at(t, home)
		p.typed("", "correct horse")
		p.must(t, "login", "--save")
		if strings.Contains(p.err.String(), "[y/N]") {
			t.Error(p.err.String())
		}
		p = o.at(t, home)
		p.env["DSPOOL_STATE_DIR"] = "/nonexistent"
		p.refused(t, "no dspool server answers at /nonexistent/dspool.sock", "door", "list")
	})
	t.Run("one that others may read is refused", func(t *testing.T) {
		if err := os.Chmod(file, 0o640); err != nil {
			t.Fatal(err)
		}
		o.at(t, home).refused(t, "others may read it", "door", "list")
		if err := os.Chmod(file, 0o600); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("logout ends the token and removes the files", func(t *testing.T) {
		o.at(t, home).must(t, "logout")
		if !o.wasAsked("DELETE /tokens/t9") {
			t.Error("the token lives on")
		}
		for _, path := range []string{file, home + "/.ssh/dspool-ed25519", home + "/.ssh/dspool-ed25519-cert.pub"} {
			if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s is still there", path)
			}
		}
		p := o.at(t, home)
		p.must(t, "logout")
		if p.err.String() != "no login is saved\n" {
			t.Error(p.err.String())
		}
	})
	t.Run("an expired one says so", func(t *testing.T) {
		o.mu.Lock()
		o.expires = time.Now().Add(-time.Second)
		o.mu.Unlock()
		p := o.at(t, home)
		p.typed("", "correct horse")
		p.must(t, "login", "--url", o.URL, "--save")
		o.at(t, home).refused(t, "the saved login of \"ada\" at "+fmt.Sprintf("%q", o.URL)+" has expired\nhint: log in again", "door", "list")
	})
}

func TestNoPasswordGoesToAServerThatIsNotTrusted(t *testing.T) {
	t.Parallel()
	for claim, tt := range map[string]struct {
		prepare func(*program, *office)
		args    string
		text    string
	}{
		"a person who says no":      {func(p *program, _ *office) { p.typed("\n", "correct horse") }, "", "is not trusted; no password was sent"},
		"a person who says nothing": {func(p *program, _ *office) { p.typed("", "correct horse") }, "", "stdin ended before an answer came"},
		"nobody to ask":             {func(p *program, _ *office) { p.Stdin = strings.NewReader("correct horse\n") }, "--stdin", "hint: give --ca FILE"},
		"another fingerprint":       {func(p *program, _ *office) { p.typed("y\n", "correct horse") }, "--fingerprint " + strings.Repeat("AB:", 31) + "AB", "has an authority with another fingerprint"},
		"a fingerprint cut short":   {func(p *program, _ *office) { p.typed("y\n", "correct horse") }, "--fingerprint AB", "has an authority with another fingerprint"},
		"a missing authority file":  {func(p *program, _ *office) { p.typed("y\n", "correct horse") }, "--ca /nonexistent.pem", "the authority to trust cannot be read"},
		"the socket":                {func(p *program, _ *office) {}, "--state-dir /x", "the server's socket needs no login"},
		"root":                      {func(p *program, _ *office) { p.env["USER"] = "root" }, "", "\"root\" is no user of a pool\nhint: give --user"},
		"nobody":                    {func(p *program, _ *office) { delete(p.env, "USER") }, "", "nobody knows who you are"},
		"an option as a name":       {func(p *program, _ *office) {}, "--user -oProxyCommand=x", "is no user of a pool"},
		"no terminal":               {func(p *program, o *office) {}, "--fingerprint FP", "there is no terminal to ask for a password\nhint: give it on stdin, with --stdin"},
	} {
		t.Run(claim, func(t *testing.T) {
			t.Parallel()
			o := openOffice(t)
			p := o.at(t, t.TempDir())
			tt.prepare(p, o)
			p.refused(t, tt.text, append([]string{"login", "--url", o.URL}, strings.Fields(strings.ReplaceAll(tt.args, "FP", o.fingerprint))...)...)
			if o.wasAsked("POST /login") {
				t.Error("the password was sent")
			}
		})
	}
	t.Run("another server in the place of the one that was trusted", func(t *testing.T) {
		t.Parallel()
		o, home := openOffice(t), t.TempDir()
		p := o.at(t, home)
		p.typed("y\n", "correct horse")
		p.must(t, "login", "--url", o.URL, "--save")
		path := filepath.Join(home, ".config/dspool/authorities", strings.ReplaceAll(strings.TrimPrefix(o.URL, "https://"), ":", "_")+".pem")
		if err := os.WriteFile(path, openOffice(t).ca, 0o600); err != nil {
			t.Fatal(err)
		}
		o.asked = nil
		p = o.at(t, home)
		p.typed("y\n", "correct horse")
		p.refused(t, "is no longer vouched for by the authority that it had before", "login")
		if o.wasAsked("POST /login") {
			t.Error("the password was sent")
		}
	})
	t.Run("plain http", func(t *testing.T) {
		t.Parallel()
		p := start(t, nil)
		p.env["USER"] = "ada"
		p.refused(t, "would send the token in the clear", "login", "--url", "http://pool.example.org:8443")
	})
}

func TestTheShellRunsNothingThatAServerSays(t *testing.T) {
	t.Parallel()
	o, home := openOffice(t), t.TempDir()
	o.secret = "x'; touch " + home + "/ran; $(touch " + home + "/ran)\ntouch " + home + "/ran\n#"
	p := o.at(t, home)
	p.typed("", "correct horse")
	// The certificate needs a token that fits into a header.
	if code := p.run(t, "login", "--url", o.URL, "--fingerprint", o.fingerprint); code == 0 || p.out.Len() > 0 {
		t.Errorf("code %d, stdout %q", code, p.out.String())
	}
	o.secret = strings.ReplaceAll(o.secret, "\n", ";")
	p = o.at(t, home)
	p.typed("", "correct horse")
	p.must(t, "login", "--url", o.URL, "--fingerprint", o.fingerprint)
	cmd := exec.Command("sh", "-c", p.out.String()+"\nprintf %s \"$DSPOOL_TOKEN\"")
	if got, err := cmd.Output(); err != nil || string(got) != o.secret {
		t.Errorf("%v: %q", err, got)
	}
	if _, err := os.Stat(home + "/ran"); err == nil {
		t.Error("the shell ran it")
	}
}

func TestALoginThatFailsLeavesNothing(t *testing.T) {
	t.Parallel()
	t.Run("a wrong password", func(t *testing.T) {
		t.Parallel()
		o := openOffice(t)
		p := o.at(t, t.TempDir())
		p.typed("", "wrong")
		if code := p.run(t, "login", "--url", o.URL, "--fingerprint", o.fingerprint); code != 4 || !strings.Contains(p.err.String(), "dspool: user or password is wrong\nhint: after several wrong ones, wait some minutes; who has no password logs in with dspool login --web\n") {
			t.Errorf("code %d: %s", code, p.err.String())
		}
	})
	t.Run("a certificate for another's key ends the token", func(t *testing.T) {
		t.Parallel()
		o, home := openOffice(t), t.TempDir()
		o.forged = true
		p := o.at(t, home)
		p.typed("", "correct horse")
		p.refused(t, "did not answer with a certificate for user \"ada\"", "login", "--url", o.URL, "--fingerprint", o.fingerprint, "--save")
		if !o.wasAsked("DELETE /tokens/t9") || p.out.Len() > 0 {
			t.Errorf("the token lives on; stdout %q", p.out.String())
		}
		if _, err := os.Stat(filepath.Join(home, ".config/dspool/credentials.json")); err == nil {
			t.Error("the login was saved")
		}
	})
}
