package servertest_test

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/client"
	"github.com/dspool/dspool/internal/clock/clocktest"
	"github.com/dspool/dspool/internal/servertest"
)

// lasting is a team whose machines stay for ten minutes without work.
var lasting = strings.Replace(servertest.Config, "idle_after: 200ms", "idle_after: 10m", 1)

// comesIn logs a user in, as far as the certificate that the machine's sshd takes by the clock.
func comesIn(t *testing.T, s *servertest.System, hand *clocktest.Clock, user, connection string) {
	t.Helper()
	logIn(t, s, user, connection)
	list, err := s.As(user).Sessions(t.Context(), client.SessionFilter{})
	if err != nil || len(list.Items) != 1 || list.Items[0].State != dspool.SessionOpen {
		t.Fatalf("sessions of %s: %+v, %v", user, list.Items, err)
	}
	var out api.MachineCertificate
	if status := atGateway(t.Context(), t, s, "certificate", api.MachineLogin{Connection: connection, Session: list.Items[0].ID, PublicKey: publicKey(t)}, &out); status != http.StatusOK {
		t.Fatalf("certificate for %s: status %d", user, status)
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(out.Certificate))
	if err != nil {
		t.Fatal(err)
	}
	cert := key.(*ssh.Certificate)
	if now := uint64(hand.Read().Wall.Unix()); cert.ValidAfter > now || cert.ValidBefore < now+60 {
		t.Errorf("the certificate of %s counts from %d to %d, it is %d", user, cert.ValidAfter, cert.ValidBefore, now)
	}
}

// planned waits until plans were made of the present: a job ran.
func planned(t *testing.T, s *servertest.System) dspool.Job {
	t.Helper()
	j := s.MustEnd(s.MustSubmit(dspool.JobSpec{Command: []string{"true"}, CPUs: 0.1, Memory: 64 << 20}).ID)
	if j.State != dspool.JobSucceeded || j.Ended.Before(*j.Started) || j.Ended.Sub(*j.Started) > servertest.Patience {
		t.Errorf("job %d ended %s after %s: %s", j.ID, j.State, j.Ended.Sub(*j.Started), j.Reason)
	}
	return j
}

// cost is what everything cost until now.
func cost(t *testing.T, s *servertest.System) float64 {
	t.Helper()
	u, err := s.Usage(t.Context(), "user", time.Time{}, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range u.Rows {
		if r.Cost < 0 || r.MachineSeconds < 0 {
			t.Errorf("a row of the bill is %+v", r)
		}
	}
	return u.Cost
}

func TestTheClockIsWrongForAMoment(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	for name, wrong := range map[string]time.Duration{"an hour ahead": time.Hour, "most of a year ahead": 300 * day, "an hour behind": -time.Hour, "weeks behind": -50 * day} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			hand := clocktest.Running()
			s := servertest.New(t, servertest.Options{Config: lasting, Clock: hand.Read})
			ctx := t.Context()
			begun := hand.Read().Lived
			forever := s.MustSubmit(dspool.JobSpec{Command: []string{"forever"}, CPUs: 0.1, Memory: 64 << 20})
			machine := s.Running(forever.ID, 1)[0].Machine
			comesIn(t, s, hand, "ada", "conn-1")
			planned(t, s)
			mine, err := s.As("ada").Sessions(ctx, client.SessionFilter{})
			if err != nil {
				t.Fatal(err)
			}
			drained := mine.Items[0].Machine
			if _, err := s.DrainMachine(ctx, drained, dspool.Duration(30*time.Minute)); err != nil {
				t.Fatal(err)
			}

			hand.Set(wrong)
			comesIn(t, s, hand, "bob", "conn-2")
			planned(t, s)
			s.Restart()
			planned(t, s)

			hand.Set(-wrong)
			planned(t, s)
			atGateway(ctx, t, s, "connections", []api.ConnectionReport{{ID: "conn-2", Ended: true}}, nil)
			comesIn(t, s, hand, "bob", "conn-3")
			comesIn(t, s, hand, "ada", "conn-4")
			s.Restart()
			planned(t, s)

			for _, kind := range []string{"machine.destroy", "machine.unhealthy", "machine.fault", "session.closed"} {
				if es := s.EventsOf(kind); len(es) != 0 {
					t.Errorf("%s: %+v", kind, es)
				}
			}
			m, err := s.Machine(ctx, drained)
			if err != nil || m.State != dspool.Ready || m.DrainBy == nil {
				t.Fatalf("%+v, %v", m, err)
			}
			if left := m.DrainBy.Sub(hand.Read().Wall); left > 30*time.Minute || left < 30*time.Minute-servertest.Patience {
				t.Errorf("it is to go in %s", left)
			}
			lived := (hand.Read().Lived - begun).Seconds()
			list, err := s.Machines(ctx, "", true)
			if err != nil {
				t.Fatal(err)
			}
			most, least := 0.0, 0.0
			for _, m := range list.Items {
				most += lived / 3600 * m.Price
				if m.Name == machine {
					least = hand.Read().Wall.Sub(m.Created).Seconds() / 3600 * m.Price
				}
			}
			if got := cost(t, s); got > most+0.001 || got < least-0.001 || least <= 0 {
				t.Errorf("everything costs %f, its machines lived for %f at most, one for %f", got, most, least)
			}
			status, err := s.Status(ctx)
			if err != nil {
				t.Fatal(err)
			}
			var told []dspool.ReasonCode
			for _, p := range status.Problems {
				told = append(told, p.Code)
			}
			if slices.Sort(told); !slices.Equal(told, []dspool.ReasonCode{dspool.WhyClockAhead, dspool.WhyClockBack}) {
				t.Errorf("the problems are %q", told)
			}
			if up := hand.Read().Wall.Sub(status.Started); up < 0 || up > servertest.Patience {
				t.Errorf("the server is up for %s", up)
			}
		})
	}
}

