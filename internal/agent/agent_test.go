package agent_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/agent"
	"github.com/dspool/dspool/internal/agent/agenttest"
	"github.com/dspool/dspool/internal/agent/initd"
	"github.com/dspool/dspool/internal/testkit"
)

var _, _ agent.Executor = (*initd.Client)(nil), (*agenttest.Machine)(nil)

func config(s *server, m *agenttest.Machine, dir string) agent.Config {
	return agent.Config{Boot: s.boot(), Executor: m, Dir: dir, Grace: 50 * time.Millisecond, CheckEvery: 50 * time.Millisecond}
}

// forgotten waits until the machine's table is empty.
func forgotten(t testing.TB, m *agenttest.Machine) {
	t.Helper()
	late := time.After(waitLimit)
	for {
		changed := m.Changed()
		if list, err := m.List(t.Context()); err == nil && len(list) == 0 {
			return
		}
		select {
		case <-changed:
		case <-late:
			t.Fatalf("attempts were not forgotten in %v", waitLimit)
		}
	}
}

func TestLifeOfAttempts(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		claim, command string
		limit          time.Duration
		state          dspool.TaskState
		code           int
		reason         string
	}{
		{"exit code 0 succeeds", "true", 0, dspool.TaskSucceeded, 0, ""},
		{"another exit code fails", "exit 3", 0, dspool.TaskFailed, 3, "exit code 3"},
		{"memory is named with its limit", "oom", 0, dspool.TaskFailed, 137, "out of memory (limit 512 MiB)"},
		{"a kill for memory is named of what succeeds", "oom-child", 0, dspool.TaskSucceeded, 0, "out of memory (limit 512 MiB): the kernel killed a process"},
		{"and beside a time limit", "oom-worker", 30 * time.Millisecond, dspool.TaskFailed, 143, "time limit of 30ms exceeded; out of memory (limit 512 MiB): the kernel killed a process"},
		{"a missing command is named", "nonsense", 0, dspool.TaskFailed, 127, `command "nonsense" does not exist on the machine`},
		{"the time limit ends it", "forever", 30 * time.Millisecond, dspool.TaskFailed, 143, "time limit of 30ms exceeded"},
		{"the time limit ends the stubborn too", "stubborn", time.Millisecond, dspool.TaskFailed, 137, "time limit of 1ms exceeded"},
		{"an end within the time limit is its own", "exit 3", time.Hour, dspool.TaskFailed, 3, "exit code 3"},
	} {
		t.Run(c.claim, func(t *testing.T) {
			t.Parallel()
			s, m := newServer(t), agenttest.NewMachine(nil)
			s.agent(config(s, m, t.TempDir()))
			s.put(api.AttemptDirective{ID: 1, Job: 1}, api.TaskSpec{
				Job: 1, Command: strings.Fields(c.command), Request: dspool.Resources{CPUs: 1, Memory: 512 << 20}, TimeLimit: dspool.Duration(c.limit),
			})
			r := s.ended(1)
			if r.State != c.state || r.ExitCode == nil || *r.ExitCode != c.code || testkit.Text(r.Reason) != c.reason {
				t.Errorf("%+v", r)
			}
			if started := c.code != 127; started != (r.Started != nil) || started != (r.Ended != nil) {
				t.Errorf("started %v, ended %v", r.Started, r.Ended)
			}
			forgotten(t, m)
		})
	}
}

func TestSpecOfAttempt(t *testing.T) {
	t.Parallel()
	s, m := newServer(t), agenttest.NewMachine(nil)
	s.agent(config(s, m, t.TempDir()))
	s.put(api.AttemptDirective{ID: 5, Job: 2, Index: 17}, api.TaskSpec{
		Job: 2, Account: api.Account{User: "alice", UID: 20001, GID: 20001, Home: "/home/alice"}, Dir: "/mnt/team/jobs/alice/2", Command: []string{"true"},
		Env: map[string]string{"A": "b"}, Count: 20, Request: dspool.Resources{CPUs: 2, Memory: 1 << 30},
	})
	s.ended(5)
	got := m.Spawned()[0]
	if got.Dir != "/mnt/team/jobs/alice/2/17" || got.Count != 20 || got.UID != 20001 || got.Env["A"] != "b" || got.Quota {
		t.Errorf("%+v", got)
	}
}

