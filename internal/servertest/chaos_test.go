package servertest_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/client"
	"github.com/dspool/dspool/internal/provider"
	"github.com/dspool/dspool/internal/provider/fake"
	"github.com/dspool/dspool/internal/servertest"
)

// TestAnyHistory lets everything go wrong at random, and checks that what must hold of any
// history holds at its end.
func TestAnyHistory(t *testing.T) {
	t.Parallel()
	for seed := range uint64(8) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			t.Parallel()
			h := &history{t: t, rand: rand.New(rand.NewPCG(seed, 1))}
			h.System = servertest.New(t, servertest.Options{Script: h.script})
			for range 60 {
				h.step()
			}
			h.end()
		})
	}
}

type history struct {
	*servertest.System
	t      *testing.T
	rand   *rand.Rand
	jobs   []int64
	faults atomic.Int32 // creations to come that go wrong
	log    []string
}

func (h *history) note(format string, args ...any) {
	h.log = append(h.log, fmt.Sprintf(format, args...))
}

func (h *history) script(provider.MachineSpec, int) fake.Script {
	switch n := h.faults.Add(-1); {
	case n < 0:
		return fake.Script{}
	case n%2 == 0:
		return fake.Script{Error: errQuota, Made: true}
	}
	return fake.Script{Error: errQuota}
}

// step does one thing, and lets the system go on for a moment.
func (h *history) step() {
	h.t.Helper()
	what := h.rand.IntN(100)
	switch {
	case what < 45:
		h.submit()
	case what < 55:
		h.cancel()
	case what < 63:
		h.onMachine("kill machine", h.Provider.Kill)
	case what < 73:
		h.onMachine("kill agent", h.KillAgent)
	case what < 78:
		h.onMachine("remove machine", func(name string) {
			if _, err := h.RemoveMachine(h.t.Context(), name, h.rand.IntN(2) == 0); err != nil && dspool.ErrorCode(err) != dspool.Conflict {
				h.t.Error(err)
			}
		})
	case what < 82:
		h.onMachine("machine cannot be removed", func(name string) { h.Provider.FailDestroy(name, errors.New("device busy")) })
	case what < 86:
		h.heal()
	case what < 89:
		h.note("list fails")
		h.Provider.FailList(errors.New("host unreachable"))
	case what < 92:
		h.note("creations fail")
		h.faults.Store(int32(1 + h.rand.IntN(2)))
	case what < 97:
		h.note("kill server")
		h.Kill()
		h.Start()
	default:
		h.note("restart server")
		h.Restart()
	}
	h.Moment()
}

func (h *history) submit() {
	specs := []dspool.JobSpec{
		{Command: []string{"true"}},
		{Command: []string{"false"}},
		{Command: []string{"no such command"}},
		{Command: []string{"oom"}, Memory: 64 << 20, CPUs: 0.2},
		{Command: []string{"sleep", "0.02"}, Array: "1-20", MaxRunning: 3},
		{Command: []string{"sleep", "0.002"}, Array: "1-40", CPUs: 0.5, Memory: 128 << 20},
		{Command: []string{"sleep", "0.05"}, CPUs: 3},
		{Command: []string{"forever"}, TimeLimit: dspool.Duration(100e6)},
		{Command: []string{"stubborn"}, TimeLimit: dspool.Duration(50e6), CPUs: 0.1, Memory: 64 << 20},
	}
	spec := specs[h.rand.IntN(len(specs))]
	if len(h.jobs) > 0 && h.rand.IntN(4) == 0 {
		spec.After = []int64{h.jobs[h.rand.IntN(len(h.jobs))]}
	}
	user := []string{"ada", "bob"}[h.rand.IntN(2)]
	job, err := h.Submit(h.t.Context(), api.SubmitRequest{JobSpec: spec, As: user})
	if err != nil {
		if len(spec.After) == 0 { // the one to wait for may have failed already
			h.t.Errorf("submit %v: %v", spec.Command, err)
		}
		return
	}
	h.note("job %d: %v %s of %s after %v", job.ID, spec.Command, spec.Array, user, spec.After)
	h.jobs = append(h.jobs, job.ID)
}

func (h *history) cancel() {
	if len(h.jobs) == 0 {
		return
	}
	id := h.jobs[h.rand.IntN(len(h.jobs))]
	h.note("cancel job %d", id)
	if _, err := h.CancelJob(h.t.Context(), id); err != nil {
		h.t.Errorf("cancel job %d: %v", id, err)
	}
}

func (h *history) onMachine(what string, fn func(string)) {
	list, err := h.Machines(h.t.Context(), "", false)
	if err != nil {
		h.t.Error(err)
		return
	}
	if n := len(list.Items); n > 0 {
		m := list.Items[h.rand.IntN(n)]
		h.note("%s %s (%s)", what, m.Name, m.State)
		fn(m.Name)
	}
}

func (h *history) heal() {
	h.note("heal")
	h.Provider.FailList(nil)
	h.faults.Store(0)
	for _, name := range machineNames(h.t, h.System) {
		h.Provider.FailDestroy(name, nil)
	}
}

func (h *history) end() {
	h.t.Helper()
	defer func() {
		if h.t.Failed() {
			for _, line := range h.log {
				h.t.Log(line)
			}
			list, _ := h.Jobs(h.t.Context(), client.JobFilter{Limit: 1000})
			for _, j := range list.Items {
				if !j.State.Ended() {
					h.t.Logf("job %d of %s is %s because %q with %+v", j.ID, j.User, j.State, j.Reason, j.Tasks)
				}
			}
			machines, _ := h.Machines(h.t.Context(), "", false)
			for _, m := range machines.Items {
				h.t.Logf("machine %s is %s, %s %s, because %q, with %d claims", m.Name, m.State, m.Health, m.HealthReason, m.Reason, m.Claims)
			}
		}
	}()
	h.heal()
	for _, id := range h.jobs {
		h.MustEnd(id)
	}
	h.AtRest()
	if n := h.Steps.Peak("batch"); n > 4 {
		h.t.Errorf("the pool had %d machines at once", n)
	}
}