// A host without a battery, or whose battery is wrong: NTP sets its clock a while after the server has started.
func TestTheClockIsWrongWhenTheHostStarts(t *testing.T) {
	t.Parallel()
	const wrong = -20 * 24 * time.Hour
	hand := clocktest.Running()
	s := servertest.New(t, servertest.Options{Config: lasting, Clock: hand.Read})
	planned(t, s)
	s.Stop()
	before := hand.Read()
	hand.Boot(wrong+time.Hour, 30*time.Second)
	s.Start()
	ctx, cancel := context.WithTimeout(t.Context(), servertest.Patience)
	defer cancel()
	comesIn(t, s, hand, "ada", "conn-1")
	job := planned(t, s)
	hand.Set(-wrong)
	atGateway(ctx, t, s, "connections", []api.ConnectionReport{{ID: "conn-1", Ended: true}}, nil)
	comesIn(t, s, hand, "ada", "conn-2")
	for _, m := range machineNames(t, s) {
		s.KillAgent(m) // the next goes on with the certificate of then
	}
	planned(t, s)
	if j, err := s.As("ada").Job(ctx, job.ID); err != nil || j.State != dspool.JobSucceeded {
		t.Errorf("the job of meanwhile: %+v, %v", j, err)
	}
	all := cost(t, s)
	today, err := s.Usage(ctx, "user", before.Wall.Truncate(24*time.Hour), time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	if today.Cost < all { // all goes on costing
		t.Errorf("of %f, %f are billed since the day on which the host went off", all, today.Cost)
	}
}

// The clock of a machine may be any, and its agent may not reach the server when a task ends.
func TestAJobEndsWithItsLastTaskWhateverClockItsMachineHas(t *testing.T) {
	hand := clocktest.Running()
	s := newRoguesBy(t, servertest.Options{Clock: hand.Read})
	job := s.MustSubmit(dspool.JobSpec{Command: []string{"true"}, Array: "1-2"})
	one, two := s.joined("batch-1"), s.joined("batch-2")
	first, second := s.placed(one), s.placed(two)
	theirs := time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC)
	report := func(r *rogue, reports ...api.AttemptReport) {
		t.Helper()
		if status := r.call("POST", "/agent/v1/reports", api.Report{Now: &theirs, Health: dspool.Healthy, Attempts: reports}, nil); status != http.StatusNoContent {
			t.Fatalf("report: %d", status)
		}
	}
	ago := func(d time.Duration) *time.Time { at := theirs.Add(-d); return &at }
	report(one, api.AttemptReport{ID: first.ID, State: dspool.TaskRunning, Started: ago(0)})
	report(two, api.AttemptReport{ID: second.ID, State: dspool.TaskRunning, Started: ago(0)})
	hand.Pass(80 * time.Second)
	// The later end is told first.
	report(two, api.AttemptReport{ID: second.ID, State: dspool.TaskSucceeded, Started: ago(80 * time.Second), Ended: ago(50 * time.Second)})
	report(one, api.AttemptReport{ID: first.ID, State: dspool.TaskSucceeded, Started: ago(80 * time.Second), Ended: ago(60 * time.Second)})
	j := s.MustEnd(job.ID)
	for index, want := range map[int64]time.Duration{first.Index: 20 * time.Second, second.Index: 30 * time.Second} {
		task, err := s.Task(t.Context(), job.ID, index)
		if err != nil {
			t.Fatal(err)
		}
		if took := task.Ended.Sub(*task.Started); took < want || took > want+servertest.Patience {
			t.Errorf("task %d took %s, want %s", index, took, want)
		}
		if want == 30*time.Second && !j.Ended.Equal(*task.Ended) {
			t.Errorf("the job ended at %s, its last task at %s", j.Ended, task.Ended)
		}
	}
}
