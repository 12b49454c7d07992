package client_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"io/fs"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/client"
)

func TestSavedLogins(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	env := map[string]string{"HOME": home}
	getenv := func(k string) string { return env[k] }
	path := client.CredentialsFile(getenv)
	if path != home+"/.config/dspool/credentials.json" {
		t.Fatal(path)
	}
	saved := client.Credentials{URL: "https://x", User: "ada", Token: "secret", TokenID: "t1", CA: "PEM", Expires: time.Now().Add(time.Hour).UTC()}
	if err := saved.Save(path); err != nil {
		t.Fatal(err)
	}
	if got, err := client.ReadCredentials(path); err != nil || cmp.Diff(saved, got) != "" {
		t.Error(err, cmp.Diff(saved, got))
	}
	from := func(env map[string]string, stateDir string) client.Options {
		t.Helper()
		env["HOME"] = home
		o, err := client.FromEnv(func(k string) string { return env[k] }, stateDir)
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	for claim, tt := range map[string]struct {
		env  map[string]string
		dir  string
		want client.Options
	}{
		"counts where nothing else is said":       {map[string]string{}, "", client.Options{URL: "https://x", Token: "secret", CA: []byte("PEM")}},
		"takes another token for the same server": {map[string]string{"DSPOOL_TOKEN": "t"}, "", client.Options{URL: "https://x", Token: "t", CA: []byte("PEM")}},
		"never sends its token to another server": {map[string]string{"DSPOOL_URL": "https://y"}, "", client.Options{URL: "https://y"}},
		"comes after DSPOOL_STATE_DIR":            {map[string]string{"DSPOOL_STATE_DIR": "/s"}, "", client.Options{Socket: "/s/dspool.sock"}},
		"comes after a given state directory":     {map[string]string{}, "/mine", client.Options{Socket: "/mine/dspool.sock"}},
		"lies elsewhere by XDG_CONFIG_HOME":       {map[string]string{"XDG_CONFIG_HOME": t.TempDir()}, "", client.Options{Socket: "/var/lib/dspool/dspool.sock"}},
		"is not looked for below a relative path": {map[string]string{"XDG_CONFIG_HOME": "here"}, "", client.Options{URL: "https://x", Token: "secret", CA: []byte("PEM")}},
	} {
		if diff := cmp.Diff(tt.want, from(tt.env, tt.dir)); diff != "" {
			t.Errorf("a saved login %s:\n%s", claim, diff)
		}
	}
	// What is wrong with a file is said, and its token stays unused.
	wrong := func(claim, text string, prepare func(path string) error) {
		t.Helper()
		path := filepath.Join(t.TempDir(), "dspool", "credentials.json")
		if err := errors.Join(saved.Save(path), prepare(path)); err != nil {
			t.Fatal(err)
		}
		o, err := client.FromEnv(func(k string) string {
			return map[string]string{"XDG_CONFIG_HOME": filepath.Dir(filepath.Dir(path))}[k]
		}, "")
		if dspool.ErrorCode(err) != dspool.Forbidden && dspool.ErrorCode(err) != dspool.Unauthenticated || !strings.Contains(err.Error(), text) || o.Token != "" {
			t.Errorf("%s: %v, token %q", claim, err, o.Token)
		}
	}
	wrong("readable by the group", "others may read it (mode 0640)", func(p string) error { return os.Chmod(p, 0o640) })
	wrong("a fifo", "no regular file", func(p string) error { return errors.Join(os.Remove(p), syscall.Mkfifo(p, 0o600)) })
	wrong("a directory", "no regular file", func(p string) error { return errors.Join(os.Remove(p), os.Mkdir(p, 0o700)) })
	wrong("no login", "it holds no login", func(p string) error { return os.WriteFile(p, []byte("{}"), 0o600) })
	wrong("no JSON", "it holds no login", func(p string) error { return os.WriteFile(p, []byte("\x00"), 0o600) })
	wrong("expired", "has expired", func(p string) error {
		c := saved
		c.Expires = time.Now().Add(-time.Second)
		return c.Save(p)
	})
	if os.Geteuid() == 0 {
		wrong("another user's", "it belongs to another user", func(p string) error { return os.Chown(p, 12345, 12345) })
	}
	if _, err := client.ReadCredentials(filepath.Join(home, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func TestAFileIsWrittenWholeOrNotAtAll(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "new", "file")
	if err := client.WriteFile(path, []byte("one"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "new", "busy"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := client.WriteFile(filepath.Join(dir, "new", "busy"), []byte("two"), 0o600); err == nil {
		t.Error("a directory was replaced")
	}
	names, _ := filepath.Glob(filepath.Join(dir, "new", ".*"))
	if len(names) > 0 {
		t.Errorf("left behind: %v", names)
	}
	if err := client.WriteFile("/dev/null/x", nil, 0o600); err == nil || !strings.Contains(err.Error(), "write /dev/null/x") {
		t.Error(err)
	}
}

// own is a server whose certificate an authority of its own vouches for, and that authority.
func own(t *testing.T, answer func(ca []byte) []byte) (url string, ca []byte) {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	root := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, root, root, pub, key)
	if err != nil {
		t.Fatal(err)
	}
	ca = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			t.Error("a token was sent before anything is trusted")
		}
		_, _ = w.Write(answer(ca))
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.URL, ca
}

func TestAnAuthorityIsFetchedToBeCompared(t *testing.T) {
	t.Parallel()
	url, ca := own(t, func(ca []byte) []byte { return ca })
	got, err := client.FetchCA(t.Context(), url)
	if err != nil || string(got) != string(ca) {
		t.Fatalf("%v: %s", err, got)
	}
	fp, err := client.Fingerprint(got)
	if err != nil || len(fp) != 32*3-1 {
		t.Fatal(fp, err)
	}
	for same, want := range map[string]bool{fp: true, strings.ToLower(fp): true, strings.ReplaceAll(fp, ":", ""): true, "sha256:" + fp + "\n": true, fp[:62]: false, "": false, "SHA256:": false, strings.Repeat("00:", 31) + "00": false} {
		if client.SameFingerprint(fp, same) != want {
			t.Errorf("%q: not %t", same, want)
		}
	}
	ask := func(ca []byte) error {
		c, err := client.New(client.Options{URL: url, CA: ca})
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.CA(t.Context())
		return err
	}
	if err := ask(nil); !client.Untrusted(err) {
		t.Errorf("the system trusts it: %v", err)
	}
	if err := ask(ca); err != nil {
		t.Error(err)
	}
	// A certificate for another name is no question of trust.
	byName := strings.Replace(url, "127.0.0.1", "localhost", 1)
	c, err := client.New(client.Options{URL: byName, CA: ca})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.CA(t.Context()); err == nil || client.Untrusted(err) || !strings.Contains(err.Error(), "under server.names") {
		t.Error(err)
	}
	for claim, tt := range map[string]struct {
		answer func([]byte) []byte
		text   string
	}{
		"a page":           {func([]byte) []byte { return []byte("<html>") }, "it is no PEM certificate"},
		"a key":            {func([]byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY"}) }, "it is no PEM certificate"},
		"two certificates": {func(ca []byte) []byte { return append(ca[:len(ca):len(ca)], ca...) }, "more than one certificate"},
		"rubbish":          {func([]byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")}) }, "cannot be read"},
	} {
		url, _ := own(t, tt.answer)
		if _, err := client.FetchCA(context.Background(), url); dspool.ErrorCode(err) != dspool.Invalid || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%s: %v", claim, err)
		}
	}
}
