package servertest_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/provider"
	"github.com/dspool/dspool/internal/provider/fake"
	"github.com/dspool/dspool/internal/servertest"
	"github.com/dspool/dspool/internal/testkit"
)

// rogue is somebody on a machine who speaks the agent link by hand.
type rogue struct {
	t    *testing.T
	boot provider.AgentBoot
	key  *ecdsa.PrivateKey
	cert *tls.Certificate
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (r *rogue) csr() string {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, r.key)
	if err != nil {
		r.t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

// call makes one request and returns its status; a body that is no string is sent as JSON.
func (r *rogue) call(method, path string, in, out any) int {
	r.t.Helper()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(r.boot.CA))
	cfg := &tls.Config{RootCAs: pool, ServerName: r.boot.ServerName}
	if r.cert != nil {
		cfg.Certificates = []tls.Certificate{*r.cert}
	}
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: cfg, DisableKeepAlives: true}, Timeout: servertest.Patience}
	body, ok := in.(string)
	if !ok && in != nil {
		body = mustJSON(r.t, in)
	}
	req, err := http.NewRequestWithContext(r.t.Context(), method, r.boot.URL+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	res, err := c.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer res.Body.Close()
	text, _ := io.ReadAll(res.Body)
	if out != nil && res.StatusCode == 200 {
		if err := json.NewDecoder(bytes.NewReader(text)).Decode(out); err != nil {
			r.t.Fatal(err)
		}
	}
	return res.StatusCode
}

func (r *rogue) enrol(machine, token string) int {
	r.t.Helper()
	var res api.EnrolResponse
	status := r.call("POST", "/agent/v1/enrol", api.EnrolRequest{Machine: machine, Token: token, CSR: r.csr()}, &res)
	if status == 200 {
		der, err := x509.MarshalECPrivateKey(r.key)
		if err != nil {
			r.t.Fatal(err)
		}
		cert, err := tls.X509KeyPair([]byte(res.Certificate), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}))
		if err != nil {
			r.t.Fatal(err)
		}
		r.cert = &cert
	}
	return status
}

func (r *rogue) report(reports ...api.AttemptReport) int {
	r.t.Helper()
	return r.call("POST", "/agent/v1/reports", api.Report{Health: dspool.Healthy, Attempts: reports}, nil)
}

func (r *rogue) directives() (d api.Directives, status int) {
	r.t.Helper()
	status = r.call("GET", "/agent/v1/directives?after=0", nil, &d)
	return d, status
}

// rogues is a system whose machines have no agents but what a test makes.
type rogues struct {
	*servertest.System
	t     *testing.T
	mu    sync.Mutex
	boots map[string]provider.AgentBoot
}

func newRogues(t *testing.T, config string) *rogues {
	return newRoguesBy(t, servertest.Options{Config: config})
}

func newRoguesBy(t *testing.T, o servertest.Options) *rogues {
	t.Parallel()
	s := &rogues{t: t, boots: map[string]provider.AgentBoot{}}
	o.Script = func(spec provider.MachineSpec, _ int) fake.Script {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.boots[spec.Name] = spec.Agent
		return fake.Script{Silent: true}
	}
	s.System = servertest.New(t, o)
	return s
}

// boot waits until a machine is there and returns what it was given to join with.
func (s *rogues) boot(machine string) (b provider.AgentBoot) {
	s.t.Helper()
	s.Until("machine "+machine+" is there", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		b = s.boots[machine]
		return b.Token != ""
	})
	return b
}

// joined is a rogue that has enrolled as a machine.
func (s *rogues) joined(machine string) *rogue {
	s.t.Helper()
	r := &rogue{t: s.t, boot: s.boot(machine), key: newKey(s.t)}
	if status := r.enrol(machine, r.boot.Token); status != 200 {
		s.t.Fatalf("enrol %s: %d", machine, status)
	}
	return r
}

