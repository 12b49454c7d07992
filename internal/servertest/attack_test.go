package servertest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/client"
	"github.com/dspool/dspool/internal/servertest"
	"github.com/dspool/dspool/internal/testkit"
)

// atGateway makes a request as the gateway does, and returns the status.
func atGateway(ctx context.Context, t *testing.T, s *servertest.System, path string, in, out any) int {
	t.Helper()
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(s.Dir, "gateway.sock"))
	}}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://server/gateway/v1/"+path, strings.NewReader(mustJSON(t, in)))
	if err != nil {
		t.Fatal(err)
	}
	res, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if text, _ := io.ReadAll(res.Body); out == nil {
		t.Logf("%s", text)
	} else if out != nil && res.StatusCode == http.StatusOK {
		if err := json.NewDecoder(bytes.NewReader(text)).Decode(out); err != nil {
			t.Fatal(err)
		}
	}
	return res.StatusCode
}

// logIn opens a session as the gateway does, and returns when it has a machine.
func logIn(t *testing.T, s *servertest.System, user, connection string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), servertest.Patience)
	defer cancel()
	if status := atGateway(ctx, t, s, "sessions", api.OpenSession{Connection: connection, User: user, Protocol: dspool.ProtocolSSH, From: "192.0.2.1:1", Auth: "key"}, nil); status != http.StatusOK {
		t.Fatalf("login of %s: status %d", user, status)
	}
}

