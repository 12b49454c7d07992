package agent_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/agent"
	"github.com/dspool/dspool/internal/provider"
	"github.com/dspool/dspool/internal/testkit"
)

const waitLimit = 15 * time.Second // for anything that must happen

// server is the server's side of the agent link, for one machine.
type server struct {
	t     testing.TB
	http  *httptest.Server
	caKey *ecdsa.PrivateKey
	ca    *x509.Certificate
	caPEM string
	life  time.Duration // of certificates

	mu         sync.Mutex
	changed    chan struct{}
	token      string
	tokenKey   string // public key that used the token
	enrolments int
	renewals   int
	rows       []row
	jobs       map[int64]api.TaskSpec
	revision   int64
	attempts   map[int64]api.AttemptReport
	history    map[int64][]dspool.TaskState
	seats      []seatRow
	sessions   map[int64]api.SessionReport
	closings   map[int64]int // how often a session was reported closed
	hostKey    string
	sshTrust   string
	reports    []api.Report
	seenCerts  map[string]bool // serials of client certificates that were shown
	// fault answers instead of the server when it returns a status.
	fault func(r *http.Request, body []byte) int
	// stale is sent once in place of what is true.
	stale *api.Directives
}

type seatRow struct {
	api.SessionDirective
	revision int64
}

type row struct {
	api.AttemptDirective
	revision int64
}

func newServer(t testing.TB) *server {
	s := &server{
		t: t, changed: make(chan struct{}), token: "secret", life: time.Hour, jobs: map[int64]api.TaskSpec{},
		attempts: map[int64]api.AttemptReport{}, history: map[int64][]dspool.TaskState{},
		sessions: map[int64]api.SessionReport{}, closings: map[int64]int{}, seenCerts: map[string]bool{},
	}
	var err error
	s.caKey, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	s.ca, s.caPEM = s.issue(&s.caKey.PublicKey, &x509.Certificate{
		Subject: pkix.Name{CommonName: "test authority"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	})
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	cert, _ := s.issue(&key.PublicKey, &x509.Certificate{DNSNames: []string{"dspool.test"}})
	pool := x509.NewCertPool()
	pool.AddCert(s.ca)
	mux := http.NewServeMux()
	mux.HandleFunc("POST /agent/v1/enrol", s.enrol)
	mux.HandleFunc("POST /agent/v1/renew", s.renew)
	mux.HandleFunc("GET /agent/v1/directives", s.directives)
	mux.HandleFunc("POST /agent/v1/reports", s.report)
	s.http = httptest.NewUnstartedServer(mux)
	s.http.TLS = &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{cert.Raw}, PrivateKey: key}},
		ClientCAs:    pool, ClientAuth: tls.VerifyClientCertIfGiven,
	}
	s.http.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.http.StartTLS()
	t.Cleanup(s.http.Close)
	return s
}

func (s *server) issue(pub any, c *x509.Certificate) (*x509.Certificate, string) {
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	must(s.t, err)
	c.SerialNumber, c.NotBefore, c.NotAfter = serial, time.Now().Add(-time.Second), time.Now().Add(s.life)
	parent := s.ca
	if parent == nil {
		parent = c
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, pub, s.caKey)
	must(s.t, err)
	cert, err := x509.ParseCertificate(der)
	must(s.t, err)
	return cert, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func (s *server) boot() provider.AgentBoot {
	return provider.AgentBoot{
		URL: s.http.URL, ServerName: "dspool.test", CA: s.caPEM, Machine: "batch-1", Token: "secret",
		Resources: dspool.Resources{CPUs: 2, Memory: 2 << 30},
	}
}

// notify is called with mu held.
func (s *server) notify() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// begin reads the body and answers a fault; then mu is held.
func (s *server) begin(w http.ResponseWriter, r *http.Request, in any) bool {
	var raw json.RawMessage
	if r.Method == http.MethodPost {
		if err := json.NewDecoder(r.Body).Decode(&raw); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return false
		}
		if err := json.Unmarshal(raw, in); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return false
		}
	}
	s.mu.Lock()
	if s.fault != nil {
		if status := s.fault(r, raw); status != 0 {
			s.mu.Unlock()
			w.WriteHeader(status)
			return false
		}
	}
	if in != nil {
		if _, ok := in.(*api.EnrolRequest); ok {
			return true
		}
	}
	if len(r.TLS.PeerCertificates) == 0 || r.TLS.PeerCertificates[0].Subject.CommonName != "batch-1" {
		s.mu.Unlock()
		w.WriteHeader(http.StatusUnauthorized)
		return false
	}
	s.seenCerts[r.TLS.PeerCertificates[0].SerialNumber.String()] = true
	return true
}

