// Package agent is dspool's hand on a machine. It enrols with the server, reads directives,
// has attempts run by an Executor, and reports how they go until the server has it. Everything
// that must outlive it is in the Executor's table or on the server: it can be killed at any time.
//
// An attempt goes queued → starting → running → ended → settled. Those placed ahead wait in
// the queue, in order of arrival, and start the moment the machine has room. Settled means
// that the server has acknowledged the end; only then does the Executor forget it.
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/agent/host"
	"github.com/dspool/dspool/internal/agent/initd"
	"github.com/dspool/dspool/internal/provider"
)

// Executor runs attempts: init in a machine, agenttest.Machine in tests. What it knows of
// attempts outlives the agent. All methods may be repeated.
type Executor interface {
	// Spawn starts an attempt and returns its status once it runs or has ended. For a known
	// attempt it starts nothing.
	Spawn(ctx context.Context, s initd.Spec) (initd.Status, error)
	// Kill begins the end of an attempt's whole process tree.
	Kill(ctx context.Context, k initd.Kill) error
	// List returns every attempt that is not forgotten.
	List(ctx context.Context) ([]initd.Status, error)
	// Forget drops attempts that have ended.
	Forget(ctx context.Context, ids []int64) error
	// Exits calls each with every attempt that has ended and is not forgotten, then with each
	// that ends or has something killed for memory, until ctx is done or it fails.
	Exits(ctx context.Context, each func(initd.Status)) error
}

// Config of an agent.
type Config struct {
	// Boot is what the provider gave. Once the agent has enrolled, Dir holds all of it that is
	// needed, and Boot may be zero.
	Boot     provider.AgentBoot
	Executor Executor
	Host     Host   // nil on machines without sessions
	Dir      string // of its state: key, certificate, link
	Log      *slog.Logger
	// Enrolled is called when the token is used up.
	Enrolled func()
	// Check says how the machine is; nil checks nothing but the Executor.
	Check      func(size dspool.Resources) (dspool.Health, dspool.Reason)
	CheckEvery time.Duration // 5 s unless set
	LookEvery  time.Duration // at what lives in sessions; 5 s unless set
	// Dial reaches the server; nil is TCP.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Grace between SIGTERM and SIGKILL; 0 is initd.DefaultGrace.
	Grace time.Duration
}

// Times of the agent link.
const (
	pollWait     = 25 * time.Second // how long the server may hold a request for directives
	heartbeat    = 10 * time.Second // a report is posted at least so often
	checkEvery   = 5 * time.Second  // and how long the Executor may take to answer
	firstBackoff = 100 * time.Millisecond
	mostBackoff  = 5 * time.Second
	// A "running" waits so long for its "ended": of a short attempt only the latter is sent.
	linger = 25 * time.Millisecond
	minGap = 5 * time.Millisecond // between two reports
	// A report that the server refuses is offered again after so long.
	refusedAgain = time.Minute
	maxBatch     = 500
	maxStarters  = 8
	appLook      = 100 * time.Millisecond // while an app starts: whether it listens …
	appHurry     = 30 * time.Second       // … for so long
	appLookLater = time.Second            // and then
	killLook     = 500 * time.Millisecond // whether the kernel killed something of a session
	firstLook    = time.Second            // from the opening of a session: the user has begun by then
	lastWord     = 2 * time.Second        // for reporting what is left when the agent is told to end
)

// Host is the machine as users' sessions need it: host.Host in a machine, agenttest.Machine in
// tests. What it knows of sessions outlives the agent. All methods may be repeated.
type Host interface {
	// HostKey returns sshd's public key in the form of authorized_keys; "" without an sshd.
	HostKey() (string, error)
	// Trust starts sshd for users with certificates of authority, in the form of authorized_keys.
	Trust(ctx context.Context, authority string) error
	// Open makes a session ready for logins, or brings it up to date, and has exactly the apps of d run
	// in it; it does not wait for them. An error that is not
	// host.ErrAway is for good.
	Open(ctx context.Context, d api.SessionDirective) error
	// Close ends everything in a session and returns when nothing of it lives.
	Close(ctx context.Context, d api.SessionDirective) error
	// Sessions returns the open sessions, each with what lives in it.
	Sessions(ctx context.Context) ([]host.Session, error)
	// Killed says whether the kernel has killed something of a session for memory since Sessions.
	Killed(ctx context.Context) (bool, error)
	// Apps returns how the apps of all sessions stand that are not forgotten, and a version of that. It
	// waits until that is another than seen, or for wait.
	Apps(ctx context.Context, seen int64, wait time.Duration) ([]host.App, int64, error)
	// ForgetApps drops apps that have ended.
	ForgetApps(ctx context.Context, ids []int64) error
	// Health says whether logins work.
	Health(ctx context.Context) (dspool.Health, dspool.Reason)
}

