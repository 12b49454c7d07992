package runc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"sync"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/provider"
)

// Config says how an installation makes machines. Fields left zero take the default
// that their comment names.
type Config struct {
	StateDir     string   // everything that must survive a restart of the server; on a file system that can hold an overlay's upper layer
	Installation string   // owner tag: 1 to 32 of a-z and 0-9
	Runc         string   // path of the runc binary, 1.2 or newer, built with seccomp; default: "runc" from PATH
	Self         string   // path of the dspool binary that machines see as /run/dspool/dspool; default: this program
	Init         []string // command line of PID 1; default: /run/dspool/dspool init
	Network      Network  // plugs machines into the host's network
	AgentPort    int      // where the server listens for agents, on the gateway's address; default 8444
	DoorPort     int      // where the gateway listens for machines, likewise; default 8445
	HostDir      string   // shared by all installations of the host; default /run/dspool

	ReserveDisk      int64   // no machine is made when fewer bytes are free in StateDir; default 1 GiB
	ReserveMemory    int64   // bytes kept from machines, beside what MemoryOvercommit leaves
	CPUOvercommit    float64 // cpus sold per core; default 4
	MemoryOvercommit float64 // part of the host's memory sold; default 0.9
	PIDs             int64   // processes and threads of one machine; default 8192
}

// Network is what the provider needs of the host's network.
type Network interface {
	Gateway() netip.Addr
	Nameserver() netip.Addr
	// Plug gives the network namespace of process pid an interface, address and route; idempotent by machine.
	Plug(ctx context.Context, machine string, pid int, reach provider.Reach) (netip.Addr, error)
	// Adopt tells the network of a later server which process a plugged machine has.
	Adopt(machine string, pid int) error
	Unplug(ctx context.Context, machine string) error // nil if not plugged
	Remove() error                                    // everything of this installation
}

// Provider makes machines on this host with runc.
type Provider struct {
	cfg     Config
	groups  groups
	cores   *cores
	watcher *watcher
	slots   chan struct{} // bounds creations at a time: more only wait for each other in the kernel

	mu    sync.Mutex
	names map[string]*nameLock

	// fault, set by tests, is called before every step of Create and Destroy; an error is that step's.
	fault func(step string) error
}

var installationID = regexp.MustCompile(`^[a-z0-9]{1,32}$`)

// Open adopts the machines of cfg.StateDir and makes ready to create more.
func Open(ctx context.Context, cfg Config) (*Provider, error) {
	if err := cfg.fill(); err != nil {
		return nil, err
	}
	for _, dir := range []string{cfg.StateDir, machinesDir(cfg), runcRoot(cfg), disksDir(cfg)} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make state directory: %w", err)
		}
	}
	if err := makeStage(cfg.HostDir); err != nil {
		return nil, err
	}
	groups, err := openGroups(cfg.Installation)
	if err == nil {
		err = groups.prepare()
	}
	if err != nil {
		return nil, err
	}
	hostCores, err := newCores()
	if err != nil {
		return nil, err
	}
	p := &Provider{
		cfg: cfg, groups: groups, cores: hostCores,
		watcher: newWatcher(),
		slots:   make(chan struct{}, max(4, 2*runtime.NumCPU())),
		names:   map[string]*nameLock{},
	}
	records, err := p.records()
	if err != nil {
		p.watcher.close()
		return nil, err
	}
	for _, r := range records {
		if r.running(cfg) {
			p.cores.take(r.Name, r.Cores, r.CPUs)
			p.watcher.watch(r.Name, r.PID, r.Started)
			if err := cfg.Network.Adopt(r.Name, r.PID); err != nil {
				slog.Warn("the machine's side of its network is not looked after", "machine", r.Name, "error", err)
			}
		}
	}
	return p, ctx.Err()
}

func (cfg *Config) fill() error {
	if os.Geteuid() != 0 {
		return dspool.Errorf(dspool.Unavailable, "machines can only be made by root").WithHint("run the server as root")
	}
	if !installationID.MatchString(cfg.Installation) {
		return dspool.Errorf(dspool.Invalid, "installation id %s is not allowed", dspool.Quote(cfg.Installation)).WithHint("use 1 to 32 of a-z and 0-9")
	}
	if cfg.StateDir == "" || cfg.Network == nil {
		return errors.New("runc provider needs a state directory and a network")
	}
	var err error
	if cfg.StateDir, err = filepath.Abs(cfg.StateDir); err != nil {
		return fmt.Errorf("state directory: %w", err)
	}
	if cfg.Runc == "" {
		cfg.Runc = "runc"
	}
	if cfg.Self == "" {
		if cfg.Self, err = os.Executable(); err != nil {
			return fmt.Errorf("find this program: %w", err)
		}
	}
	if len(cfg.Init) == 0 {
		cfg.Init = []string{selfInMachine, "init"}
	}
	defaults(&cfg.AgentPort, 8444)
	defaults(&cfg.DoorPort, 8445)
	defaults(&cfg.HostDir, "/run/dspool")
	defaults(&cfg.ReserveDisk, 1<<30)
	defaults(&cfg.CPUOvercommit, 4)
	defaults(&cfg.MemoryOvercommit, 0.9)
	defaults(&cfg.PIDs, 8192)
	return nil
}

func defaults[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Capabilities says what this host gives. A machine with more cpus than the host has
// cores gets them all.
func (p *Provider) Capabilities() provider.Capabilities {
	memory := int64(float64(hostMemory())*p.cfg.MemoryOvercommit) - p.cfg.ReserveMemory
	listen := func(port int) string { return netip.AddrPortFrom(p.cfg.Network.Gateway(), uint16(port)).String() }
	return provider.Capabilities{
		Capacity:    dspool.Resources{CPUs: float64(int64(float64(p.cores.count())*p.cfg.CPUOvercommit*1000)) / 1000, Memory: max(memory, 0)},
		AgentListen: listen(p.cfg.AgentPort),
		DoorListen:  listen(p.cfg.DoorPort),
		MaxMachines: maxMachines,
	}
}

// A bridge has 1,024 ports.
const maxMachines = 1000

// Exited yields the name of every machine whose init dies, at once, whatever killed
// it. It is a hint: List has the truth, also about deaths while no server watched.
func (p *Provider) Exited() <-chan string { return p.watcher.exited }

// Close stops watching; machines live on for the next server.
func (p *Provider) Close() error {
	p.watcher.close()
	return nil
}

// Remove destroys every machine and removes everything else of this installation from the host.
func (p *Provider) Remove(ctx context.Context) error {
	machines, err := p.List(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, m := range machines {
		errs = append(errs, p.Destroy(ctx, m.Name))
	}
	errs = append(errs, p.groups.removeParent(), p.cfg.Network.Remove())
	return errors.Join(errs...)
}

type nameLock struct {
	held  chan struct{} // of capacity 1
	users int
}

// lock makes calls about one machine wait for each other.
func (p *Provider) lock(ctx context.Context, name string) (unlock func(), err error) {
	p.mu.Lock()
	l := p.names[name]
	if l == nil {
		l = &nameLock{held: make(chan struct{}, 1)}
		p.names[name] = l
	}
	l.users++
	p.mu.Unlock()
	leave := func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if l.users--; l.users == 0 {
			delete(p.names, name)
		}
	}
	select {
	case l.held <- struct{}{}:
		return func() { <-l.held; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, ctx.Err()
	}
}

func (p *Provider) step(name string) error {
	if p.fault == nil {
		return nil
	}
	return p.fault(name)
}
