// Package providertest is the suite that every provider passes: what the reconciler
// relies on, whatever makes the machines.
package providertest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/provider"
)

// Options is what the suite must know of a provider.
type Options struct {
	// Spec returns a small machine that the provider can make.
	Spec func(t testing.TB, name string) provider.MachineSpec
	// Kill ends a running machine's init, as a crash would, and returns when it is dead.
	Kill func(t testing.TB, p provider.Provider, name string)
	// HalfMade leaves a machine as a server does that is killed while it makes one.
	HalfMade func(t testing.TB, p provider.Provider, name string)
	// MaxExit bounds the wait for the news of a machine's death; default 10 s.
	MaxExit time.Duration
}

// Run runs the suite. open returns the provider of a new installation without
// machines, on the same host, which open removes when its test ends.
func Run(t *testing.T, open func(t *testing.T) provider.Provider, o Options) {
	if o.MaxExit == 0 {
		o.MaxExit = 10 * time.Second
	}
	for name, test := range map[string]func(*testing.T, func(*testing.T) provider.Provider, Options){
		"a created machine is listed as running until it is destroyed": lifecycle,
		"creating a machine again returns the first one":               idempotentCreate,
		"a name can be created again after its machine was destroyed":  createAfterDestroy,
		"destroying what does not exist is no error":                   destroyUnknown,
		"a half-made machine is listed, replaced and destroyed":        halfMade,
		"a dead machine is listed as not running and can be destroyed": dead,
		"the death of a machine is told at once":                       exited,
		"machines created at once are all there and differ":            parallel,
		"one machine created many times at once is made once":          sameAtOnce,
		"capabilities can hold a machine and name addresses":           capabilities,
		"installations do not see each other's machines":               sideBySide,
		"a bad machine is refused and leaves nothing":                  badSpec,
		"a cancelled creation leaves nothing that is not listed":       cancelled,
		"a list is refused once its context has ended":                 listCancelled,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, open, o)
		})
	}
}

func mustCreate(t testing.TB, p provider.Provider, spec provider.MachineSpec) provider.Handle {
	t.Helper()
	h, err := p.Create(t.Context(), spec)
	if err != nil {
		t.Fatalf("create %s: %v", spec.Name, err)
	}
	return h
}

func mustDestroy(t testing.TB, p provider.Provider, name string) {
	t.Helper()
	if err := p.Destroy(t.Context(), name); err != nil {
		t.Fatalf("destroy %s: %v", name, err)
	}
}

func mustList(t testing.TB, p provider.Provider) []provider.Observed {
	t.Helper()
	list, err := p.List(t.Context())
	if err != nil {
		t.Fatalf("list: %v", err)
	}
	return list
}

// wantNames fails unless exactly these machines are listed.
func wantNames(t testing.TB, p provider.Provider, want ...string) {
	t.Helper()
	var got []string
	for _, m := range mustList(t, p) {
		got = append(got, m.Name)
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Fatalf("listed are %q, want %q", got, want)
	}
}

func find(t testing.TB, p provider.Provider, name string) provider.Observed {
	t.Helper()
	list := mustList(t, p)
	i := slices.IndexFunc(list, func(m provider.Observed) bool { return m.Name == name })
	if i < 0 {
		t.Fatalf("%s is not listed, only %+v", name, list)
	}
	return list[i]
}

func lifecycle(t *testing.T, open func(*testing.T) provider.Provider, o Options) {
	p := open(t)
	wantNames(t, p)
	h := mustCreate(t, p, o.Spec(t, "m-1"))
	m := find(t, p, "m-1")
	if !m.Running || m.Handle != h {
		t.Errorf("listed is %+v, want it running with handle %+v", m, h)
	}
	if !h.Address.IsValid() {
		t.Error("it has no address")
	}
	mustDestroy(t, p, "m-1")
	wantNames(t, p)
	mustDestroy(t, p, "m-1")
}

func idempotentCreate(t *testing.T, open func(*testing.T) provider.Provider, o Options) {
	p := open(t)
	spec := o.Spec(t, "m-1")
	first := mustCreate(t, p, spec)
	if second := mustCreate(t, p, spec); second != first {
		t.Errorf("second handle is %+v, first %+v", second, first)
	}
	wantNames(t, p, "m-1")
}

