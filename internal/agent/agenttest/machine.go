// Package agenttest has a machine for tests: an agent.Executor and agent.Host in this process
// that runs nothing, but takes time and ends as a script says. It outlives agents, as init does.
package agenttest

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/agent/initd"
)

// Outcome is how an attempt goes.
type Outcome struct {
	Duration time.Duration // until it ends by itself
	Forever  bool          // it ends only when it is killed
	ExitCode int
	OOMKills int64         // processes that the kernel kills for memory, at once
	Fault    dspool.Reason // it does not start, for this reason
	Host     bool          // … which is the host's fault
	// Stubborn makes it live through SIGTERM until the grace of a kill is over.
	Stubborn bool
}

// Machine is safe for concurrent use. The zero value is not ready; see NewMachine.
type Machine struct {
	script func(initd.Spec) Outcome

	mu       sync.Mutex
	attempts map[int64]*attempt
	spawned  []initd.Spec
	streams  map[chan struct{}]bool // closed streams are gone; each is signalled at every end
	broken   error
	moved    chan struct{}

	places places
}

type attempt struct {
	status initd.Status
	begun  time.Time
	timer  *time.Timer
	out    Outcome
}

// NewMachine returns a machine whose attempts go as script says; nil is Commands.
func NewMachine(script func(initd.Spec) Outcome) *Machine {
	if script == nil {
		script = Commands
	}
	return &Machine{script: script, attempts: map[int64]*attempt{}, streams: map[chan struct{}]bool{}, moved: make(chan struct{}), places: newPlaces()}
}

// Commands is a script that knows "true", "false", "exit N", "sleep SECONDS", "forever",
// "stubborn", and "oom", "oom-child" and "oom-worker", of which the kernel kills all, a child or a worker; any other command does not exist.
func Commands(s initd.Spec) Outcome {
	number := func() float64 {
		if len(s.Command) < 2 {
			return 0
		}
		f, _ := strconv.ParseFloat(s.Command[1], 64)
		return f
	}
	switch s.Command[0] {
	case "true":
		return Outcome{}
	case "false":
		return Outcome{ExitCode: 1}
	case "exit":
		return Outcome{ExitCode: int(number())}
	case "sleep":
		return Outcome{Duration: time.Duration(number() * float64(time.Second))}
	case "forever":
		return Outcome{Forever: true}
	case "stubborn":
		return Outcome{Forever: true, Stubborn: true}
	case "oom":
		return Outcome{ExitCode: 137, OOMKills: 1}
	case "oom-child":
		return Outcome{OOMKills: 1}
	case "oom-worker":
		return Outcome{Forever: true, OOMKills: 1}
	}
	return Outcome{ExitCode: 127, Fault: dspool.Why(dspool.WhyNoCommand, dspool.ReasonParams{Name: s.Command[0]})}
}

// Break makes every call fail with err until it is called with nil; streams end.
func (m *Machine) Break(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.broken = err
	m.signal()
}

// Spawned returns every attempt that was started, in order.
func (m *Machine) Spawned() []initd.Spec {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.spawned)
}

// End ends a running attempt with an exit code, as if by itself.
func (m *Machine) End(id int64, code int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if a := m.attempts[id]; a != nil {
		m.end(a, code, 0)
	}
}

// Changed returns a channel that is closed when something next happens on the machine.
func (m *Machine) Changed() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.moved
}

func (m *Machine) signal() {
	close(m.moved)
	m.moved = make(chan struct{})
	for ch := range m.streams {
		select {
		case ch <- struct{}{}:
		default:
		}
	}
}

// Spawn implements agent.Executor.
func (m *Machine) Spawn(ctx context.Context, s initd.Spec) (initd.Status, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := errors.Join(m.broken, ctx.Err()); err != nil {
		return initd.Status{}, err
	}
	if a := m.attempts[s.ID]; a != nil {
		return a.now(), nil
	}
	a := &attempt{out: m.script(s), status: initd.Status{ID: s.ID, State: initd.Running, Request: s.Request, TimeLimit: s.TimeLimit}}
	m.attempts[s.ID] = a
	m.spawned = append(m.spawned, s)
	if !a.out.Fault.IsZero() {
		a.status.State, a.status.Fault, a.status.HostFault = initd.Ended, a.out.Fault, a.out.Host
		if a.out.ExitCode != 0 {
			a.status.ExitCode = &a.out.ExitCode
		}
		m.signal()
		return a.now(), nil
	}
	a.begun = time.Now()
	wall := a.begun.UTC().Round(0)
	a.status.Started, a.status.OOMKills = &wall, a.out.OOMKills
	if !a.out.Forever {
		a.timer = time.AfterFunc(a.out.Duration, func() {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.end(a, a.out.ExitCode, 0)
		})
	}
	m.signal()
	return a.now(), nil
}

func (a *attempt) now() initd.Status {
	s := a.status
	switch {
	case s.State == initd.Running:
		s.Elapsed = dspool.Duration(time.Since(a.begun))
	case s.Started != nil:
		s.Over = dspool.Duration(time.Since(a.begun)) - s.Elapsed
	}
	return s
}

func (m *Machine) end(a *attempt, code, signal int) {
	if a.status.State == initd.Ended {
		return
	}
	a.status.Elapsed = dspool.Duration(time.Since(a.begun))
	a.status.State, a.status.ExitCode, a.status.Signal = initd.Ended, &code, signal
	m.signal()
}

// Kill implements agent.Executor.
func (m *Machine) Kill(ctx context.Context, k initd.Kill) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := errors.Join(m.broken, ctx.Err()); err != nil {
		return err
	}
	a := m.attempts[k.ID]
	if a == nil || a.status.State == initd.Ended || a.status.Cause != "" {
		return nil
	}
	a.status.Cause, a.status.Reason = k.Cause, k.Reason
	if a.timer != nil {
		a.timer.Stop()
	}
	if !a.out.Stubborn {
		m.end(a, 143, 15)
		return nil
	}
	time.AfterFunc(k.Grace, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.end(a, 137, 9)
	})
	return nil
}

// List implements agent.Executor.
func (m *Machine) List(ctx context.Context) ([]initd.Status, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := errors.Join(m.broken, ctx.Err()); err != nil {
		return nil, err
	}
	list := make([]initd.Status, 0, len(m.attempts))
	for _, a := range m.attempts {
		list = append(list, a.now())
	}
	slices.SortFunc(list, func(a, b initd.Status) int { return int(a.ID - b.ID) })
	return list, nil
}

// Forget implements agent.Executor.
func (m *Machine) Forget(ctx context.Context, ids []int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := errors.Join(m.broken, ctx.Err()); err != nil {
		return err
	}
	for _, id := range ids {
		if a := m.attempts[id]; a != nil && a.status.State == initd.Ended {
			delete(m.attempts, id)
		}
	}
	m.signal()
	return nil
}

// Exits implements agent.Executor.
func (m *Machine) Exits(ctx context.Context, each func(initd.Status)) error {
	ch := make(chan struct{}, 1)
	m.mu.Lock()
	m.streams[ch] = true
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.streams, ch)
	}()
	told := map[int64]bool{}
	for {
		m.mu.Lock()
		broken := m.broken
		var news []initd.Status
		for id, a := range m.attempts {
			if a.status.State == initd.Ended && !told[id] {
				told[id] = true
				news = append(news, a.now())
			}
		}
		for id := range told {
			if m.attempts[id] == nil {
				delete(told, id)
			}
		}
		m.mu.Unlock()
		if broken != nil {
			return broken
		}
		for _, s := range news {
			each(s)
		}
		select {
		case <-ch:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
