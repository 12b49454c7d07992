package agent_test

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/agent"
	"github.com/dspool/dspool/internal/agent/agenttest"
	"github.com/dspool/dspool/internal/agent/host"
	"github.com/dspool/dspool/internal/testkit"
)

var _, _ agent.Host = (*host.Host)(nil), (*agenttest.Machine)(nil)

func withSessions(s *server, m *agenttest.Machine, dir string) agent.Config {
	c := config(s, m, dir)
	c.Host, c.LookEvery = m, 5*time.Millisecond
	return c
}

func directive(id int64, user string, uid int) api.SessionDirective {
	return api.SessionDirective{
		ID: id, Account: api.Account{User: user, UID: uid, GID: uid, Home: "/home/" + user}, Request: dspool.Resources{CPUs: 0.25, Memory: 128 << 20},
		Motd: "welcome to batch-1",
	}
}

func closing(d api.SessionDirective) api.SessionDirective {
	d.Close, d.Reason = true, testkit.Stated("idle for an hour")
	return d
}

// opened waits until the machine's open sessions are those with ids.
func opened(t testing.TB, m *agenttest.Machine, ids ...int64) {
	t.Helper()
	late := time.After(waitLimit)
	for {
		changed := m.Changed()
		var got []int64
		for _, d := range m.Opened() {
			got = append(got, d.ID)
		}
		if fmt.Sprint(got) == fmt.Sprint(ids) {
			return
		}
		select {
		case <-changed:
		case <-late:
			t.Fatalf("open are %v, not %v", got, ids)
		}
	}
}

func TestLifeOfSession(t *testing.T) {
	t.Parallel()
	s, m := newServer(t), agenttest.NewMachine(nil)
	s.sshTrust = "ssh-ed25519 AAAA authority"
	s.agent(withSessions(s, m, t.TempDir()))
	alice := directive(1, "alice", 20001)
	s.seat(alice)
	if r := s.open(1); r.Active || testkit.Text(r.Failed) != "" {
		t.Errorf("%+v", r)
	}
	if key, _ := m.HostKey(); s.hostKey != key || key == "" {
		t.Errorf("the server got host key %q", s.hostKey)
	}
	if m.Authority() != s.sshTrust {
		t.Errorf("the machine trusts %q", m.Authority())
	}
	m.SetActivity(1, true, testkit.Stated("python3 uses 97 % of a cpu"))
	if r := s.session(1, "active", func(r api.SessionReport) bool { return r.Active }); testkit.Text(r.Activity) != "python3 uses 97 % of a cpu" {
		t.Errorf("%+v", r)
	}
	changed := alice
	changed.Groups = []api.GroupID{{Name: "lab", GID: 20500}}
	s.seat(changed)
	late := time.After(waitLimit)
	for len(m.Opened()) == 0 || len(m.Opened()[0].Groups) != 1 {
		select {
		case <-m.Changed():
		case <-late:
			t.Fatal("a change of groups did not reach the machine")
		}
	}
	s.seat(closing(alice))
	s.closed(1)
	opened(t, m)
}

func TestSessionThatCannotOpen(t *testing.T) {
	t.Parallel()
	s, m := newServer(t), agenttest.NewMachine(nil)
	m.RefuseSessions(func(d api.SessionDirective) error {
		if d.User == "mallory" {
			return dspool.Errorf(dspool.Conflict, "the image has its own mallory").WithHint("rename the user")
		}
		return nil
	})
	s.agent(withSessions(s, m, t.TempDir()))
	s.seat(directive(1, "mallory", 20001))
	if r := s.closed(1); testkit.Text(r.Failed) != "it could not be opened: the image has its own mallory (rename the user)" {
		t.Errorf("%+v", r)
	}
	s.seat(directive(2, "alice", 20002))
	s.open(2)
}

func TestSessionStaysWhenItsChangeFails(t *testing.T) {
	t.Parallel()
	s, m := newServer(t), agenttest.NewMachine(nil)
	m.RefuseSessions(func(d api.SessionDirective) error {
		if len(d.Groups) > 0 {
			return dspool.Errorf(dspool.Conflict, "the image has its own group lab")
		}
		return nil
	})
	s.agent(withSessions(s, m, t.TempDir()))
	d := directive(1, "alice", 20001)
	s.seat(d)
	s.open(1)
	d.Groups = []api.GroupID{{Name: "lab", GID: 20500}}
	s.seat(d)
	s.seat(directive(2, "bob", 20002)) // comes after it
	s.open(2)
	m.SetActivity(1, true, testkit.Stated("vim runs on terminal pts/0"))
	s.session(1, "still open", func(r api.SessionReport) bool { return r.State == dspool.SessionOpen && r.Active })
	opened(t, m, 1, 2)
	s.seat(closing(d))
	s.closed(1)
}

func TestSessionWaitsForInit(t *testing.T) {
	t.Parallel()
	s, m := newServer(t), agenttest.NewMachine(nil)
	var tries atomic.Int32
	m.RefuseSessions(func(api.SessionDirective) error {
		if tries.Add(1) < 3 {
			return errors.Join(host.ErrAway, errors.New("connection refused"))
		}
		return nil
	})
	s.agent(withSessions(s, m, t.TempDir()))
	s.seat(directive(1, "alice", 20001))
	s.open(1)
}

