package client_test

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/client"
)

// serve returns a client of a server with that handler, which runs for one request at a time.
func serve(t *testing.T, h http.HandlerFunc) *client.Client {
	t.Helper()
	var one sync.Mutex
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		one.Lock()
		defer one.Unlock()
		h(w, r)
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.Start()
	t.Cleanup(s.Close)
	c, err := client.New(client.Options{URL: s.URL, Token: "secret", Patience: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

func problem(w http.ResponseWriter, p api.Problem) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p)
}

func TestEveryMethodAsksItsEndpoint(t *testing.T) {
	t.Parallel()
	var asked string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		asked = r.Method + " " + r.URL.RequestURI()
		if r.Header.Get("Authorization") != "Bearer secret" {
			t.Errorf("%s without the token", asked)
		}
		if r.Method == http.MethodDelete && !strings.Contains(asked, "machines") && !strings.Contains(asked, "sessions") {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		_, _ = w.Write([]byte("{}"))
	})
	ctx, zero, seven := t.Context(), int64(0), 7
	err := func(_ any, err error) error { return err }
	from := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for want, got := range map[string]func() error{
		"GET /api/v1/status":                   func() error { return err(c.Status(ctx)) },
		"GET /api/v1/whoami":                   func() error { return err(c.Whoami(ctx)) },
		"GET /api/v1/ca":                       func() error { return err(c.CA(ctx)) },
		"POST /api/v1/apply":                   func() error { return err(c.Apply(ctx, api.ApplyRequest{})) },
		"GET /api/v1/images":                   func() error { return err(c.Images(ctx)) },
		"POST /api/v1/images/X/build":          func() error { return err(c.BuildImage(ctx, "X")) },
		"DELETE /api/v1/images/X":              func() error { return c.RemoveImage(ctx, "X") },
		"GET /api/v1/sizes":                    func() error { return err(c.Sizes(ctx)) },
		"GET /api/v1/pools":                    func() error { return err(c.Pools(ctx)) },
		"GET /api/v1/pools/a%2Fb%20c%3F":       func() error { return err(c.Pool(ctx, "a/b c?")) },
		"POST /api/v1/pools/p/resize":          func() error { return err(c.ResizePool(ctx, "p", api.ResizeRequest{Max: &seven})) },
		"GET /api/v1/machines?all=true&pool=p": func() error { return err(c.Machines(ctx, "p", true)) },
		"GET /api/v1/machines/m":               func() error { return err(c.Machine(ctx, "m")) },
		"DELETE /api/v1/machines/m?force=true": func() error { return err(c.RemoveMachine(ctx, "m", true)) },
		"GET /api/v1/shares":                   func() error { return err(c.Shares(ctx)) },
		"GET /api/v1/users":                    func() error { return err(c.Users(ctx)) },
		"POST /api/v1/users":                   func() error { return err(c.AddUser(ctx, api.AddUserRequest{})) },
		"GET /api/v1/users/u":                  func() error { return err(c.User(ctx, "u")) },
		"PATCH /api/v1/users/u":                func() error { return err(c.ChangeUser(ctx, "u", api.ChangeUserRequest{})) },
		"PUT /api/v1/users/u/password":         func() error { return c.SetPassword(ctx, "u", api.PasswordRequest{}) },
		"GET /api/v1/users/u/keys":             func() error { return err(c.UserKeys(ctx, "u")) },
		"POST /api/v1/users/u/keys":            func() error { return err(c.AddUserKey(ctx, "u", "ssh-ed25519 x")) },
		"DELETE /api/v1/users/u/keys?fingerprint=SHA256%3Aa%2Fb%2Bc": func() error { return c.RemoveUserKey(ctx, "u", "SHA256:a/b+c") },
		"GET /api/v1/groups":              func() error { return err(c.Groups(ctx)) },
		"POST /api/v1/login":              func() error { return err(c.Login(ctx, api.LoginRequest{})) },
		"POST /api/v1/login/device":       func() error { return err(c.BeginDeviceLogin(ctx, api.DeviceRequest{})) },
		"POST /api/v1/login/device/token": func() error { return err(c.DeviceToken(ctx, "d")) },
		"POST /api/v1/ssh/certificate":    func() error { return err(c.SignCertificate(ctx, api.CertificateRequest{})) },
		"POST /api/v1/ssh/revocations":    func() error { return c.Revoke(ctx, api.RevocationRequest{}) },
		"GET /api/v1/ssh/known_hosts":     func() error { return err(c.KnownHosts(ctx)) },
		"GET /api/v1/sessions?all=true&before=9&limit=7&pool=p&user=u": func() error {
			return err(c.Sessions(ctx, client.SessionFilter{User: "u", Pool: "p", All: true, Before: 9, Limit: 7}))
		},
		"GET /api/v1/sessions/3":       func() error { return err(c.Session(ctx, 3)) },
		"POST /api/v1/sessions/3/keep": func() error { return err(c.KeepSession(ctx, 3, dspool.Duration(time.Hour))) },
		"DELETE /api/v1/sessions/3":    func() error { return err(c.CloseSession(ctx, 3)) },
		"GET /api/v1/recordings?before=x&limit=7&user=u": func() error {
			return err(c.Recordings(ctx, client.RecordingFilter{User: "u", Before: "x", Limit: 7}))
		},
		"GET /api/v1/recordings/x":                       func() error { return err(c.Recording(ctx, "x")) },
		"GET /api/v1/recordings/x/cast":                  func() error { return err(c.ReadRecording(ctx, "x")) },
		"GET /api/v1/doors":                              func() error { return err(c.Doors(ctx)) },
		"POST /api/v1/machines/m/cordon":                 func() error { return err(c.CordonMachine(ctx, "m")) },
		"POST /api/v1/machines/m/uncordon":               func() error { return err(c.UncordonMachine(ctx, "m")) },
		"POST /api/v1/machines/m/drain":                  func() error { return err(c.DrainMachine(ctx, "m", 0)) },
		"DELETE /api/v1/users/u":                         func() error { return c.RemoveUser(ctx, "u") },
		"GET /api/v1/tokens?user=u":                      func() error { return err(c.Tokens(ctx, "u")) },
		"POST /api/v1/tokens":                            func() error { return err(c.AddToken(ctx, api.AddTokenRequest{})) },
		"DELETE /api/v1/tokens/t":                        func() error { return c.RevokeToken(ctx, "t") },
		"POST /api/v1/jobs":                              func() error { return err(c.Submit(ctx, api.SubmitRequest{})) },
		"GET /api/v1/jobs?before=9&limit=7&state=queued": func() error { return err(c.Jobs(ctx, client.JobFilter{State: "queued", Before: 9, Limit: 7})) },
		"GET /api/v1/jobs/1":                             func() error { return err(c.Job(ctx, 1)) },
		"POST /api/v1/jobs/1/cancel":                     func() error { return err(c.CancelJob(ctx, 1)) },
		"GET /api/v1/jobs/1/tasks?after=0&limit=7":       func() error { return err(c.Tasks(ctx, 1, client.TaskFilter{After: &zero, Limit: 7})) },
		"GET /api/v1/jobs/1/tasks/0":                     func() error { return err(c.Task(ctx, 1, 0)) },
		"GET /api/v1/jobs/1/tasks/0/output/stderr?offset=5": func() error {
			return err(c.CopyOutput(ctx, client.Output{Job: 1, Stream: "stderr", Offset: 5}, io.Discard))
		},
		"GET /api/v1/events?job=1&latest=true&limit=7":            func() error { return err(c.Events(ctx, client.EventFilter{Latest: true, Limit: 7, Job: 1})) },
		"GET /api/v1/usage?by=user&from=2026-01-02T03%3A04%3A05Z": func() error { return err(c.Usage(ctx, "user", from, time.Time{})) },
		"GET /api/v1/operations/o?wait=30s":                       func() error { return err(c.Operation(ctx, "o", 30*time.Second)) },
	} {
		if err := got(); err != nil {
			t.Errorf("%s: %v", want, err)
		}
		if asked != want {
			t.Errorf("asked %s, want %s", asked, want)
		}
	}
	for _, name := range []string{"", ".", "..", strings.Repeat("x", 2000)} {
		asked = ""
		if _, err := c.Pool(ctx, name); dspool.ErrorCode(err) != dspool.Invalid || asked != "" {
			t.Errorf("name %.10q: asked %q, %v", name, asked, err)
		}
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	for claim, tt := range map[string]struct {
		answer http.HandlerFunc
		code   dspool.Code
		text   string
	}{
		"a problem keeps code, sentence and hint": {func(w http.ResponseWriter, _ *http.Request) {
			problem(w, api.Problem{Title: "Conflict", Status: 409, Detail: "pool x is busy", Code: dspool.Conflict, Hint: "wait"})
		}, dspool.Conflict, "pool x is busy (wait)"},
		"a problem without a code gets it from the status": {func(w http.ResponseWriter, _ *http.Request) {
			problem(w, api.Problem{Title: "Unprocessable Entity", Status: 422, Detail: "validation failed"})
		}, dspool.Invalid, "validation failed"},
		"a proxy's page is no dspool": {func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "<html>", http.StatusTeapot)
		}, dspool.Invalid, "answered I'm a teapot (is a dspool server at that address?)"},
		"a missing token says how to get one": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusUnauthorized)
		}, dspool.Unauthenticated, "DSPOOL_TOKEN"},
		"a redirect is not followed": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://elsewhere.invalid/", http.StatusFound)
		}, dspool.Internal, "sends callers elsewhere"},
		"another program's answer is named": {func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte("hello"))
		}, dspool.Internal, "does not answer as a dspool server"},
	} {
		t.Run(claim, func(t *testing.T) {
			t.Parallel()
			_, err := serve(t, tt.answer).Status(t.Context())
			if dspool.ErrorCode(err) != tt.code || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("got %s %v", dspool.ErrorCode(err), err)
			}
		})
	}
	t.Run("single problems are there for the asking", func(t *testing.T) {
		t.Parallel()
		c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			problem(w, api.Problem{Status: 400, Detail: "2 problems", Code: dspool.Invalid, Errors: []api.FieldProblem{{Location: "f:1", Message: "a"}, {Location: "f:2", Message: "b"}}})
		})
		_, err := c.Apply(t.Context(), api.ApplyRequest{})
		if p := client.Problems(fmt.Errorf("apply: %w", err)); len(p) != 2 || p[1].Location != "f:2" {
			t.Errorf("%v", p)
		}
	})
}

