// Package fake is a provider whose machines are entries in a map, for tests and for
// trying the server without any host. What goes wrong with a machine is scripted, and
// happens when a channel says so, never by itself after some time.
package fake

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/provider"
)

// Config says what the provider has and does. The zero value is a host of 64 cpus and
// 256 GiB whose machines all start at once and do nothing.
type Config struct {
	Capacity    dspool.Resources
	MaxMachines int
	AgentListen string // default 127.0.0.1:0
	DoorListen  string // "" is nowhere
	// Boot is what a machine runs, such as the real agent; nil is nothing. Its context
	// ends when the machine is killed, destroyed or vanishes. When it returns earlier,
	// the machine's init has exited.
	Boot func(ctx context.Context, spec provider.MachineSpec)
	// Script returns what is special about a machine; nil is nothing. try counts the
	// calls of Create for its name, from 1, that did not find it running.
	Script func(spec provider.MachineSpec, try int) Script
}

// Script is what is special about one call of Create and the machine it makes. Parts combine.
type Script struct {
	Start  <-chan struct{} // Create waits for it: a slow start; the machine is listed as not running meanwhile
	Error  error           // Create fails with it after Start
	Hang   bool            // Create never returns by itself, only when its context ends
	Made   bool            // with Error or Hang, or a context that ends before Start: the machine exists and runs nevertheless
	Silent bool            // it runs, but Boot is not called: nothing in it ever joins
	Vanish <-chan struct{} // once it runs and this is closed, it is gone, without a trace
}

// Provider is a provider.Provider, provider.Watcher, provider.Mounter and provider.Checker.
type Provider struct {
	cfg    Config
	exited chan string
	wg     sync.WaitGroup
	done   context.Context
	stop   context.CancelFunc

	mu         sync.Mutex
	machines   map[string]*machine
	tries      map[string]int
	listError  error
	destroyErr map[string]error
	made       int
	mountErr   error
	mountFails int
}

type machine struct {
	spec    provider.MachineSpec
	handle  provider.Handle
	making  chan struct{} // closed when its Create is over
	began   bool          // Boot was called or would have been
	running bool
	detail  string
	cancel  context.CancelFunc
	ended   chan struct{} // closed when Boot has returned
	mounts  []provider.Mount
}

// New returns a provider without machines.
func New(cfg Config) *Provider {
	if cfg.Capacity == (dspool.Resources{}) {
		cfg.Capacity = dspool.Resources{CPUs: 64, Memory: 256 << 30}
	}
	cfg.AgentListen = cmp.Or(cfg.AgentListen, "127.0.0.1:0")
	p := &Provider{cfg: cfg, exited: make(chan string), machines: map[string]*machine{}, tries: map[string]int{}, destroyErr: map[string]error{}}
	p.done, p.stop = context.WithCancel(context.Background())
	return p
}

// Create makes a machine as its script says. It refuses, as Unavailable, what Capacity
// or MaxMachines do not allow: a planner that asks for it has a fault.
func (p *Provider) Create(ctx context.Context, spec provider.MachineSpec) (provider.Handle, error) {
	if err := spec.Check(); err != nil {
		return provider.Handle{}, err
	}
	fail := func(err error) (provider.Handle, error) {
		return provider.Handle{}, fmt.Errorf("create machine %s: %w", spec.Name, err)
	}
	m, script, err := p.begin(ctx, spec)
	if err != nil {
		return fail(err)
	}
	if m.running {
		return m.handle, nil
	}
	defer close(m.making)
	err = script.wait(ctx)
	if err == nil {
		err = script.Error
	}
	if err == nil || script.Made {
		p.run(m, script)
	} else {
		p.forget(m)
	}
	if err != nil {
		return fail(err)
	}
	return m.handle, nil
}