// publicKey is a key that a certificate may be for.
func publicKey(t *testing.T) string {
	t.Helper()
	key, err := ssh.NewPublicKey(&newKey(t).PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return string(ssh.MarshalAuthorizedKey(key))
}

func TestAttackWhoIsThere(t *testing.T) {
	t.Parallel()
	s := servertest.New(t, servertest.Options{})
	ctx := t.Context()
	logIn(t, s, "bob", "conn-bob")
	ada := s.As("ada")
	machines, err := s.Machines(ctx, "", false)
	if err != nil || len(machines.Items) != 1 || !strings.Contains(machines.Items[0].Reason.Text, "bob waits to log in") {
		t.Fatalf("%+v, %v", machines.Items, err)
	}
	logIn(t, s, "ada", "conn-ada") // to the same machine
	mine, err := ada.Sessions(ctx, client.SessionFilter{})
	if err != nil || len(mine.Items) != 1 {
		t.Fatalf("%+v, %v", mine.Items, err)
	}
	var text strings.Builder
	see := func(v any, err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
		text.WriteString(mustJSON(t, v))
	}
	see(ada.Machines(ctx, "", true))
	see(ada.Machine(ctx, machines.Items[0].Name))
	see(ada.Events(ctx, client.EventFilter{}))
	see(mine, nil)
	see(ada.Session(ctx, mine.Items[0].ID))
	see(ada.Status(ctx))
	see(ada.Pools(ctx))
	see(ada.Groups(ctx))
	if i := strings.Index(text.String(), "bob"); i >= 0 {
		t.Errorf("ada sees …%s…", text.String()[max(0, i-200):min(text.Len(), i+100)])
	}
	for what, err := range map[string]error{
		"show":  errOf(ada.Session(ctx, 1)),
		"keep":  errOf(ada.KeepSession(ctx, 1, dspool.Duration(time.Minute))),
		"close": errOf(ada.CloseSession(ctx, 1)),
	} {
		if dspool.ErrorCode(err) != dspool.NotFound {
			t.Errorf("%s another's session: %v", what, err)
		}
	}
	atGateway(ctx, t, s, "connections", []api.ConnectionReport{{ID: "conn-ada", Ended: true}, {ID: "conn-bob", Ended: true}}, nil)
}

func TestAttackGroupsOfOthers(t *testing.T) {
	t.Parallel()
	s := servertest.New(t, servertest.Options{})
	ctx := t.Context()
	for user, groups := range map[string][]string{"ada": {"vision"}, "bob": {"vision", "merger"}} {
		if _, err := s.ChangeUser(ctx, user, api.ChangeUserRequest{Groups: &groups}); err != nil {
			t.Fatal(err)
		}
	}
	list, err := s.As("ada").Groups(ctx)
	if err != nil || len(list.Items) != 1 || list.Items[0].Name != "vision" {
		t.Errorf("ada sees %+v, %v", list.Items, err)
	}
	if list, err := s.As("grace").Groups(ctx); err != nil || len(list.Items) != 2 {
		t.Errorf("grace sees %+v, %v", list.Items, err)
	}
}

// A person leaves, and another of the same name comes.
func TestAttackNameOfAFormerAccount(t *testing.T) {
	t.Parallel()
	s := servertest.New(t, servertest.Options{})
	ctx := t.Context()
	old := s.As("bob")
	job, err := old.Submit(ctx, api.SubmitRequest{JobSpec: dspool.JobSpec{Command: []string{"echo", "secret"}, Env: map[string]string{"API_KEY": "secret"}}})
	if err != nil {
		t.Fatal(err)
	}
	s.MustEnd(job.ID)
	logIn(t, s, "bob", "conn-old")
	atGateway(ctx, t, s, "connections", []api.ConnectionReport{{ID: "conn-old", Ended: true}}, nil)
	cert, err := old.SignCertificate(ctx, api.CertificateRequest{PublicKey: publicKey(t)})
	if err != nil {
		t.Fatal(err)
	}
	came := func(serial uint64) int {
		return atGateway(ctx, t, s, "authenticate", api.Proof{User: "bob", From: "192.0.2.1:1", Protocol: dspool.ProtocolSSH, Method: "certificate", Key: "SHA256:x", Serial: serial, KeyID: "bob"}, nil)
	}
	if status := came(cert.Serial); status != http.StatusOK {
		t.Fatalf("the certificate lets nobody in: %d", status)
	}
	op, err := s.As("bob").CloseSession(ctx, 1)
	if err != nil {
		t.Fatal(err)
	}
	s.Until("the session is closed", func() bool {
		o, err := s.Operation(ctx, op.ID, 0)
		return err == nil && o.State == dspool.OperationSucceeded
	})
	if err := s.RemoveUser(ctx, "bob"); err != nil {
		t.Fatal(err)
	}
	if status := came(cert.Serial); status != http.StatusUnauthorized {
		t.Errorf("the certificate of a removed account: %d", status)
	}
	home := filepath.Join(s.Dir, "shares", "home", "bob")
	if err := os.Rename(home, home+".old"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.AddUser(ctx, api.AddUserRequest{Name: "bob"}); err != nil {
		t.Fatal(err)
	}
	fresh := s.As("bob")
	t.Run("certificates of the former account let nobody in", func(t *testing.T) {
		if status := came(cert.Serial); status != http.StatusUnauthorized {
			t.Errorf("status %d", status)
		}
		own, err := fresh.SignCertificate(ctx, api.CertificateRequest{PublicKey: publicKey(t)})
		if err != nil {
			t.Fatal(err)
		}
		if status := came(own.Serial); status != http.StatusOK {
			t.Errorf("the own one: status %d", status)
		}
	})
	t.Run("nothing of the former account is seen", func(t *testing.T) {
		for what, err := range map[string]error{
			"job":       errOf(fresh.Job(ctx, job.ID)),
			"tasks":     errOf(fresh.Tasks(ctx, job.ID, client.TaskFilter{})),
			"output":    errOf(fresh.CopyOutput(ctx, client.Output{Job: job.ID, Stream: "stdout"}, io.Discard)),
			"events":    errOf(fresh.Events(ctx, client.EventFilter{Job: job.ID})),
			"session":   errOf(fresh.Session(ctx, 1)),
			"operation": errOf(fresh.Operation(ctx, op.ID, 0)),
		} {
			if dspool.ErrorCode(err) != dspool.NotFound {
				t.Errorf("%s: %v", what, err)
			}
		}
		jobs, err := fresh.Jobs(ctx, client.JobFilter{})
		if err != nil || len(jobs.Items) > 0 {
			t.Errorf("jobs %+v, %v", jobs.Items, err)
		}
		sessions, err := fresh.Sessions(ctx, client.SessionFilter{All: true})
		if err != nil || len(sessions.Items) > 0 {
			t.Errorf("sessions %+v, %v", sessions.Items, err)
		}
		bill, err := fresh.Usage(ctx, "job", time.Time{}, time.Time{})
		if err != nil || len(bill.Rows) > 0 {
			t.Errorf("bill %+v, %v", bill.Rows, err)
		}
		events, err := fresh.Events(ctx, client.EventFilter{})
		if err != nil {
			t.Error(err)
		}
		for _, e := range events.Items {
			if e.User == "bob" && e.Kind != "user.added" && e.Kind != "token.created" && e.Kind != "certificate.issued" {
				t.Errorf("event %+v", e)
			}
		}
	})
	t.Run("administrators still see all of it", func(t *testing.T) {
		if _, err := s.Job(ctx, job.ID); err != nil {
			t.Error(err)
		}
		if bill, err := s.Usage(ctx, "user", time.Time{}, time.Time{}); err != nil || !strings.Contains(mustJSON(t, bill), "bob") {
			t.Errorf("bill %+v, %v", bill, err)
		}
	})
}

// Somebody reads a long file while the token is revoked.
func TestAttackOutputAfterRevocation(t *testing.T) {
	t.Parallel()
	s := servertest.New(t, servertest.Options{})
	ctx := t.Context()
	ada := s.As("ada")
	job, err := ada.Submit(ctx, api.SubmitRequest{JobSpec: dspool.JobSpec{Command: []string{"echo", "x"}}})
	if err != nil {
		t.Fatal(err)
	}
	s.MustEnd(job.ID)
	const size = 4 << 30
	dir := filepath.Join(s.Dir, "shares", "team", "jobs", "ada", "1", "0")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "stdout.txt")
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	f.Close()
	users, err := s.Users(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range users.Items {
		if u.Name == "ada" {
			if err := os.Chown(file, u.UID, u.UID); err != nil {
				t.Fatal(err)
			}
		}
	}
	tokens, err := s.Tokens(ctx, "ada")
	if err != nil {
		t.Fatal(err)
	}
	slow := &slowReader{first: func() {
		for _, token := range tokens.Items {
			if err := s.RevokeToken(ctx, token.ID); err != nil {
				t.Error(err)
			}
		}
	}}
	n, err := ada.CopyOutput(ctx, client.Output{Job: job.ID, Stream: "stdout"}, slow)
	if err == nil || slow.n > size/8 {
		t.Errorf("%d of %d bytes came after the token was revoked (%d, %v)", slow.n, int64(size), n, err)
	}
}

type slowReader struct {
	first func()
	n     int64
}

func (r *slowReader) Write(p []byte) (int, error) {
	if r.n == 0 {
		r.first()
	}
	r.n += int64(len(p))
	return len(p), nil
}

// Somebody on a machine floods the agent link.
func TestAttackFlappingHealth(t *testing.T) {
	s := newRogues(t, "")
	s.MustSubmit(dspool.JobSpec{Command: []string{"true"}})
	r := &rogue{t: t, boot: s.boot("batch-1"), key: newKey(t)}
	if status := r.enrol("batch-1", r.boot.Token); status != 200 {
		t.Fatalf("enrol: %d", status)
	}
	for i := range 60 {
		health := dspool.Healthy
		if i%2 == 0 {
			health = dspool.Unhealthy
		}
		if status := r.call("POST", "/agent/v1/reports", api.Report{Health: health, Reason: testkit.Stated("tired")}, nil); status != http.StatusNoContent {
			t.Fatalf("report: %d", status)
		}
	}
	if n := len(s.EventsOf("machine.unhealthy")) + len(s.EventsOf("machine.healthy")); n > 6 {
		t.Errorf("%d events", n)
	}
}

// Where users write beside each other, somebody makes the folders of everybody's jobs and notebooks first.
func TestAttackFoldersOfEverybodyTaken(t *testing.T) {
	t.Parallel()
	s := servertest.New(t, servertest.Options{})
	for _, folder := range []string{"jobs", "notebooks"} {
		info, err := os.Stat(filepath.Join(s.Dir, "shares", "team", folder))
		if err != nil || info.Sys().(*syscall.Stat_t).Uid != 0 || info.Mode().Perm() != 0o755 {
			t.Errorf("%s before anybody was there: %v, %v", folder, info, err)
		}
	}
	logIn(t, s, "ada", "conn-ada")
	atGateway(t.Context(), t, s, "connections", []api.ConnectionReport{{ID: "conn-ada", Ended: true}}, nil)
}
