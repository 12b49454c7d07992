package gateway_test

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/testkit"
)

// stub is the server's side of the link.
type stub struct {
	t        testing.TB
	machines ssh.Signer // the authority that machines trust
	socket   string
	http     *http.Server

	mu        sync.Mutex
	changed   chan struct{}
	users     map[string]*stubUser
	want      api.GatewayDirectives
	place     func(api.OpenSession, func(api.SessionStep)) api.SessionStep
	opened    []api.OpenSession
	proofs    []api.Proof
	reports   map[string]api.ConnectionReport
	viewers   []api.WebConnection
	certified int
	answer    func(*api.Identity) // spoils the answer of who somebody is
	killed    dspool.Reason       // for memory, as the machine says
}

type stubUser struct {
	uid      int
	keys     []string // fingerprints
	password string
}

func startStub(t testing.TB, state string) *stub {
	t.Helper()
	signer, _ := newKey(t)
	s := &stub{t: t, machines: signer, socket: filepath.Join(state, "gateway.sock"), changed: make(chan struct{}), users: map[string]*stubUser{}, reports: map[string]api.ConnectionReport{}}
	for user, uid := range testUsers {
		s.users[user] = &stubUser{uid: uid}
	}
	s.want = api.GatewayDirectives{Revision: 1, Doors: []dspool.Door{{Listen: "127.0.0.1:0", Protocol: dspool.ProtocolSSH, Pool: "lab"}}}
	s.start()
	t.Cleanup(func() { s.stop() })
	return s
}

func (s *stub) start() {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /gateway/v1/directives", s.directives)
	mux.HandleFunc("POST /gateway/v1/authenticate", s.authenticate)
	mux.HandleFunc("POST /gateway/v1/sessions", s.sessions)
	mux.HandleFunc("POST /gateway/v1/certificate", s.certificate)
	mux.HandleFunc("POST /gateway/v1/connections", s.connections)
	mux.HandleFunc("POST /gateway/v1/killed", s.killedForMemory)
	mux.HandleFunc("POST /gateway/v1/web/connections", s.webConnections)
	mux.HandleFunc("POST /gateway/v1/web/login", s.webLogin)
	os.Remove(s.socket)
	l, err := net.Listen("unix", s.socket)
	ok(s.t, err)
	s.http = &http.Server{Handler: mux}
	go s.http.Serve(l)
}

func (s *stub) stop() { s.http.Close() }

// change lets f change anything and wakes who waits for it.
func (s *stub) change(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	close(s.changed)
	s.changed = make(chan struct{})
}

// direct changes what the gateway is told to do.
func (s *stub) direct(f func(*api.GatewayDirectives)) {
	s.change(func() {
		s.want.Revision++
		s.want.End, s.want.Tell = nil, nil
		f(&s.want)
	})
}

// until waits for a condition on the stub's state.
func (s *stub) until(what string, cond func() bool) {
	s.t.Helper()
	deadline := time.After(waitForIt)
	for {
		s.mu.Lock()
		done, changed := cond(), s.changed
		s.mu.Unlock()
		if done {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			s.t.Fatalf("waited %s in vain: %s", waitForIt, what)
		}
	}
}

func (s *stub) directives(w http.ResponseWriter, r *http.Request) {
	after, _ := strconv.ParseInt(r.URL.Query().Get("after"), 10, 64)
	wait, _ := time.ParseDuration(r.URL.Query().Get("wait"))
	end := time.After(wait)
	for {
		s.mu.Lock()
		d, changed := s.want, s.changed
		s.mu.Unlock()
		if d.Revision > after {
			json.NewEncoder(w).Encode(d)
			return
		}
		select {
		case <-changed:
		case <-end:
			json.NewEncoder(w).Encode(d)
			return
		case <-r.Context().Done():
			return
		}
	}
}

func (s *stub) authenticate(w http.ResponseWriter, r *http.Request) {
	var p api.Proof
	json.NewDecoder(r.Body).Decode(&p)
	var user *stubUser
	s.change(func() { user = s.users[p.User]; s.proofs = append(s.proofs, p) })
	good, auth := false, ""
	if user != nil {
		switch p.Method {
		case "key":
			good, auth = slices.Contains(user.keys, p.Key), "key "+p.Key
		case "certificate":
			good, auth = true, "certificate "+strconv.FormatUint(p.Serial, 10)
		case "password":
			good, auth = user.password != "" && p.Password == user.password, "password"
		}
	}
	if !good {
		w.WriteHeader(http.StatusUnauthorized)
		json.NewEncoder(w).Encode(dspool.Errorf(dspool.Unauthenticated, "no"))
		return
	}
	id := api.Identity{User: p.User, UID: user.uid, Auth: auth}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.answer != nil {
		s.answer(&id)
	}
	json.NewEncoder(w).Encode(id)
}