func TestWhatWaitsStartsWithTheRightsOfNow(t *testing.T) {
	t.Parallel()
	s, m := newServer(t), agenttest.NewMachine(nil)
	spec := api.TaskSpec{
		Job: 2, Account: api.Account{User: "alice", UID: 20001, GID: 20001, Groups: []api.GroupID{{Name: "lab", GID: 20500}}}, Command: []string{"true"}, Count: 1,
		Request: dspool.Resources{CPUs: 2, Memory: 1 << 20},
	}
	s.want(1, 1, "forever")
	s.put(api.AttemptDirective{ID: 2, Job: 2}, spec)
	s.agent(config(s, m, t.TempDir()))
	s.running(1)
	spec.Groups = nil
	s.put(api.AttemptDirective{ID: 2, Job: 2}, spec)
	s.want(3, 2, "true") // what follows has been read, too
	s.cancel(3, false, "asked")
	s.ended(3)
	m.End(1, 0)
	s.ended(2)
	if got := m.Spawned()[1]; got.ID != 2 || len(got.Groups) != 0 {
		t.Errorf("%+v", got)
	}
}

func TestQueueAhead(t *testing.T) {
	t.Parallel()
	s, m := newServer(t), agenttest.NewMachine(nil)
	// All are there before the agent comes.
	s.want(1, 1, "forever")
	s.want(2, 1, "forever")
	s.want(3, 2, "forever")
	s.want(4, 1, "forever") // has to wait for 3, although it would fit earlier
	s.want(5, 1, "true")
	s.want(6, 1, "true")
	s.agent(config(s, m, t.TempDir()))
	s.running(1)
	s.running(2)
	order := func() (ids []int64) {
		for _, a := range m.Spawned() {
			ids = append(ids, a.ID)
		}
		return ids
	}
	s.cancel(6, false, "asked")
	if r := s.ended(6); r.State != dspool.TaskCancelled || r.Started != nil || testkit.Text(r.Reason) != "asked" {
		t.Errorf("cancelled before it started: %+v", r)
	}
	m.End(1, 0)
	s.ended(1)
	if got := order(); len(got) != 2 {
		t.Errorf("started %v: 4 went past 3", got)
	}
	// It starts with no word of the server's.
	s.setFault(func(*http.Request, []byte) int { return http.StatusServiceUnavailable })
	changed := m.Changed()
	m.End(2, 0)
	late := time.After(waitLimit)
	for !slices.Contains(order(), 3) {
		select {
		case <-changed:
			changed = m.Changed()
		case <-late:
			t.Fatal("3 did not start while the server was away")
		}
	}
	s.setFault(nil)
	s.running(3)
	m.End(3, 0)
	s.ended(5)
	s.running(4)
	if got := order(); len(got) != 5 || got[2] != 3 { // 4 and 5 fit together
		t.Errorf("started %v", got)
	}
	s.cancel(4, false, "enough")
	if r := s.ended(4); r.State != dspool.TaskCancelled || r.Started == nil || testkit.Text(r.Reason) != "enough" || *r.ExitCode != 143 {
		t.Errorf("cancelled while it ran: %+v", r)
	}
}

func TestRecall(t *testing.T) {
	t.Parallel()
	s, m := newServer(t), agenttest.NewMachine(nil)
	s.want(1, 2, "forever")
	s.want(2, 2, "forever")
	s.agent(config(s, m, t.TempDir()))
	s.running(1)
	s.cancel(1, true, "needed elsewhere")
	s.cancel(2, true, "needed elsewhere")
	if r := s.ended(2); r.State != dspool.TaskCancelled || r.Started != nil {
		t.Errorf("recalled from the queue: %+v", r)
	}
	s.await("the word that 1 runs on", func() bool { return len(s.history[1]) > 1 })
	if list, err := m.List(t.Context()); err != nil || len(list) == 0 || list[0].ID != 1 || list[0].Cause != "" {
		t.Errorf("a recall touched a running attempt: %+v, %v", list, err)
	}
}