// Agent is one machine's agent.
type Agent struct {
	cfg   Config
	log   *slog.Logger
	table *table
	seats *seats
	link  *link
	work  sync.WaitGroup // spawns and kills under way

	startMu  sync.Mutex
	toStart  []initd.Spec
	starters int

	healthMu sync.Mutex
	health   dspool.Health
	reason   dspool.Reason
	changed  chan struct{} // health did
}

// New returns an agent that does nothing until Run.
func New(cfg Config) *Agent {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Grace == 0 {
		cfg.Grace = initd.DefaultGrace
	}
	if cfg.CheckEvery == 0 {
		cfg.CheckEvery = checkEvery
	}
	if cfg.LookEvery == 0 {
		cfg.LookEvery = checkEvery
	}
	if cfg.Host == nil {
		cfg.Host = noHost{}
	}
	if cfg.Check == nil {
		cfg.Check = func(dspool.Resources) (dspool.Health, dspool.Reason) { return dspool.Healthy, dspool.Reason{} }
	}
	return &Agent{cfg: cfg, log: cfg.Log, health: dspool.Healthy, changed: make(chan struct{}, 1)}
}

// Run enrols unless that is done, adopts what the Executor runs, and serves until ctx is done,
// when it returns nil. It fails when the server refuses to enrol the machine.
func (a *Agent) Run(ctx context.Context) error {
	link, err := a.join(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("enrol: %w", err)
	}
	a.link = link
	whole := link.state.Resources
	if whole == (dspool.Resources{}) {
		whole = seenResources()
	}
	a.table, a.seats = newTable(whole), newSeats()
	if err := errors.Join(a.adopt(ctx), a.trust(ctx), a.adoptSessions(ctx)); err != nil {
		return nil // only ctx ends it
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { a.follow(ctx); return nil })
	group.Go(func() error { a.listen(ctx); return nil })
	group.Go(func() error { a.report(ctx); return nil })
	group.Go(func() error { a.watchHealth(ctx, whole); return nil })
	group.Go(func() error { a.watchSessions(ctx); return nil })
	group.Go(func() error { a.watchApps(ctx); return nil })
	group.Go(func() error { link.keepCertificate(ctx, a.cfg.Host.Trust); return nil })
	err = group.Wait()
	a.work.Wait()
	return err
}

// adopt takes over what an earlier agent left with the Executor.
func (a *Agent) adopt(ctx context.Context) error {
	return a.insist(ctx, "list attempts", func() error {
		list, err := a.cfg.Executor.List(ctx)
		if err != nil {
			return err
		}
		for _, s := range list {
			a.do(ctx, a.table.adopt(s))
		}
		if len(list) > 0 {
			a.log.Info("attempts of an earlier agent are adopted", "count", len(list))
		}
		return nil
	})
}

// listen hears of every attempt that ends.
func (a *Agent) listen(ctx context.Context) {
	_ = a.insist(ctx, "hear of ends", func() error {
		err := a.cfg.Executor.Exits(ctx, func(s initd.Status) { a.do(ctx, a.table.ended(s)) })
		if err == nil {
			err = errors.New("the stream ended")
		}
		return err
	})
}

// do carries out what the table decided. It does not wait.
func (a *Agent) do(ctx context.Context, d decisions) {
	a.startMu.Lock()
	a.toStart = append(a.toStart, d.start...)
	for range min(len(d.start), maxStarters-a.starters) {
		a.starters++
		a.work.Go(func() { a.starter(ctx) })
	}
	a.startMu.Unlock()
	for _, k := range d.kill {
		k.Grace = a.cfg.Grace
		a.work.Go(func() {
			_ = a.insist(ctx, "end an attempt", func() error { return a.cfg.Executor.Kill(ctx, k) })
		})
	}
	for _, l := range d.limit {
		a.table.timed(l.id, time.AfterFunc(l.after, func() {
			if ctx.Err() == nil {
				a.do(ctx, a.table.overTime(l.id))
			}
		}))
	}
}

// starter starts attempts in their order until none waits.
func (a *Agent) starter(ctx context.Context) {
	for {
		a.startMu.Lock()
		if len(a.toStart) == 0 || ctx.Err() != nil {
			a.starters--
			a.startMu.Unlock()
			return
		}
		s := a.toStart[0]
		a.toStart = a.toStart[1:]
		a.startMu.Unlock()
		_ = a.insist(ctx, "start an attempt", func() error {
			st, err := a.cfg.Executor.Spawn(ctx, s)
			if err != nil {
				return err
			}
			a.do(ctx, a.table.started(st))
			return nil
		})
	}
}

// insist repeats f until it succeeds or ctx is done, whose error it returns.
func (a *Agent) insist(ctx context.Context, what string, f func() error) error {
	var wait backoff
	for {
		err := f()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		a.log.Warn("the agent could not "+what, "error", err)
		if !wait.pause(ctx) {
			return ctx.Err()
		}
	}
}

// seenResources is what the operating system shows, for a provider that says nothing.
func seenResources() dspool.Resources {
	r := dspool.Resources{CPUs: float64(runtime.NumCPU())}
	if total, err := memory(); err == nil {
		r.Memory = total
	}
	return r
}