func TestOnlyHarmlessCallsAreRepeated(t *testing.T) {
	t.Parallel()
	var calls atomic.Int32
	var keys []string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		var body struct{ Key string }
		_ = json.NewDecoder(r.Body).Decode(&body)
		keys = append(keys, body.Key)
		switch calls.Add(1) {
		case 1:
			panic(http.ErrAbortHandler) // the connection breaks
		case 2:
			w.WriteHeader(http.StatusBadGateway)
		default:
			reply(w, 200, dspool.Job{ID: 4})
		}
	})
	if _, err := c.Job(t.Context(), 4); err != nil || calls.Load() != 3 {
		t.Errorf("a read: %v after %d calls", err, calls.Load())
	}
	calls.Store(0)
	keys = nil
	if j, err := c.Submit(t.Context(), api.SubmitRequest{}); err != nil || j.ID != 4 || keys[0] == "" || keys[0] != keys[2] {
		t.Errorf("a submit: %v with keys %v", err, keys)
	}
	calls.Store(0)
	if _, err := c.AddUser(t.Context(), api.AddUserRequest{Name: "x"}); dspool.ErrorCode(err) != dspool.Unavailable || calls.Load() != 1 {
		t.Errorf("an added user: %v after %d calls", err, calls.Load())
	}
}