func createAfterDestroy(t *testing.T, open func(*testing.T) provider.Provider, o Options) {
	p := open(t)
	for range 3 {
		mustCreate(t, p, o.Spec(t, "m-1"))
		if !find(t, p, "m-1").Running {
			t.Fatal("it does not run")
		}
		mustDestroy(t, p, "m-1")
	}
}

func destroyUnknown(t *testing.T, open func(*testing.T) provider.Provider, _ Options) {
	p := open(t)
	mustDestroy(t, p, "never-was")
	for _, name := range []string{"", "..", "a/b", "../m", "A", "a\n", "a\x00"} {
		if err := p.Destroy(t.Context(), name); dspool.ErrorCode(err) != dspool.Invalid {
			t.Errorf("destroying %q returned %v, want it refused", name, err)
		}
	}
}

func halfMade(t *testing.T, open func(*testing.T) provider.Provider, o Options) {
	p := open(t)
	o.HalfMade(t, p, "m-1")
	o.HalfMade(t, p, "m-2")
	for _, name := range []string{"m-1", "m-2"} {
		if m := find(t, p, name); m.Running || m.Detail == "" {
			t.Errorf("listed is %+v, want it not running, with a detail", m)
		}
	}
	mustDestroy(t, p, "m-1")
	wantNames(t, p, "m-2")
	mustCreate(t, p, o.Spec(t, "m-2"))
	if !find(t, p, "m-2").Running {
		t.Error("the half-made machine was not replaced")
	}
}

func dead(t *testing.T, open func(*testing.T) provider.Provider, o Options) {
	p := open(t)
	mustCreate(t, p, o.Spec(t, "m-1"))
	o.Kill(t, p, "m-1")
	if m := find(t, p, "m-1"); m.Running || m.Detail == "" {
		t.Errorf("listed is %+v, want it not running, with a detail", m)
	}
	mustDestroy(t, p, "m-1")
	wantNames(t, p)
}

func exited(t *testing.T, open func(*testing.T) provider.Provider, o Options) {
	p := open(t)
	w, ok := p.(provider.Watcher)
	if !ok {
		t.Skip("the provider does not tell")
	}
	for _, name := range []string{"m-1", "m-2", "m-3"} {
		mustCreate(t, p, o.Spec(t, name))
	}
	mustDestroy(t, p, "m-1") // what is asked for is no news
	o.Kill(t, p, "m-2")
	select {
	case name := <-w.Exited():
		if name != "m-2" {
			t.Errorf("told of %s, killed m-2", name)
		}
	case <-time.After(o.MaxExit):
		t.Error("nothing was told")
	}
}