func (s *stub) sessions(w http.ResponseWriter, r *http.Request) {
	var o api.OpenSession
	json.NewDecoder(r.Body).Decode(&o)
	s.change(func() { s.opened = append(s.opened, o) })
	s.mu.Lock()
	place := s.place
	s.mu.Unlock()
	enc := json.NewEncoder(w)
	step := func(st api.SessionStep) {
		enc.Encode(st)
		w.(http.Flusher).Flush()
	}
	step(place(o, step))
}

func (s *stub) certificate(w http.ResponseWriter, r *http.Request) {
	var l api.MachineLogin
	json.NewDecoder(r.Body).Decode(&l)
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(l.PublicKey))
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	user := ""
	s.change(func() {
		for _, o := range s.opened {
			if o.Connection == l.Connection {
				user = o.User
			}
		}
		s.certified++
	})
	cert := &ssh.Certificate{
		Key: key, Serial: 1, CertType: ssh.UserCert, KeyId: l.Connection, ValidPrincipals: []string{user},
		ValidAfter: uint64(time.Now().Add(-time.Minute).Unix()), ValidBefore: uint64(time.Now().Add(5 * time.Minute).Unix()),
		Permissions: ssh.Permissions{Extensions: allExtensions()},
	}
	if err := cert.SignCert(rand.Reader, s.machines); err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	json.NewEncoder(w).Encode(api.MachineCertificate{Certificate: strings.TrimSpace(string(ssh.MarshalAuthorizedKey(cert)))})
}

func (s *stub) connections(w http.ResponseWriter, r *http.Request) {
	var list []api.ConnectionReport
	json.NewDecoder(r.Body).Decode(&list)
	s.change(func() {
		for _, c := range list {
			s.reports[c.ID] = c
		}
	})
	w.WriteHeader(http.StatusNoContent)
}

// asked counts logins to machines.
func (s *stub) asked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.certified
}

func (s *stub) killedForMemory(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	json.NewEncoder(w).Encode(api.KilledAnswer{Reason: s.killed})
}

func (s *stub) webConnections(w http.ResponseWriter, r *http.Request) {
	var list []api.WebConnection
	json.NewDecoder(r.Body).Decode(&list)
	s.change(func() { s.viewers = append(s.viewers, list...) })
	w.WriteHeader(http.StatusNoContent)
}

func (s *stub) webLogin(w http.ResponseWriter, r *http.Request) {
	var l api.WebLogin
	json.NewDecoder(r.Body).Decode(&l)
	if l.Secret != "alice-is-logged-in" {
		w.WriteHeader(http.StatusUnauthorized)
		json.NewEncoder(w).Encode(dspool.Errorf(dspool.Unauthenticated, "no"))
		return
	}
	json.NewEncoder(w).Encode(api.Identity{User: "alice", UID: testUsers["alice"], Auth: "portal"})
}

// on places every session on one machine.
func on(m *machine) func(api.OpenSession, func(api.SessionStep)) api.SessionStep {
	return onSession(m, 7)
}

func onSession(m *machine, id int64) func(api.OpenSession, func(api.SessionStep)) api.SessionStep {
	return func(api.OpenSession, func(api.SessionStep)) api.SessionStep {
		return api.SessionStep{Session: id, Reason: testkit.Stated(m.name), Ready: m.access()}
	}
}

func allExtensions() map[string]string {
	return map[string]string{"permit-pty": "", "permit-port-forwarding": "", "permit-agent-forwarding": "", "permit-X11-forwarding": "", "permit-user-rc": ""}
}

func newKey(t testing.TB) (ssh.Signer, crypto.Signer) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	ok(t, err)
	s, err := ssh.NewSignerFromKey(key)
	ok(t, err)
	return s, key
}

func writeKey(t testing.TB, path string, key crypto.Signer) {
	t.Helper()
	block, err := ssh.MarshalPrivateKey(key, "")
	ok(t, err)
	ok(t, os.WriteFile(path, pem.EncodeToMemory(block), 0o600))
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