func TestWhatCannotRun(t *testing.T) {
	t.Parallel()
	s, m := newServer(t), agenttest.NewMachine(nil)
	s.agent(config(s, m, t.TempDir()))
	s.want(1, 3, "true")
	if r := s.ended(1); r.State != dspool.TaskFailed || testkit.Text(r.Reason) != "the task asks for 3 cpu, 512 MiB and the machine has 2 cpu, 2 GiB" {
		t.Errorf("%+v", r)
	}
	s.cancel(2, false, "never mind") // known only as cancelled
	if r := s.ended(2); r.State != dspool.TaskCancelled || r.Started != nil {
		t.Errorf("%+v", r)
	}
	if len(m.Spawned()) != 0 {
		t.Error("something was started")
	}
}

func TestStaleAnswers(t *testing.T) {
	t.Parallel()
	s, m := newServer(t), agenttest.NewMachine(nil)
	s.agent(config(s, m, t.TempDir()))
	s.want(1, 1, "true")
	s.ended(1)
	forgotten(t, m)
	s.mu.Lock()
	spec := s.jobs[1]
	again := api.Directives{Attempts: []api.AttemptDirective{{ID: 1, Job: 1, Index: 1}}, Jobs: []api.TaskSpec{spec}}
	old := again
	again.Revision, old.Revision = s.revision+10, s.revision-1
	s.revision += 10
	s.stale = &again
	s.notify()
	s.mu.Unlock()
	s.want(2, 1, "true")
	s.ended(2)
	s.mu.Lock()
	s.stale = &old
	s.notify()
	s.mu.Unlock()
	s.want(3, 1, "true")
	s.ended(3)
	if n := len(m.Spawned()); n != 3 {
		t.Errorf("%d starts of 3 attempts", n)
	}
}