func TestSocket(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	o, err := client.FromEnv(func(string) string { return "" }, dir)
	if err != nil || o.Socket != filepath.Join(dir, "dspool.sock") {
		t.Fatal(o, err)
	}
	c, err := client.New(o)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	_, err = c.Status(t.Context())
	if want := "no dspool server answers at " + o.Socket + " (start one with `dspool server --config FILE`, or set DSPOOL_URL to where one is)"; err == nil || err.Error() != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
	if dspool.ErrorCode(err) != dspool.Unavailable || time.Since(began) > time.Second {
		t.Errorf("code %s after %s", dspool.ErrorCode(err), time.Since(began))
	}
	l, err := net.Listen("unix", o.Socket)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { reply(w, 200, api.Status{Version: "v"}) })}
	go s.Serve(l)
	defer s.Close()
	if st, err := c.Status(t.Context()); err != nil || st.Version != "v" {
		t.Error(st, err)
	}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { reply(w, 200, api.Status{}) }))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	defer s.Close()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	status := func(o client.Options) error {
		c, err := client.New(o)
		if err != nil {
			return err
		}
		_, err = c.Status(t.Context())
		return err
	}
	if err := status(client.Options{URL: s.URL, CA: ca}); err != nil {
		t.Errorf("with the authority: %v", err)
	}
	if err := status(client.Options{URL: s.URL}); err == nil || !strings.Contains(err.Error(), "name in DSPOOL_CA a file") {
		t.Errorf("without the authority: %v", err)
	}
	if err := status(client.Options{URL: s.URL, CA: []byte("x")}); dspool.ErrorCode(err) != dspool.Invalid {
		t.Errorf("a bad authority: %v", err)
	}
	plain := httptest.NewServer(s.Config.Handler)
	defer plain.Close()
	if err := status(client.Options{URL: strings.Replace(plain.URL, "http:", "https:", 1)}); err == nil || !strings.Contains(err.Error(), "does not speak TLS") {
		t.Errorf("https to a plain port: %v", err)
	}
}

