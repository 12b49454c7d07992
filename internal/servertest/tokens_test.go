package servertest_test

import (
	"crypto/ed25519"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/client"
	"github.com/dspool/dspool/internal/servertest"
)

// What somebody gets by a token that was found lasts no longer than that token, nor than the next password.
func TestNothingOutlivesTheTokenThatItWasMadeBy(t *testing.T) {
	t.Parallel()
	s := servertest.New(t, servertest.Options{})
	ctx := t.Context()
	const first, second = "a-first-password-7", "a-second-password-8"
	if err := s.SetPassword(ctx, "ada", api.PasswordRequest{New: first}); err != nil {
		t.Fatal(err)
	}
	login := func(password string, life time.Duration) (*client.Client, api.Login) {
		t.Helper()
		l, err := s.WithToken("").Login(ctx, api.LoginRequest{User: "ada", Password: password, Expires: dspool.Duration(life)})
		if err != nil {
			t.Fatal(err)
		}
		return s.WithToken(l.Secret), l
	}
	dead := func(what string, c *client.Client) {
		t.Helper()
		if _, err := c.Whoami(ctx); dspool.ErrorCode(err) != dspool.Unauthenticated {
			t.Errorf("%s still counts: %v", what, err)
		}
	}
	found, minute := login(first, time.Minute)
	for _, asked := range []dspool.Duration{0, dspool.Duration(time.Hour)} {
		made, err := found.AddToken(ctx, api.AddTokenRequest{Name: "for ever", Expires: asked})
		if err != nil || made.Expires == nil || made.Expires.After(*minute.Expires) {
			t.Errorf("asked for %s: it expires %v, %v; its parent %v", asked, made.Expires, err, minute.Expires)
		}
	}
	short, err := found.AddToken(ctx, api.AddTokenRequest{Expires: dspool.Duration(time.Second)})
	if err != nil || !short.Expires.Before(*minute.Expires) {
		t.Errorf("one of a second expires %v, %v", short.Expires, err)
	}
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := found.SignCertificate(ctx, api.CertificateRequest{PublicKey: string(ssh.MarshalAuthorizedKey(signer.PublicKey()))})
	if err != nil || cert.Expires.After(*minute.Expires) {
		t.Errorf("a certificate expires %v, %v", cert.Expires, err)
	}
	made, err := found.AddToken(ctx, api.AddTokenRequest{})
	if err != nil {
		t.Fatal(err)
	}
	child, err := s.WithToken(made.Secret).AddToken(ctx, api.AddTokenRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.RevokeToken(ctx, minute.ID); err != nil {
		t.Fatal(err)
	}
	dead("the token", found)
	dead("one that was made by it", s.WithToken(made.Secret))
	dead("one that was made by that", s.WithToken(child.Secret))

	own, _ := login(first, time.Hour)
	other, _ := login(first, time.Hour)
	given := s.As("ada")
	if err := own.SetPassword(ctx, "ada", api.PasswordRequest{Old: first, New: second}); err != nil {
		t.Fatal(err)
	}
	dead("another login's token, after a new password", other)
	dead("a token that was given, after a new password", given)
	if _, err := own.Whoami(ctx); err != nil {
		t.Errorf("the token by which the password was set: %v", err)
	}
	if err := s.SetPassword(ctx, "ada", api.PasswordRequest{New: first}); err != nil {
		t.Fatal(err)
	}
	dead("the token of who was logged in, after an administrator's password", own)

	// An administrator gives others what lasts.
	grace := s.As("grace")
	lasting, err := grace.AddToken(ctx, api.AddTokenRequest{User: "ada"})
	if err != nil || lasting.Expires != nil {
		t.Errorf("it expires %v, %v", lasting.Expires, err)
	}
}
