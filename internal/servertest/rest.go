package servertest

import (
	"maps"
	"math"
	"slices"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/client"
	"github.com/dspool/dspool/internal/auth"
)

var root = auth.Subject{Admin: true}

// AtRest waits until the pools are at zero, and then checks what is true of any history: every
// job has ended and adds up, no task ran twice, no machine is left, none was billed twice, and
// everything has its reason.
func (s *System) AtRest() {
	s.t.Helper()
	s.Until("every machine is gone", func() bool {
		list, err := s.Server.Control.Machines(s.t.Context(), root, "", false)
		return err == nil && len(list.Items) == 0
	})
	s.Until("the provider has nothing left", func() bool {
		left, err := s.Provider.List(s.t.Context())
		return err == nil && len(left) == 0
	})
	s.checkJobs()
	s.checkMachines()
}

func (s *System) checkJobs() {
	s.t.Helper()
	jobs, err := s.Jobs(s.t.Context(), client.JobFilter{Limit: 1000})
	if err != nil {
		s.t.Fatal(err)
	}
	for _, j := range jobs.Items {
		c := j.Tasks
		if !j.State.Ended() || c.Pending+c.Active() != 0 || c.Succeeded+c.Failed+c.Cancelled+c.Lost != c.Total || j.Pending.Len() != 0 {
			s.t.Errorf("job %d is %s with %+v", j.ID, j.State, c)
		}
		for index, n := range s.Spawned(j.ID) {
			if n != 1 {
				s.t.Errorf("task %d of job %d ran %d times", index, j.ID, n)
			}
		}
		tasks, err := s.Tasks(s.t.Context(), j.ID, client.TaskFilter{Limit: 10_000})
		if err != nil {
			s.t.Fatal(err)
		}
		if int64(len(tasks.Items)) != min(c.Total, 10_000) {
			s.t.Errorf("job %d of %d tasks lists %d", j.ID, c.Total, len(tasks.Items))
		}
		for _, task := range tasks.Items {
			if !task.State.Ended() || (task.State != dspool.TaskSucceeded && task.Reason.Text == "") {
				s.t.Errorf("task %d of job %d is %s because %q", task.Index, j.ID, task.State, task.Reason)
			}
		}
	}
}

func (s *System) checkMachines() {
	s.t.Helper()
	list, err := s.Machines(s.t.Context(), "", true)
	if err != nil {
		s.t.Fatal(err)
	}
	events, err := s.Events(s.t.Context(), client.EventFilter{Limit: 10_000})
	if err != nil {
		s.t.Fatal(err)
	}
	told := map[string][]string{}
	for _, e := range events.Items {
		if e.Machine != "" {
			told[e.Machine] = append(told[e.Machine], e.Kind)
		}
		needs := []string{"machine.create", "machine.destroy", "machine.gone", "machine.failed", "machine.fault", "task.placed", "task.lost", "task.failed"}
		if slices.Contains(needs, e.Kind) && e.Reason.Text == "" {
			s.t.Errorf("event %d (%s) has no reason: %s", e.ID, e.Kind, e.Message)
		}
	}
	cost := 0.0
	for _, m := range list.Items {
		if !m.State.Ended() || m.Ended == nil || m.Claims != 0 {
			s.t.Errorf("machine %s is %s with %d claims", m.Name, m.State, m.Claims)
			continue
		}
		if !events.More && (!slices.Contains(told[m.Name], "machine.create") || !slices.Contains(told[m.Name], "machine."+string(m.State))) {
			s.t.Errorf("machine %s has only the events %v", m.Name, told[m.Name])
		}
		cost += m.Ended.Sub(m.Created).Seconds() / 3600 * m.Price
	}
	for _, by := range []string{"user", "pool", "job"} {
		u, err := s.Usage(s.t.Context(), by, time.Time{}, time.Time{})
		if err != nil {
			s.t.Fatal(err)
		}
		// Every line of a bill is rounded to a millionth, job by job.
		near := 1e-6 * (max(1, cost) + float64(len(u.Rows)))
		if sum := Cost(u.Rows); math.Abs(sum-cost) > near || math.Abs(u.Cost-cost) > near {
			s.t.Errorf("the machines cost %f, the bill by %s %f with rows of %f", cost, by, u.Cost, sum)
		}
	}
}

// Cost adds up the rows of a bill.
func Cost(rows []dspool.UsageRow) float64 {
	sum := 0.0
	for _, r := range rows {
		sum += r.Cost
	}
	return sum
}

// Attempts returns the identifiers of the attempts that were started on a machine, in order.
func (s *System) Attempts(machine string) []int64 {
	ids := map[int64]bool{}
	if m := s.Inside(machine); m != nil {
		for _, spec := range m.Spawned() {
			ids[spec.ID] = true
		}
	}
	return slices.Sorted(maps.Keys(ids))
}