// The agent dies between any two steps; a new one on the same machine goes on.
func TestAgentDies(t *testing.T) {
	t.Parallel()
	t.Run("while it enrols: the same key comes again", func(t *testing.T) {
		t.Parallel()
		s, m, dir := newServer(t), agenttest.NewMachine(nil), t.TempDir()
		var enrolled atomic.Int32
		cfg := config(s, m, dir)
		cfg.Enrolled = func() { enrolled.Add(1) }
		first := s.agent(cfg)
		s.await("the first enrolment", func() bool { return s.enrolments > 0 })
		first.kill()
		// As if it had died before the certificate was on disk.
		must(t, errors.Join(remove(dir, "agent.crt"), remove(dir, "link.json")))
		enrolled.Store(0)
		s.agent(cfg)
		s.want(1, 1, "true")
		s.ended(1)
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.enrolments != 2 || enrolled.Load() != 1 {
			t.Errorf("%d enrolments, %d told", s.enrolments, enrolled.Load())
		}
	})
	t.Run("after it enrolled: no token is needed", func(t *testing.T) {
		t.Parallel()
		s, m, dir := newServer(t), agenttest.NewMachine(nil), t.TempDir()
		first := s.agent(config(s, m, dir))
		s.await("the first report", func() bool { return len(s.reports) > 0 })
		first.kill()
		cfg := config(s, m, dir)
		cfg.Boot = (agent.Config{}).Boot
		s.agent(cfg)
		s.want(1, 2, "true") // its resources are known, too
		if r := s.ended(1); r.State != dspool.TaskSucceeded {
			t.Errorf("%+v", r)
		}
		if key, err := os.Stat(filepath.Join(dir, "agent.key")); err != nil || key.Mode().Perm() != 0o600 {
			t.Errorf("key: %v, %v", key, err)
		}
		files, err := filepath.Glob(filepath.Join(dir, "*"))
		must(t, err)
		for _, f := range files {
			if text, err := os.ReadFile(f); err != nil || bytes.Contains(text, []byte("secret")) {
				t.Errorf("%s holds the token, or %v", f, err)
			}
		}
	})
	t.Run("while attempts run and wait: none is lost and none runs twice", func(t *testing.T) {
		t.Parallel()
		s, m, dir := newServer(t), agenttest.NewMachine(nil), t.TempDir()
		s.want(1, 1, "forever")
		s.want(2, 1, "forever")
		s.want(3, 2, "true")
		first := s.agent(config(s, m, dir))
		s.running(1)
		s.running(2)
		first.kill()
		m.End(1, 4) // nobody watches
		s.agent(config(s, m, dir))
		if r := s.ended(1); r.ExitCode == nil || *r.ExitCode != 4 {
			t.Errorf("%+v", r)
		}
		if n := len(m.Spawned()); n != 2 {
			t.Errorf("%d starts before 2 ended: its room was given away", n)
		}
		m.End(2, 0)
		s.ended(3)
		forgotten(t, m)
		if n := len(m.Spawned()); n != 3 {
			t.Errorf("%d starts of 3 attempts", n)
		}
	})
	t.Run("after the server heard and before init forgot: it reports again", func(t *testing.T) {
		t.Parallel()
		s, m, dir := newServer(t), agenttest.NewMachine(nil), t.TempDir()
		blocked := &forgetful{Machine: m}
		blocked.broken.Store(true)
		cfg := config(s, m, dir)
		cfg.Executor = blocked
		first := s.agent(cfg)
		s.want(1, 1, "true")
		s.ended(1)
		first.kill()
		s.agent(config(s, m, dir))
		forgotten(t, m)
		if n := len(m.Spawned()); n != 1 {
			t.Errorf("%d starts", n)
		}
	})
	t.Run("while an attempt is being cancelled: the reason stays", func(t *testing.T) {
		t.Parallel()
		s, m, dir := newServer(t), agenttest.NewMachine(nil), t.TempDir()
		s.want(1, 1, "stubborn")
		cfg := config(s, m, dir)
		cfg.Grace = 200 * time.Millisecond
		first := s.agent(cfg)
		s.running(1)
		s.cancel(1, false, "asked")
		late := time.After(waitLimit)
		for list, _ := m.List(t.Context()); list[0].Cause == ""; list, _ = m.List(t.Context()) {
			select {
			case <-late:
				t.Fatal("the kill did not come")
			case <-time.After(time.Millisecond):
			}
		}
		first.kill()
		s.agent(config(s, m, dir))
		if r := s.ended(1); r.State != dspool.TaskCancelled || testkit.Text(r.Reason) != "asked" || *r.ExitCode != 137 {
			t.Errorf("%+v", r)
		}
	})
	t.Run("with a time limit running: the next one counts on", func(t *testing.T) {
		t.Parallel()
		s, m, dir := newServer(t), agenttest.NewMachine(nil), t.TempDir()
		s.put(api.AttemptDirective{ID: 1, Job: 1}, api.TaskSpec{Job: 1, Command: []string{"forever"}, Request: dspool.Resources{CPUs: 1, Memory: 1 << 20}, TimeLimit: dspool.Duration(300 * time.Millisecond)})
		first := s.agent(config(s, m, dir))
		s.running(1)
		first.kill()
		s.agent(config(s, m, dir))
		if r := s.ended(1); testkit.Text(r.Reason) != "time limit of 300ms exceeded" {
			t.Errorf("%+v", r)
		}
	})
}

type forgetful struct {
	*agenttest.Machine
	broken atomic.Bool
}

func (f *forgetful) Forget(ctx context.Context, ids []int64) error {
	if f.broken.Load() {
		return errors.New("not now")
	}
	return f.Machine.Forget(ctx, ids)
}

func remove(dir, name string) error {
	if err := os.Remove(filepath.Join(dir, name)); err != nil && !os.IsNotExist(err) {
		return err
	}
	return nil
}