func TestAddresses(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"pool.example.org", "ftp://x", "https://", "https://u:p@x", "https://x?y", "http://10.0.0.1:8443", "://"} {
		if _, err := client.New(client.Options{URL: bad, Token: "t"}); dspool.ErrorCode(err) != dspool.Invalid {
			t.Errorf("%s: %v", bad, err)
		}
	}
	for _, good := range []string{"https://pool.example.org:8443/api/v1/", "http://127.0.0.1:1", "http://localhost:1"} {
		if _, err := client.New(client.Options{URL: good, Token: "t"}); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	if _, err := client.New(client.Options{}); dspool.ErrorCode(err) != dspool.Invalid {
		t.Error(err)
	}
	env := map[string]string{"DSPOOL_URL": "https://x", "DSPOOL_TOKEN": "t", "DSPOOL_CA": "/nonexistent", "DSPOOL_STATE_DIR": "/s"}
	getenv := func(k string) string { return env[k] }
	if _, err := client.FromEnv(getenv, ""); dspool.ErrorCode(err) != dspool.Invalid {
		t.Error(err)
	}
	if o, err := client.FromEnv(getenv, "/mine"); err != nil || o.Socket != "/mine/dspool.sock" || o.URL != "" {
		t.Errorf("a given state directory counts before DSPOOL_URL: %+v %v", o, err)
	}
	delete(env, "DSPOOL_URL")
	if o, _ := client.FromEnv(getenv, ""); o.Socket != "/s/dspool.sock" {
		t.Errorf("%+v", o)
	}
}

func TestACallEndsWithItsContext(t *testing.T) {
	t.Parallel()
	arrived := make(chan struct{})
	c := serve(t, func(_ http.ResponseWriter, r *http.Request) { close(arrived); <-r.Context().Done() })
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-arrived; cancel() }()
	if _, err := c.Status(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