func parallel(t *testing.T, open func(*testing.T) provider.Provider, o Options) {
	p := open(t)
	const count = 6
	type result struct {
		handle provider.Handle
		err    error
	}
	results := make(chan result, count)
	var names []string
	for i := range count {
		name := fmt.Sprintf("m-%d", i)
		names = append(names, name)
		spec := o.Spec(t, name)
		go func() {
			h, err := p.Create(t.Context(), spec)
			results <- result{h, err}
		}()
	}
	addresses := map[provider.Handle]bool{}
	for range count {
		r := <-results
		if r.err != nil {
			t.Error(r.err)
			continue
		}
		addresses[r.handle] = true
	}
	if len(addresses) != count {
		t.Errorf("%d machines have %d different handles", count, len(addresses))
	}
	wantNames(t, p, names...)
	errs := make(chan error, count)
	for _, name := range names {
		go func() { errs <- p.Destroy(t.Context(), name) }()
	}
	for range count {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	wantNames(t, p)
}

func sameAtOnce(t *testing.T, open func(*testing.T) provider.Provider, o Options) {
	p := open(t)
	spec := o.Spec(t, "m-1")
	const count = 4
	handles := make(chan provider.Handle, count)
	for range count {
		go func() {
			h, err := p.Create(t.Context(), spec)
			if err != nil {
				t.Error(err)
			}
			handles <- h
		}()
	}
	first := <-handles
	for range count - 1 {
		if h := <-handles; h != first {
			t.Errorf("handles %+v and %+v differ", h, first)
		}
	}
	wantNames(t, p, "m-1")
}

func capabilities(t *testing.T, open func(*testing.T) provider.Provider, o Options) {
	p := open(t)
	c := p.Capabilities()
	if spec := o.Spec(t, "m-1"); !spec.Resources.Fits(c.Capacity) {
		t.Errorf("capacity %s does not hold %s", c.Capacity, spec.Resources)
	}
	if c.MaxMachines < 0 {
		t.Errorf("at most %d machines", c.MaxMachines)
	}
	agents, err := netip.ParseAddrPort(c.AgentListen)
	if err != nil {
		t.Errorf("agents reach the server at no address: %v", err)
	}
	if c.DoorListen == "" {
		return // machines reach no door
	}
	door, err := netip.ParseAddrPort(c.DoorListen)
	if err != nil {
		t.Errorf("machines reach the gateway at no address: %v", err)
	}
	if door == agents && door.Port() != 0 {
		t.Errorf("agents and machines are both served at %s", door)
	}
}

func sideBySide(t *testing.T, open func(*testing.T) provider.Provider, o Options) {
	a, b := open(t), open(t)
	mustCreate(t, a, o.Spec(t, "m-1"))
	mustCreate(t, b, o.Spec(t, "m-1"))
	mustCreate(t, b, o.Spec(t, "m-2"))
	wantNames(t, a, "m-1")
	wantNames(t, b, "m-1", "m-2")
	mustDestroy(t, a, "m-2") // b's, unknown to a
	mustDestroy(t, a, "m-1")
	wantNames(t, a)
	for _, name := range []string{"m-1", "m-2"} {
		if !find(t, b, name).Running {
			t.Errorf("%s of one installation died with the other's machines", name)
		}
	}
}

func badSpec(t *testing.T, open func(*testing.T) provider.Provider, o Options) {
	p := open(t)
	good := o.Spec(t, "m-1")
	bad := map[string]func(*provider.MachineSpec){
		"no name":             func(s *provider.MachineSpec) { s.Name = "" },
		"name with a path":    func(s *provider.MachineSpec) { s.Name = "../m" },
		"name with a newline": func(s *provider.MachineSpec) { s.Name = "m\n" },
		"name too long":       func(s *provider.MachineSpec) { s.Name = string(slices.Repeat([]byte("m"), 64)) },
		"no cpus":             func(s *provider.MachineSpec) { s.Resources.CPUs = 0 },
		"negative memory":     func(s *provider.MachineSpec) { s.Resources.Memory = -1 },
		"negative disk":       func(s *provider.MachineSpec) { s.Disk = -1 },
		"user ids of the host": func(s *provider.MachineSpec) {
			s.UIDs = dspool.UIDRange{First: 0, Last: 29999}
		},
		"reversed user ids": func(s *provider.MachineSpec) { s.UIDs = dspool.UIDRange{First: 20000, Last: 19999} },
		"share over /proc": func(s *provider.MachineSpec) {
			s.Mounts = []provider.Mount{{Source: "/srv", Target: "/proc/sys"}}
		},
		"share over everything": func(s *provider.MachineSpec) {
			s.Mounts = []provider.Mount{{Source: "/srv", Target: "/"}}
		},
		"share out of the tree": func(s *provider.MachineSpec) {
			s.Mounts = []provider.Mount{{Source: "/srv", Target: "/mnt/../../etc"}}
		},
	}
	for name, spoil := range bad {
		spec := good
		spoil(&spec)
		if _, err := p.Create(t.Context(), spec); dspool.ErrorCode(err) != dspool.Invalid {
			t.Errorf("%s: returned %v, want it refused as invalid", name, err)
		}
	}
	wantNames(t, p)
}

func cancelled(t *testing.T, open func(*testing.T) provider.Provider, o Options) {
	p := open(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.Create(ctx, o.Spec(t, "m-1")); !errors.Is(err, context.Canceled) {
		t.Errorf("returned %v", err)
	}
	wantNames(t, p)
	// Cancelled on the way, it either was made or left nothing.
	ctx, cancel = context.WithCancel(t.Context())
	done := make(chan error, 1)
	spec := o.Spec(t, "m-2")
	go func() {
		_, err := p.Create(ctx, spec)
		done <- err
	}()
	cancel()
	if err := <-done; err == nil {
		if !find(t, p, "m-2").Running {
			t.Error("made, but not running")
		}
	} else {
		wantNames(t, p)
	}
}

func listCancelled(t *testing.T, open func(*testing.T) provider.Provider, _ Options) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if list, err := open(t).List(ctx); err == nil || list != nil {
		t.Errorf("returned %v, %v", list, err)
	}
}