func TestFaultsOfTheServer(t *testing.T) {
	t.Parallel()
	t.Run("a token used by another key is refused for good", func(t *testing.T) {
		t.Parallel()
		s, m := newServer(t), agenttest.NewMachine(nil)
		s.tokenKey = "another's"
		select {
		case err := <-s.agent(config(s, m, t.TempDir())).err:
			if err == nil || !strings.Contains(err.Error(), "403") {
				t.Errorf("%v", err)
			}
		case <-time.After(waitLimit):
			t.Error("it goes on trying")
		}
	})
	t.Run("a server that is away is waited for", func(t *testing.T) {
		t.Parallel()
		s, m := newServer(t), agenttest.NewMachine(nil)
		tries := 0
		s.fault = func(*http.Request, []byte) int {
			if tries++; tries <= 2 {
				return http.StatusBadGateway
			}
			return 0
		}
		s.agent(config(s, m, t.TempDir()))
		s.want(1, 1, "true")
		s.ended(1)
	})
	t.Run("what happens while it is away is reported when it is back", func(t *testing.T) {
		t.Parallel()
		s, m := newServer(t), agenttest.NewMachine(nil)
		s.agent(config(s, m, t.TempDir()))
		s.want(1, 1, "forever")
		s.want(2, 1, "forever")
		s.running(1)
		s.running(2)
		tried := make(chan struct{}, 100)
		s.setFault(func(r *http.Request, body []byte) int {
			if bytes.Contains(body, []byte(`"succeeded"`)) {
				tried <- struct{}{}
			}
			return http.StatusInternalServerError
		})
		m.End(1, 0)
		<-tried
		m.End(2, 0)
		<-tried
		s.setFault(nil)
		s.ended(1)
		s.ended(2)
		forgotten(t, m)
	})
	t.Run("an attempt that it refuses does not hold up the others", func(t *testing.T) {
		t.Parallel()
		s, m := newServer(t), agenttest.NewMachine(nil)
		s.fault = func(r *http.Request, body []byte) int {
			var in api.Report
			if json.Unmarshal(body, &in) == nil && slices.ContainsFunc(in.Attempts, func(a api.AttemptReport) bool { return a.ID == 4 }) {
				return http.StatusNotFound
			}
			return 0
		}
		for id := range int64(10) {
			s.want(id, 0.1, "true")
		}
		s.agent(config(s, m, t.TempDir()))
		for id := range int64(10) {
			if id != 4 {
				s.ended(id)
			}
		}
		s.want(11, 1, "true")
		s.ended(11)
		if list, err := m.List(t.Context()); err != nil || !slices.ContainsFunc(list, func(st initd.Status) bool { return st.ID == 4 }) {
			t.Errorf("the refused attempt was forgotten: %v", err)
		}
	})
	t.Run("an authority that is not the boot file's is not talked to", func(t *testing.T) {
		t.Parallel()
		s, m := newServer(t), agenttest.NewMachine(nil)
		cfg := config(s, m, t.TempDir())
		cfg.Boot.CA = newServer(t).caPEM
		a := s.agent(cfg)
		select {
		case err := <-a.err:
			t.Errorf("ended: %v", err)
		case <-time.After(100 * time.Millisecond): // it tries on; nothing tells that it does not succeed
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.enrolments != 0 {
			t.Error("enrolled")
		}
	})
}

func TestInitAway(t *testing.T) {
	t.Parallel()
	s, m := newServer(t), agenttest.NewMachine(nil)
	s.agent(config(s, m, t.TempDir()))
	s.want(1, 1, "forever")
	s.running(1)
	m.Break(errors.New("connection refused"))
	s.want(2, 1, "true")
	s.await("an unhealthy report", func() bool {
		n := len(s.reports)
		return n > 0 && s.reports[n-1].Health == dspool.Unhealthy && testkit.Text(s.reports[n-1].Reason) == "init does not answer"
	})
	m.Break(nil)
	s.ended(2)
	m.End(1, 0)
	s.ended(1)
	s.await("a healthy report", func() bool { return s.reports[len(s.reports)-1].Health == dspool.Healthy })
}

func TestHeartbeat(t *testing.T) {
	t.Parallel()
	s, m := newServer(t), agenttest.NewMachine(nil)
	cfg := config(s, m, t.TempDir())
	cfg.Check = func(dspool.Resources) (dspool.Health, dspool.Reason) {
		return dspool.Unhealthy, dspool.Why(dspool.WhyDiskFull, dspool.ReasonParams{Count: 97})
	}
	s.agent(cfg)
	s.await("a second report with health", func() bool {
		return len(s.reports) > 1 && s.reports[len(s.reports)-1].Health == dspool.Unhealthy
	})
}

func TestRenewal(t *testing.T) {
	t.Parallel()
	s, m := newServer(t), agenttest.NewMachine(nil)
	s.mu.Lock()
	s.life = 2 * time.Second
	s.mu.Unlock()
	s.agent(config(s, m, t.TempDir()))
	s.await("a renewal", func() bool { return s.renewals == 1 })
	s.want(1, 1, "true")
	s.ended(1)
	s.await("the new certificate in use", func() bool { return len(s.seenCerts) == 2 })
}