func (s *server) sign(w http.ResponseWriter, csrPEM string) *x509.CertificateRequest {
	block, _ := pem.Decode([]byte(csrPEM))
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil || csr.CheckSignature() != nil {
		w.WriteHeader(http.StatusBadRequest)
		return nil
	}
	_, text := s.issue(csr.PublicKey, &x509.Certificate{Subject: pkix.Name{CommonName: "batch-1"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	json.NewEncoder(w).Encode(api.EnrolResponse{Certificate: text, SSHTrust: s.sshTrust})
	return csr
}

func (s *server) enrol(w http.ResponseWriter, r *http.Request) {
	var in api.EnrolRequest
	if !s.begin(w, r, &in) {
		return
	}
	defer s.mu.Unlock()
	block, _ := pem.Decode([]byte(in.CSR))
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil || in.Token != s.token || in.Machine != "batch-1" || s.tokenKey != "" && s.tokenKey != string(csr.RawSubjectPublicKeyInfo) {
		w.WriteHeader(http.StatusForbidden)
		return
	}
	s.tokenKey = string(csr.RawSubjectPublicKeyInfo)
	s.enrolments++
	s.hostKey = in.HostKey
	s.sign(w, in.CSR)
	s.notify()
}

func (s *server) renew(w http.ResponseWriter, r *http.Request) {
	var in api.RenewRequest
	if !s.begin(w, r, &in) {
		return
	}
	defer s.mu.Unlock()
	s.renewals++
	s.life = time.Hour
	s.sign(w, in.CSR)
	s.notify()
}

func (s *server) directives(w http.ResponseWriter, r *http.Request) {
	after, err := strconv.ParseInt(r.URL.Query().Get("after"), 10, 64)
	wait, err2 := time.ParseDuration(r.URL.Query().Get("wait"))
	if err != nil || err2 != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	if !s.begin(w, r, nil) {
		return
	}
	defer s.mu.Unlock()
	timeout := time.After(wait)
	for {
		if s.stale != nil {
			json.NewEncoder(w).Encode(s.stale)
			s.stale = nil
			return
		}
		d := api.Directives{Revision: s.revision}
		jobs := map[int64]bool{}
		for _, row := range s.rows {
			if row.revision > after && !s.attempts[row.ID].State.Ended() {
				d.Attempts = append(d.Attempts, row.AttemptDirective)
				if !jobs[row.Job] {
					jobs[row.Job] = true
					d.Jobs = append(d.Jobs, s.jobs[row.Job])
				}
			}
		}
		for _, row := range s.seats {
			if row.revision > after && s.sessions[row.ID].State != dspool.SessionClosed {
				d.Sessions = append(d.Sessions, row.SessionDirective)
			}
		}
		if len(d.Attempts)+len(d.Sessions) > 0 {
			json.NewEncoder(w).Encode(d)
			return
		}
		changed := s.changed
		s.mu.Unlock()
		select {
		case <-changed:
			s.mu.Lock()
		case <-timeout:
			s.mu.Lock()
			json.NewEncoder(w).Encode(api.Directives{Revision: max(after, s.revision)})
			return
		case <-r.Context().Done():
			s.mu.Lock()
			return
		}
	}
}

func (s *server) report(w http.ResponseWriter, r *http.Request) {
	var in api.Report
	if !s.begin(w, r, &in) {
		return
	}
	defer s.mu.Unlock()
	s.reports = append(s.reports, in)
	for _, a := range in.Attempts {
		if !s.attempts[a.ID].State.Ended() {
			s.attempts[a.ID] = a
		}
		s.history[a.ID] = append(s.history[a.ID], a.State)
	}
	for _, x := range in.Sessions {
		s.sessions[x.ID] = x
		if x.State == dspool.SessionClosed {
			s.closings[x.ID]++
		}
	}
	s.notify()
	w.WriteHeader(http.StatusNoContent)
}

// want adds or changes what the server wants of an attempt of job 1, which asks for cpus.
func (s *server) want(id int64, cpus float64, command ...string) {
	s.put(api.AttemptDirective{ID: id, Job: id, Index: id}, api.TaskSpec{
		Job: id, Account: api.Account{User: "alice", UID: 20001, GID: 20001, Home: "/home/alice"}, Dir: "/mnt/team/jobs/alice/1", Command: command, Count: 1,
		Request: dspool.Resources{CPUs: cpus, Memory: 512 << 20},
	})
}

func (s *server) put(d api.AttemptDirective, spec api.TaskSpec) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.revision++
	s.jobs[d.Job] = spec
	for i := range s.rows {
		if s.rows[i].ID == d.ID {
			s.rows[i] = row{d, s.revision}
			s.notify()
			return
		}
	}
	s.rows = append(s.rows, row{d, s.revision})
	s.notify()
}

func (s *server) cancel(id int64, recall bool, reason string) {
	s.mu.Lock()
	spec := s.jobs[id]
	s.mu.Unlock()
	s.put(api.AttemptDirective{ID: id, Job: id, Index: id, Cancel: true, Recall: recall, Reason: testkit.Stated(reason)}, spec)
}

// seat adds or changes what the server wants of a session.
func (s *server) seat(d api.SessionDirective) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.revision++
	s.seats = slices.DeleteFunc(s.seats, func(r seatRow) bool { return r.ID == d.ID })
	s.seats = append(s.seats, seatRow{d, s.revision})
	s.notify()
}

// session waits until the last report on a session is as ok says.
func (s *server) session(id int64, what string, ok func(api.SessionReport) bool) (r api.SessionReport) {
	s.t.Helper()
	s.await(fmt.Sprintf("session %d: %s", id, what), func() bool { r = s.sessions[id]; return ok(r) })
	return r
}

func (s *server) open(id int64) api.SessionReport {
	s.t.Helper()
	return s.session(id, "open", func(r api.SessionReport) bool { return r.State == dspool.SessionOpen })
}

func (s *server) closed(id int64) api.SessionReport {
	s.t.Helper()
	return s.session(id, "closed", func(r api.SessionReport) bool { return r.State == dspool.SessionClosed })
}

func (s *server) setFault(f func(r *http.Request, body []byte) int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = f
}

// await waits until ok, called with mu held, says so.
func (s *server) await(what string, ok func() bool) {
	s.t.Helper()
	late := time.After(waitLimit)
	look := func() (bool, <-chan struct{}) {
		s.mu.Lock()
		defer s.mu.Unlock() // also where ok ends the test
		return ok(), s.changed
	}
	for {
		done, changed := look()
		if done {
			return
		}
		select {
		case <-changed:
		case <-late:
			s.mu.Lock()
			defer s.mu.Unlock()
			s.t.Fatalf("%s did not come true in %v; the server knows %+v, %+v", what, waitLimit, s.attempts, s.sessions)
		}
	}
}

// ended waits for the end of an attempt as the server knows it.
func (s *server) ended(id int64) api.AttemptReport {
	s.t.Helper()
	var r api.AttemptReport
	s.await("the end of attempt "+strconv.FormatInt(id, 10), func() bool { r = s.attempts[id]; return r.State.Ended() })
	return r
}

func (s *server) running(id int64) {
	s.t.Helper()
	s.await("attempt "+strconv.FormatInt(id, 10)+" running", func() bool { return s.attempts[id].State == dspool.TaskRunning })
}

// life is one life of an agent.
type life struct {
	kill func() // waits until it is dead
	err  chan error
}

func (s *server) agent(cfg agent.Config) *life {
	ctx, cancel := context.WithCancel(context.Background())
	l := &life{err: make(chan error, 1)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.err <- agent.New(cfg).Run(ctx)
	}()
	l.kill = sync.OnceFunc(func() { cancel(); <-done })
	s.t.Cleanup(l.kill)
	return l
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