func TestMachineWithoutSessions(t *testing.T) {
	t.Parallel()
	s, m := newServer(t), agenttest.NewMachine(nil)
	s.agent(config(s, m, t.TempDir()))
	s.seat(directive(1, "alice", 20001))
	if r := s.closed(1); !strings.Contains(testkit.Text(r.Failed), "takes no sessions") {
		t.Errorf("%+v", r)
	}
}

func TestSessionsOutliveAgents(t *testing.T) {
	t.Parallel()
	s, m := newServer(t), agenttest.NewMachine(nil)
	s.sshTrust = "ssh-ed25519 AAAA authority"
	cfg := withSessions(s, m, t.TempDir())
	first := s.agent(cfg)
	s.seat(directive(1, "alice", 20001))
	s.seat(directive(2, "bob", 20002))
	s.seat(directive(3, "carol", 20003))
	s.open(1)
	s.open(2)
	s.open(3)
	first.kill()
	// While no agent is there, one is to be closed and one is no more.
	s.seat(closing(directive(2, "bob", 20002)))
	s.mu.Lock()
	s.seats = s.seats[:0:0]
	s.seats = append(s.seats, seatRow{directive(1, "alice", 20001), s.revision}, seatRow{closing(directive(2, "bob", 20002)), s.revision})
	clear(s.sessions)
	s.mu.Unlock()
	s.agent(cfg)
	opened(t, m, 1)
	s.open(1)
	s.closed(2)
	if m.Authority() == "" {
		t.Error("the second agent did not start sshd")
	}
}

func TestNextSessionOfUser(t *testing.T) {
	t.Parallel()
	s, m := newServer(t), agenttest.NewMachine(nil)
	first := s.agent(withSessions(s, m, t.TempDir()))
	defer first.kill()
	s.seat(directive(1, "alice", 20001))
	s.open(1)
	t.Run("follows the one that is closed in the same breath", func(t *testing.T) {
		s.mu.Lock()
		s.revision++
		s.seats = []seatRow{{directive(2, "alice", 20001), s.revision}, {closing(directive(1, "alice", 20001)), s.revision}}
		s.notify()
		s.mu.Unlock()
		s.open(2)
		s.closed(1)
		opened(t, m, 2)
	})
	t.Run("is refused beside one that stays", func(t *testing.T) {
		s.seat(directive(3, "alice", 20001))
		if r := s.closed(3); !strings.Contains(testkit.Text(r.Failed), "still has session 2") {
			t.Errorf("%+v", r)
		}
		opened(t, m, 2)
	})
}

func TestClosedForGood(t *testing.T) {
	t.Parallel()
	s, m := newServer(t), agenttest.NewMachine(nil)
	s.agent(withSessions(s, m, t.TempDir()))
	s.seat(closing(directive(1, "alice", 20001))) // it never got here
	s.closed(1)
	s.mu.Lock()
	clear(s.sessions)
	s.mu.Unlock()
	s.seat(directive(1, "alice", 20001))
	s.seat(directive(2, "bob", 20002))
	s.open(2)
	opened(t, m, 2)
}

func TestLoginsOfUnhealthyMachine(t *testing.T) {
	t.Parallel()
	s, m := newServer(t), agenttest.NewMachine(nil)
	s.agent(withSessions(s, m, t.TempDir()))
	m.SetLogins("sshd ends as soon as it is started")
	s.await("the machine unhealthy", func() bool {
		last := len(s.reports) - 1
		return last >= 0 && s.reports[last].Health == dspool.Unhealthy && strings.HasPrefix(testkit.Text(s.reports[last].Reason), "sshd ends")
	})
}

func TestHeartbeatCarriesSessions(t *testing.T) {
	t.Parallel()
	s, m := newServer(t), agenttest.NewMachine(nil)
	cfg := withSessions(s, m, t.TempDir())
	first := s.agent(cfg)
	s.seat(directive(1, "alice", 20001))
	s.open(1)
	first.kill()
	s.mu.Lock()
	s.reports = nil
	s.mu.Unlock()
	s.agent(cfg)
	s.await("the first report", func() bool { return len(s.reports) > 0 })
	s.mu.Lock()
	defer s.mu.Unlock()
	if got := s.reports[0].Sessions; len(got) != 1 || got[0].ID != 1 || got[0].State != dspool.SessionOpen {
		t.Errorf("%+v", got)
	}
}

// The machine of these tests has 2 cpus and a session holds 1 of them.
func TestAttemptsAheadLeaveRoomForSessions(t *testing.T) {
	t.Parallel()
	s, m := newServer(t), agenttest.NewMachine(nil)
	s.sshTrust = "ssh-ed25519 AAAA authority"
	alice := directive(1, "alice", 20001)
	alice.Request.CPUs = 1
	s.seat(alice)
	s.want(1, 1, "forever")
	s.want(2, 1, "forever")
	s.agent(withSessions(s, m, t.TempDir()))
	s.open(1)
	s.running(1)
	if n := len(m.Spawned()); n != 1 {
		t.Fatalf("%d attempts were started beside a session that leaves room for one", n)
	}
	s.seat(closing(alice))
	s.closed(1)
	s.running(2)
}