func (s Script) wait(ctx context.Context) error {
	if s.Start != nil {
		select {
		case <-s.Start:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if s.Hang {
		<-ctx.Done()
	}
	return ctx.Err()
}

// begin returns the running machine of that name or a new one, not yet running, that
// only the caller makes. A dead one gives way.
func (p *Provider) begin(ctx context.Context, spec provider.MachineSpec) (*machine, Script, error) {
	for {
		p.mu.Lock()
		old := p.machines[spec.Name]
		if old == nil || (isClosed(old.making) && !old.running) {
			defer p.mu.Unlock()
			return p.add(ctx, spec)
		}
		if old.running {
			found := &machine{handle: old.handle, running: true}
			p.mu.Unlock()
			return found, Script{}, nil
		}
		p.mu.Unlock()
		select {
		case <-old.making:
		case <-ctx.Done():
			return nil, Script{}, ctx.Err()
		}
	}
}

func (p *Provider) add(ctx context.Context, spec provider.MachineSpec) (*machine, Script, error) {
	if err := errors.Join(ctx.Err(), p.done.Err()); err != nil {
		return nil, Script{}, err
	}
	if err := p.room(spec); err != nil {
		return nil, Script{}, err
	}
	p.made++
	p.tries[spec.Name]++
	m := &machine{
		spec: spec, making: make(chan struct{}), detail: "being made", ended: make(chan struct{}), cancel: func() {},
		handle: provider.Handle{Address: netip.AddrFrom4([4]byte{198, 18, byte(p.made >> 8), byte(p.made)})},
	}
	p.machines[spec.Name] = m
	var script Script
	if p.cfg.Script != nil {
		script = p.cfg.Script(spec, p.tries[spec.Name])
	}
	return m, script, nil
}

func (p *Provider) room(spec provider.MachineSpec) error {
	sum, count := spec.Resources, 1
	for name, m := range p.machines {
		if name != spec.Name {
			sum, count = sum.Add(m.spec.Resources), count+1
		}
	}
	if !sum.Fits(p.cfg.Capacity) || (p.cfg.MaxMachines > 0 && count > p.cfg.MaxMachines) {
		return dspool.Errorf(dspool.Unavailable, "no room for %s: %d machines of %s together exceed %s", spec.Resources, count, sum, p.cfg.Capacity)
	}
	return nil
}

// run starts the machine unless it was destroyed while it was made.
func (p *Provider) run(m *machine, script Script) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.machines[m.spec.Name] != m || p.done.Err() != nil {
		return
	}
	ctx, cancel := context.WithCancel(p.done)
	m.began, m.running, m.detail, m.cancel = true, true, "", cancel
	p.wg.Go(func() {
		defer close(m.ended)
		if p.cfg.Boot != nil && !script.Silent {
			p.cfg.Boot(ctx, m.spec)
		} else {
			<-ctx.Done()
		}
		p.died(m)
	})
	if script.Vanish != nil {
		p.wg.Go(func() {
			select {
			case <-script.Vanish:
				p.forget(m)
			case <-ctx.Done():
			}
		})
	}
}

func (p *Provider) died(m *machine) {
	p.mu.Lock()
	known := p.machines[m.spec.Name] == m
	m.running, m.detail = false, "init exited"
	m.cancel()
	p.mu.Unlock()
	if !known {
		return // destroyed or vanished: no news
	}
	p.wg.Go(func() {
		select {
		case p.exited <- m.spec.Name:
		case <-p.done.Done():
		}
	})
}

func (p *Provider) forget(m *machine) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.machines[m.spec.Name] == m {
		delete(p.machines, m.spec.Name)
	}
	m.cancel()
}

// Destroy ends the machine and waits until what it runs has returned.
func (p *Provider) Destroy(ctx context.Context, name string) error {
	if err := provider.CheckMachineName(name); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("destroy machine %s: %w", name, err)
	}
	p.mu.Lock()
	if err := p.destroyErr[name]; err != nil {
		p.mu.Unlock()
		return fmt.Errorf("destroy machine %s: %w", name, err)
	}
	m := p.machines[name]
	if m == nil {
		p.mu.Unlock()
		return nil
	}
	delete(p.machines, name)
	began := m.began
	m.cancel()
	p.mu.Unlock()
	if !began {
		return nil // still being made: run finds that it is gone
	}
	select {
	case <-m.ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("destroy machine %s: wait for its end: %w", name, ctx.Err())
	}
}

// List returns all machines, in order of name, or the error given to FailList.
func (p *Provider) List(ctx context.Context) ([]provider.Observed, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := errors.Join(ctx.Err(), p.listError); err != nil {
		return nil, fmt.Errorf("list machines: %w", err)
	}
	var all []provider.Observed
	for name, m := range p.machines {
		all = append(all, provider.Observed{Name: name, Running: m.running, Handle: m.handle, Detail: m.detail})
	}
	slices.SortFunc(all, func(a, b provider.Observed) int { return cmp.Compare(a.Name, b.Name) })
	return all, nil
}

// Capabilities returns what Config says.
func (p *Provider) Capabilities() provider.Capabilities {
	return provider.Capabilities{Capacity: p.cfg.Capacity, AgentListen: p.cfg.AgentListen, DoorListen: p.cfg.DoorListen, MaxMachines: p.cfg.MaxMachines}
}

// Check finds nothing missing.
func (p *Provider) Check(context.Context) []provider.Finding {
	return []provider.Finding{{Subject: "fake provider", OK: true, Detail: "machines are pretended"}}
}

// Exited yields the names of machines whose init has exited.
func (p *Provider) Exited() <-chan string { return p.exited }

// FailList makes List fail with err until called with nil.
func (p *Provider) FailList(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.listError = err
}

// FailDestroy makes Destroy of the machine fail with err, and do nothing, until called with nil.
func (p *Provider) FailDestroy(name string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.destroyErr[name] = err
}

// HalfMake leaves a machine as a server does that is killed while it makes one.
func (p *Provider) HalfMake(spec provider.MachineSpec) {
	p.mu.Lock()
	defer p.mu.Unlock()
	making := make(chan struct{})
	close(making)
	p.machines[spec.Name] = &machine{spec: spec, making: making, detail: "half made", ended: make(chan struct{}), cancel: func() {}}
}

// Kill ends a running machine's init, as a crash in it would, and waits until its Boot
// has returned; nothing if it does not run.
func (p *Provider) Kill(name string) {
	p.mu.Lock()
	m := p.machines[name]
	if m == nil || !m.running {
		p.mu.Unlock()
		return
	}
	m.cancel()
	p.mu.Unlock()
	<-m.ended
}

// Close ends all machines and waits for them.
func (p *Provider) Close() error {
	p.stop()
	p.mu.Lock()
	p.mu.Unlock() //nolint:staticcheck // whoever was starting a machine has done so now
	p.wg.Wait()
	return nil
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
