package servertest

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"github.com/dspool/dspool/internal/provider"
	"github.com/dspool/dspool/internal/provider/fake"
)

// Step is a place where the system can be stopped.
type Step string

const (
	Create    Step = "create"    // the provider is about to make a machine
	Created   Step = "created"   // it has made it, and the server does not know yet
	Enrol     Step = "enrol"     // a machine's agent, the first or the next, is about to begin
	Destroy   Step = "destroy"   // the provider is about to remove a machine
	Destroyed Step = "destroyed" // it has removed it, and the server does not know yet
	List      Step = "list"      // the provider is about to list its machines
)

// Steps stops whoever comes to a step that is held.
type Steps struct {
	mu    sync.Mutex
	gates map[Step]*Gate
	alive map[string]bool // machines that the provider was asked to make and not yet to remove
	peak  map[string]int  // of a pool's machines at once
}

func newSteps() *Steps {
	return &Steps{gates: map[Step]*Gate{}, alive: map[string]bool{}, peak: map[string]int{}}
}

// Gate is a step that is held.
type Gate struct {
	Step    Step
	Reached chan string // yields the name of whoever comes to it first
	open    chan struct{}
	once    sync.Once
}

// Hold stops everybody at a step until the gate is opened.
func (s *Steps) Hold(at Step) *Gate {
	g := &Gate{Step: at, Reached: make(chan string, 1), open: make(chan struct{})}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gates[at] = g
	return g
}

// Open lets through whoever waits and whoever comes.
func (g *Gate) Open() { g.once.Do(func() { close(g.open) }) }

// pass returns when the step is not held any more, or with the error of ctx.
func (s *Steps) pass(ctx context.Context, at Step, name string) error {
	s.mu.Lock()
	g := s.gates[at]
	s.mu.Unlock()
	if g == nil {
		return nil
	}
	select {
	case g.Reached <- name:
	default:
	}
	select {
	case <-g.open:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("held at %s: %w", at, ctx.Err())
	}
}

// Peak is the most machines that a pool ever had at once, as the provider saw it.
func (s *Steps) Peak(pool string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.peak[pool]
}

func (s *Steps) count(name string, there bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !there {
		delete(s.alive, name)
		return
	}
	s.alive[name] = true
	pool, n := poolOf(name), 0
	for other := range s.alive {
		if poolOf(other) == pool {
			n++
		}
	}
	s.peak[pool] = max(s.peak[pool], n)
}

func poolOf(machine string) string { return machine[:strings.LastIndex(machine, "-")] }

// probe is the fake provider with its steps.
type probe struct {
	*fake.Provider
	steps *Steps
}

func (p *probe) Create(ctx context.Context, spec provider.MachineSpec) (provider.Handle, error) {
	if err := p.steps.pass(ctx, Create, spec.Name); err != nil {
		return provider.Handle{}, err
	}
	p.steps.count(spec.Name, true)
	h, err := p.Provider.Create(ctx, spec)
	if err != nil {
		return h, err
	}
	return h, p.steps.pass(ctx, Created, spec.Name)
}

func (p *probe) Destroy(ctx context.Context, name string) error {
	if err := p.steps.pass(ctx, Destroy, name); err != nil {
		return err
	}
	if err := p.Provider.Destroy(ctx, name); err != nil {
		return err
	}
	p.steps.count(name, false)
	return p.steps.pass(ctx, Destroyed, name)
}

func (p *probe) List(ctx context.Context) ([]provider.Observed, error) {
	if err := p.steps.pass(ctx, List, ""); err != nil {
		return nil, err
	}
	return p.Provider.List(ctx)
}
