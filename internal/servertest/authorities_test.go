package servertest_test

import (
	"crypto/ed25519"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/client"
	"github.com/dspool/dspool/internal/servertest"
)

// authority makes the key of an SSH certificate authority: its line of a .pub file and its fingerprint.
func authority(t *testing.T) (line, fingerprint string) {
	t.Helper()
	public, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))), ssh.FingerprintSHA256(key)
}

func TestAuthoritiesOfTheTeam(t *testing.T) {
	t.Parallel()
	s := servertest.New(t, servertest.Options{})
	ctx := t.Context()
	line, theirs := authority(t)
	with := func(lines ...string) string {
		text := servertest.Config + "ssh:\n  user_authorities:\n"
		for _, l := range lines {
			text += "    - '" + l + "'\n"
		}
		return text
	}
	proof := api.Proof{User: "ada", From: "192.0.2.1:1", Protocol: dspool.ProtocolSSH, Method: "certificate", Key: "SHA256:k", Serial: 7, KeyID: "laptop", Authority: theirs}
	come := func(change func(*api.Proof)) int {
		p := proof
		change(&p)
		return atGateway(ctx, t, s, "authenticate", p, nil)
	}
	as := func(user string) func(*api.Proof) { return func(p *api.Proof) { p.User = user } }
	if status := come(as("ada")); status != http.StatusUnauthorized {
		t.Fatalf("an authority that nobody trusts: %d", status)
	}
	t.Run("the plan names them, and applied they let people in", func(t *testing.T) {
		req := s.ConfigRequest(with(line + " team@example.org"))
		res, err := s.Apply(ctx, req)
		if err != nil || len(res.Changes) != 1 || res.Changes[0].Kind != "ssh" || res.Changes[0].Detail != "user_authorities: (none) → "+theirs {
			t.Fatalf("%+v %v", res, err)
		}
		if res, err = s.Apply(ctx, req); err != nil || len(res.Changes) != 0 {
			t.Fatalf("again: %+v %v", res, err)
		}
		var id api.Identity
		p := proof
		if status := atGateway(ctx, t, s, "authenticate", p, &id); status != http.StatusOK || id.User != "ada" || id.Auth != "certificate 7 of authority "+theirs+", SHA256:k" {
			t.Fatalf("%d %+v", status, id)
		}
		if status := come(as("carol")); status != http.StatusUnauthorized {
			t.Errorf("somebody without an account: %d", status)
		}
	})
	for claim, tt := range map[string]struct{ text, want string }{
		"a private key":   {with("-----BEGIN OPENSSH PRIVATE KEY-----"), "it is a private key"},
		"no key":          {with("ssh-ed25519 AAAA"), "it cannot be read"},
		"a key twice":     {with(line, line+" again"), theirs + " is there twice"},
		"options":         {with("cert-authority " + line), "it has options"},
		"something else":  {servertest.Config + "ssh: {user_authority: x}\n", `unknown key "user_authority" of ssh`},
		"one, not a list": {servertest.Config + "ssh: {user_authorities: '" + line + "'}\n", "must be a list"},
	} {
		t.Run("refused: "+claim, func(t *testing.T) {
			if _, err := s.Apply(ctx, s.ConfigRequest(tt.text)); dspool.ErrorCode(err) != dspool.Invalid || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v", err)
			}
		})
	}
	t.Run("a serial number is revoked for its authority alone", func(t *testing.T) {
		own, err := s.As("ada").SignCertificate(ctx, api.CertificateRequest{PublicKey: publicKey(t)})
		if err != nil {
			t.Fatal(err)
		}
		ours := func(p *api.Proof) { p.Authority, p.Serial = "", own.Serial }
		same := func(p *api.Proof) { p.Serial = own.Serial }
		if err := s.Revoke(ctx, api.RevocationRequest{Serial: own.Serial, Authority: theirs}); err != nil {
			t.Fatal(err)
		}
		if a, b := come(ours), come(same); a != http.StatusOK || b != http.StatusUnauthorized {
			t.Errorf("theirs revoked: ours %d, theirs %d", a, b)
		}
		if err := s.Revoke(ctx, api.RevocationRequest{Serial: own.Serial}); err != nil {
			t.Fatal(err)
		}
		if a, b := come(ours), come(as("ada")); a != http.StatusUnauthorized || b != http.StatusOK {
			t.Errorf("ours revoked: ours %d, their other %d", a, b)
		}
		for _, req := range []api.RevocationRequest{{Serial: 1, Authority: "team"}, {Fingerprint: theirs, Authority: theirs}, {Authority: theirs}} {
			if err := s.Revoke(ctx, req); dspool.ErrorCode(err) != dspool.Invalid {
				t.Errorf("%+v: %v", req, err)
			}
		}
	})
	t.Run("a name that was given again needs a certificate from later", func(t *testing.T) {
		began := uint64(time.Now().Add(-time.Hour).Unix())
		if status := come(func(p *api.Proof) { p.User, p.ValidAfter = "bob", began }); status != http.StatusOK {
			t.Fatalf("the first bob: %d", status)
		}
		if err := s.RemoveUser(ctx, "bob"); err != nil {
			t.Fatal(err)
		}
		if status := come(as("bob")); status != http.StatusUnauthorized {
			t.Errorf("a removed one: %d", status)
		}
		home := filepath.Join(s.Dir, "shares", "home", "bob")
		if err := os.Rename(home, home+".old"); err != nil {
			t.Fatal(err)
		}
		if _, err := s.AddUser(ctx, api.AddUserRequest{Name: "bob"}); err != nil {
			t.Fatal(err)
		}
		for after, want := range map[uint64]int{began: http.StatusUnauthorized, 0: http.StatusUnauthorized, uint64(time.Now().Add(time.Second).Unix()): http.StatusOK} {
			if status := come(func(p *api.Proof) { p.User, p.ValidAfter = "bob", after }); status != want {
				t.Errorf("good from %d: %d, want %d", after, status, want)
			}
		}
	})
	t.Run("a revoked authority stays out, and so does one that the file no longer names", func(t *testing.T) {
		if err := s.Revoke(ctx, api.RevocationRequest{Fingerprint: theirs}); err != nil {
			t.Fatal(err)
		}
		if status := come(as("grace")); status != http.StatusUnauthorized {
			t.Errorf("revoked: %d", status)
		}
		other, print := authority(t)
		for _, text := range []string{with(other), servertest.Config} {
			if _, err := s.Apply(ctx, s.ConfigRequest(text)); err != nil {
				t.Fatal(err)
			}
			want := http.StatusUnauthorized
			if strings.Contains(text, other) {
				want = http.StatusOK
			}
			if status := come(func(p *api.Proof) { p.Authority = print }); status != want {
				t.Errorf("status %d, want %d", status, want)
			}
		}
	})
	if events, err := s.Events(ctx, client.EventFilter{Latest: true, Limit: 100}); err != nil || !strings.Contains(mustJSON(t, events), " of authority "+theirs+" revoked") {
		t.Errorf("no event says what was revoked: %v", err)
	}
}
