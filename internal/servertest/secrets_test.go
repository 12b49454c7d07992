package servertest_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"sync"
	"testing"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/client"
	"github.com/dspool/dspool/internal/servertest"
)

// lockedBuffer takes what several goroutines log.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// Whatever people prove themselves with, and whatever they are given for it, is in no log, event or answer.
func TestSecretsAreInNoLogAndNoEvent(t *testing.T) {
	t.Parallel()
	var log lockedBuffer
	s := servertest.New(t, servertest.Options{LogTo: &log})
	ctx := t.Context()
	secrets := []string{"first-secret-4711", "second-secret-4712", "wrong-secret-4713", "wrong-new-4714"}
	if err := s.SetPassword(ctx, "ada", api.PasswordRequest{New: secrets[0]}); err != nil {
		t.Fatal(err)
	}
	login, err := s.WithToken("").Login(ctx, api.LoginRequest{User: "ada", Password: secrets[0]})
	if err != nil {
		t.Fatal(err)
	}
	ada := s.WithToken(login.Secret)
	token, err := ada.AddToken(ctx, api.AddTokenRequest{Name: "laptop"})
	if err != nil {
		t.Fatal(err)
	}
	cookie, _, err := s.Server.Control.BeginWebLogin(ctx, "ada", "password", "192.0.2.7:50000")
	if err != nil {
		t.Fatal(err)
	}
	secrets = append(secrets, login.Secret, token.Secret, cookie)
	for user, password := range map[string]string{"ada": secrets[2], "nobody-of-that-name": secrets[2]} {
		if _, err := s.WithToken("").Login(ctx, api.LoginRequest{User: user, Password: password}); dspool.ErrorCode(err) != dspool.Unauthenticated {
			t.Errorf("a wrong password of %s: %v", user, err)
		}
	}
	if err := ada.SetPassword(ctx, "ada", api.PasswordRequest{Old: secrets[2], New: secrets[3]}); dspool.ErrorCode(err) != dspool.Forbidden {
		t.Errorf("a wrong old password: %v", err)
	}
	for _, p := range []api.Proof{
		{User: "ada", From: "192.0.2.7:1", Protocol: dspool.ProtocolSSH, Method: "password", Password: secrets[0]},
		{User: "ada", From: "192.0.2.7:1", Protocol: dspool.ProtocolSSH, Method: "password", Password: secrets[2]},
	} {
		_, err := s.Server.Control.ProveWho(ctx, p)
		if right := p.Password == secrets[0]; right != (err == nil) {
			t.Errorf("a proof: %v", err)
		}
	}
	if err := ada.SetPassword(ctx, "ada", api.PasswordRequest{Old: secrets[0], New: secrets[1]}); err != nil {
		t.Fatal(err)
	}
	events, err := s.Events(ctx, client.EventFilter{Limit: 10_000})
	if err != nil {
		t.Fatal(err)
	}
	seen, err := json.Marshal(events)
	if err != nil {
		t.Fatal(err)
	}
	s.Stop() // all is logged
	if len(log.String()) == 0 {
		t.Error("nothing was logged, so that nothing was looked at")
	}
	for _, secret := range secrets {
		if strings.Contains(log.String(), secret) {
			t.Errorf("%q is in the log", secret)
		}
		if strings.Contains(string(seen), secret) {
			t.Errorf("%q is in an event", secret)
		}
	}
}