// placed waits until an attempt is wanted of a machine.
func (s *rogues) placed(r *rogue) (a api.AttemptDirective) {
	s.t.Helper()
	s.Until("a task is placed", func() bool {
		d, status := r.directives()
		if status == 200 && len(d.Attempts) > 0 {
			a = d.Attempts[0]
		}
		return a.ID != 0
	})
	return a
}

func TestAgentLinkAttacks(t *testing.T) {
	t.Parallel()
	t.Run("a token joins once: with its key again, with another never", func(t *testing.T) {
		s := newRogues(t, "")
		job := s.MustSubmit(dspool.JobSpec{Command: []string{"true"}})
		r := &rogue{t: t, boot: s.boot("batch-1"), key: newKey(t)}
		for token, want := range map[string]int{"": 401, "wrong": 401, strings.Repeat("x", 10_000): 401} {
			if status := r.enrol("batch-1", token); status != want {
				t.Errorf("token %.10q: %d", token, status)
			}
		}
		for _, name := range []string{"", "batch-2", "../batch-1", "batch-1\x00", strings.Repeat("b", 10_000)} {
			if status := r.enrol(name, r.boot.Token); status != 401 {
				t.Errorf("as %.20q: %d", name, status)
			}
		}
		for range 2 {
			if status := r.enrol("batch-1", r.boot.Token); status != 200 {
				t.Errorf("with its key: %d", status)
			}
		}
		thief := &rogue{t: t, boot: r.boot, key: newKey(t)}
		if status := thief.enrol("batch-1", r.boot.Token); status != 401 {
			t.Errorf("with another key: %d", status)
		}
		for _, path := range []string{"/agent/v1/directives?after=0", "/agent/v1/reports", "/agent/v1/renew"} {
			method := map[bool]string{true: "GET", false: "POST"}[strings.Contains(path, "after")]
			if status := thief.call(method, path, api.Report{}, nil); status != 401 {
				t.Errorf("%s without a certificate: %d", path, status)
			}
		}
		if status := r.call("POST", "/agent/v1/renew", api.RenewRequest{CSR: r.csr()}, nil); status != 200 {
			t.Errorf("renewal: %d", status)
		}
		if status := r.call("POST", "/agent/v1/renew", api.RenewRequest{CSR: thief.csr()}, nil); status != 401 {
			t.Errorf("renewal for another key: %d", status)
		}
		if _, err := s.CancelJob(t.Context(), job.ID); err != nil {
			t.Fatal(err)
		}
		if _, err := s.RemoveMachine(t.Context(), "batch-1", true); err != nil {
			t.Fatal(err)
		}
		s.AtRest()
		if status := r.enrol("batch-1", r.boot.Token); status != 401 {
			t.Errorf("once the machine is gone: %d", status)
		}
		if _, status := r.directives(); status != 401 || r.report() != 401 {
			t.Errorf("its certificate, once it is gone: %d", status)
		}
	})
	t.Run("a machine that did not join in time never joins", func(t *testing.T) {
		s := newRogues(t, quick)
		job := s.MustSubmit(dspool.JobSpec{Command: []string{"true"}})
		boot := s.boot("batch-1")
		gate := s.Steps.Hold(servertest.Destroy)
		s.MustReach(gate)
		r := &rogue{t: t, boot: boot, key: newKey(t)}
		if status := r.enrol("batch-1", boot.Token); status != 401 {
			t.Errorf("too late: %d", status)
		}
		gate.Open()
		if _, err := s.CancelJob(t.Context(), job.ID); err != nil {
			t.Fatal(err)
		}
		s.AtRest()
	})
	t.Run("a machine speaks for its own attempts only, and sees no others", func(t *testing.T) {
		s := newRogues(t, "")
		job := s.MustSubmit(dspool.JobSpec{Command: []string{"true"}, Array: "1-2"})
		one, two := s.joined("batch-1"), s.joined("batch-2")
		first, second := s.placed(one), s.placed(two)
		if d, _ := one.directives(); len(d.Attempts) != 1 || first.ID == second.ID {
			t.Errorf("the first machine sees %+v", d.Attempts)
		}
		now, zero := time.Now(), 0
		if status := one.report(api.AttemptReport{ID: second.ID, State: dspool.TaskSucceeded, Started: &now, ExitCode: &zero}, api.AttemptReport{ID: 1 << 60, State: dspool.TaskFailed}); status != 204 {
			t.Errorf("report: %d", status)
		}
		if task, err := s.Task(t.Context(), job.ID, second.Index); err != nil || task.State != dspool.TaskAssigned {
			t.Errorf("the other machine's task is %s, %v", task.State, err)
		}
		for _, x := range []struct {
			r *rogue
			a api.AttemptDirective
		}{{one, first}, {two, second}} {
			x.r.report(api.AttemptReport{ID: x.a.ID, State: dspool.TaskSucceeded, Started: &now, ExitCode: &zero})
		}
		if j := s.MustEnd(job.ID); j.State != dspool.JobSucceeded {
			t.Errorf("job ended %s: %s", j.State, j.Reason)
		}
		s.AtRest()
	})
	// lies are single reports of the machine on which a job's only task is placed.
	past, future, huge, exit := time.Now().Add(-1000*time.Hour), time.Now().Add(1000*time.Hour), 1<<40, 3
	now := time.Now()
	for claim, lie := range map[string]struct {
		reports []api.AttemptReport
		state   dspool.TaskState
		reason  string
	}{
		"success of what never started is a failure":        {[]api.AttemptReport{{State: dspool.TaskSucceeded}}, dspool.TaskFailed, "never started"},
		"a cancel that nobody asked for is a failure":       {[]api.AttemptReport{{State: dspool.TaskCancelled}}, dspool.TaskFailed, "gave it up"},
		"what has ended stays ended":                        {[]api.AttemptReport{{State: dspool.TaskFailed, ExitCode: &exit, Reason: testkit.Stated("one")}, {State: dspool.TaskSucceeded, Started: &now}, {State: dspool.TaskRunning}}, dspool.TaskFailed, "one"},
		"states that are none are ignored":                  {[]api.AttemptReport{{State: "x"}, {State: dspool.TaskPending}, {State: dspool.TaskAssigned}, {State: dspool.TaskLost}, {State: dspool.TaskFailed, Reason: testkit.Stated("last")}}, dspool.TaskFailed, "last"},
		"times outside the attempt are cut":                 {[]api.AttemptReport{{State: dspool.TaskRunning, Started: &past}, {State: dspool.TaskSucceeded, Started: &past, Ended: &future}}, dspool.TaskSucceeded, ""},
		"an end before the start is cut":                    {[]api.AttemptReport{{State: dspool.TaskFailed, Started: &future, Ended: &past, ExitCode: &huge, Reason: testkit.Stated("r")}}, dspool.TaskFailed, "r"},
		"giant reasons are cut, control characters cleaned": {[]api.AttemptReport{{State: dspool.TaskFailed, Reason: testkit.Stated("\x1b[2J\u202e" + strings.Repeat("é", 1<<19))}}, dspool.TaskFailed, "[2J é"},
	} {
		t.Run(claim, func(t *testing.T) {
			s := newRogues(t, "")
			job := s.MustSubmit(dspool.JobSpec{Command: []string{"true"}})
			r := s.joined("batch-1")
			a := s.placed(r)
			for i, rep := range lie.reports {
				rep.ID = a.ID
				if status := r.report(rep); status != 204 && (i == 0 || status != 401) { // once its task has ended, the machine may be gone
					t.Errorf("report %s: %d", rep.State, status)
				}
			}
			j := s.MustEnd(job.ID)
			task, err := s.Task(t.Context(), job.ID, 0)
			if err != nil || task.State != lie.state || !strings.Contains(task.Reason.Text, lie.reason) || len(task.Reason.Text) > 600 || strings.ContainsAny(task.Reason.Text, "\x1b\u202e") {
				t.Errorf("task is %s because %.700q, %v", task.State, task.Reason, err)
			}
			if task.ExitCode != nil && *task.ExitCode > 255 {
				t.Errorf("exit code %d", *task.ExitCode)
			}
			if task.Started != nil && (task.Started.Before(j.Created) || task.Ended.Before(*task.Started) || task.Ended.After(time.Now())) {
				t.Errorf("it ran from %s to %s", task.Started, task.Ended)
			}
			s.AtRest()
		})
	}
	t.Run("floods are refused, and change no more than a little", func(t *testing.T) {
		s := newRogues(t, "")
		job := s.MustSubmit(dspool.JobSpec{Command: []string{"true"}})
		r := s.joined("batch-1")
		a := s.placed(r)
		for what, status := range map[string]int{
			"many attempts":   r.report(make([]api.AttemptReport, 1001)...),
			"six megabytes":   r.call("POST", "/agent/v1/reports", `{"reason": "`+strings.Repeat("x", 6<<20)+`"}`, nil),
			"no JSON":         r.call("POST", "/agent/v1/reports", `{`, nil),
			"no number":       r.call("GET", "/agent/v1/directives?after=x", nil, nil),
			"no certificate":  r.call("POST", "/agent/v1/renew", `{"csr": "x"}`, nil),
			"no known route":  r.call("POST", "/agent/v1/../../api/v1/jobs", `{}`, nil),
			"the people's":    r.call("GET", "/api/v1/jobs", nil, nil),
			"a negative wait": r.call("GET", "/agent/v1/directives?after=0&wait=-1h", nil, nil) + 222,
		} {
			if status/100 != 4 {
				t.Errorf("%s: %d", what, status)
			}
		}
		before := len(s.EventsOf("machine.unhealthy")) + len(s.EventsOf("machine.healthy"))
		for i := range 50 {
			health := api.Report{Health: dspool.Healthy, Reason: testkit.Stated(fmt.Sprintf("\x00reason %d", i))}
			if i%2 == 0 {
				health.Reason = testkit.Stated(strings.Repeat("x", 10_000))
			}
			if status := r.call("POST", "/agent/v1/reports", health, nil); status != 204 {
				t.Fatal(status)
			}
		}
		if n := len(s.EventsOf("machine.unhealthy")) + len(s.EventsOf("machine.healthy")); n != before {
			t.Errorf("%d events of health", n-before)
		}
		r.report(api.AttemptReport{ID: a.ID, State: dspool.TaskFailed, Reason: testkit.Stated("end")})
		s.MustEnd(job.ID)
		s.AtRest()
	})
	t.Run("an unhealthy machine gets no tasks until it is well again", func(t *testing.T) {
		s := newRogues(t, strings.Replace(servertest.Config, "max: 4", "max: 1", 1))
		first := s.MustSubmit(dspool.JobSpec{Command: []string{"true"}})
		r := s.joined("batch-1")
		a := s.placed(r)
		sick := api.Report{Health: dspool.Unhealthy, Reason: testkit.Stated("disk\nfull")}
		if status := r.call("POST", "/agent/v1/reports", sick, nil); status != 204 {
			t.Fatal(status)
		}
		second := s.MustSubmit(dspool.JobSpec{Command: []string{"true"}})
		s.Until("the second job says why it waits", func() bool {
			j, err := s.Job(t.Context(), second.ID)
			m, err2 := s.Machine(t.Context(), "batch-1")
			return err == nil && err2 == nil && strings.Contains(j.Reason.Text, "1 unhealthy") && m.HealthReason.Text == "disk full"
		})
		r.report(api.AttemptReport{ID: a.ID, State: dspool.TaskFailed, Reason: testkit.Stated("end")})
		b := s.placed(r)
		r.report(api.AttemptReport{ID: b.ID, State: dspool.TaskFailed, Reason: testkit.Stated("end")})
		s.MustEnd(first.ID)
		s.MustEnd(second.ID)
		s.AtRest()
	})
}
