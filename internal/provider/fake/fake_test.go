package fake_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/provider"
	"github.com/dspool/dspool/internal/provider/fake"
	"github.com/dspool/dspool/internal/provider/providertest"
)

var (
	_ provider.Provider = (*fake.Provider)(nil)
	_ provider.Watcher  = (*fake.Provider)(nil)
	_ provider.Checker  = (*fake.Provider)(nil)
)

func spec(name string) provider.MachineSpec {
	return provider.MachineSpec{Name: name, Resources: dspool.Resources{CPUs: 1, Memory: 1 << 30}, Disk: 1 << 30}
}

func open(t testing.TB, cfg fake.Config) *fake.Provider {
	p := fake.New(cfg)
	t.Cleanup(func() { p.Close() })
	return p
}

func TestProvider(t *testing.T) {
	t.Parallel()
	providertest.Run(t, func(t *testing.T) provider.Provider {
		return open(t, fake.Config{DoorListen: "127.0.0.1:0"})
	}, providertest.Options{
		Spec: func(_ testing.TB, name string) provider.MachineSpec { return spec(name) },
		Kill: func(_ testing.TB, p provider.Provider, name string) { p.(*fake.Provider).Kill(name) },
		HalfMade: func(_ testing.TB, p provider.Provider, name string) {
			p.(*fake.Provider).HalfMake(spec(name))
		},
	})
}

func TestScripts(t *testing.T) {
	t.Parallel()
	errQuota := errors.New("quota exceeded")
	ready := func(t *testing.T, p *fake.Provider) map[string]bool {
		t.Helper()
		list, err := p.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]bool{}
		for _, m := range list {
			out[m.Name] = m.Running
		}
		return out
	}
	script := func(s fake.Script) func(provider.MachineSpec, int) fake.Script {
		return func(provider.MachineSpec, int) fake.Script { return s }
	}

	t.Run("a slow machine is listed and not running until it starts", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			start := make(chan struct{})
			p := open(t, fake.Config{Script: script(fake.Script{Start: start})})
			done := make(chan error, 1)
			go func() {
				_, err := p.Create(t.Context(), spec("m-1"))
				done <- err
			}()
			synctest.Wait()
			if running, listed := ready(t, p)["m-1"]; !listed || running {
				t.Error("not listed as being made")
			}
			close(start)
			if err := <-done; err != nil || !ready(t, p)["m-1"] {
				t.Errorf("did not start: %v", err)
			}
			p.Close()
		})
	})

	t.Run("a failed creation leaves nothing", func(t *testing.T) {
		t.Parallel()
		p := open(t, fake.Config{Script: script(fake.Script{Error: errQuota})})
		if _, err := p.Create(t.Context(), spec("m-1")); !errors.Is(err, errQuota) || len(ready(t, p)) != 0 {
			t.Errorf("returned %v and left %v", err, ready(t, p))
		}
	})

	t.Run("a creation that fails may have made the machine", func(t *testing.T) {
		t.Parallel()
		p := open(t, fake.Config{Script: script(fake.Script{Error: errQuota, Made: true})})
		if _, err := p.Create(t.Context(), spec("m-1")); !errors.Is(err, errQuota) || !ready(t, p)["m-1"] {
			t.Errorf("returned %v and left %v", err, ready(t, p))
		}
	})

	t.Run("a creation that hangs ends with its context", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			p := open(t, fake.Config{Script: script(fake.Script{Hang: true, Made: true})})
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() {
				_, err := p.Create(ctx, spec("m-1"))
				done <- err
			}()
			synctest.Wait()
			cancel()
			if err := <-done; !errors.Is(err, context.Canceled) || !ready(t, p)["m-1"] {
				t.Errorf("returned %v and left %v", err, ready(t, p))
			}
			p.Close()
		})
	})

	t.Run("the second try may succeed", func(t *testing.T) {
		t.Parallel()
		p := open(t, fake.Config{Script: func(_ provider.MachineSpec, try int) fake.Script {
			if try == 1 {
				return fake.Script{Error: errQuota}
			}
			return fake.Script{}
		}})
		_, first := p.Create(t.Context(), spec("m-1"))
		_, second := p.Create(t.Context(), spec("m-1"))
		if first == nil || second != nil {
			t.Errorf("tries returned %v and %v", first, second)
		}
	})

	t.Run("a machine vanishes without a trace", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			vanish := make(chan struct{})
			p := open(t, fake.Config{Script: script(fake.Script{Vanish: vanish})})
			if _, err := p.Create(t.Context(), spec("m-1")); err != nil {
				t.Fatal(err)
			}
			close(vanish)
			synctest.Wait()
			if left := ready(t, p); len(left) != 0 {
				t.Errorf("still listed: %v", left)
			}
			p.Close()
		})
	})

	t.Run("a silent machine runs and never joins", func(t *testing.T) {
		t.Parallel()
		p := open(t, fake.Config{
			Boot:   func(context.Context, provider.MachineSpec) { t.Error("booted") },
			Script: script(fake.Script{Silent: true}),
		})
		if _, err := p.Create(t.Context(), spec("m-1")); err != nil || !ready(t, p)["m-1"] {
			t.Errorf("returned %v and left %v", err, ready(t, p))
		}
	})

	t.Run("a machine runs what it boots until it is destroyed", func(t *testing.T) {
		t.Parallel()
		booted, ended := make(chan string), make(chan struct{})
		p := open(t, fake.Config{Boot: func(ctx context.Context, s provider.MachineSpec) {
			booted <- s.Agent.Token
			<-ctx.Done()
			close(ended)
		}})
		s := spec("m-1")
		s.Agent.Token = "t"
		if _, err := p.Create(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		if token := <-booted; token != "t" {
			t.Errorf("booted with token %q", token)
		}
		if err := p.Destroy(t.Context(), "m-1"); err != nil {
			t.Fatal(err)
		}
		<-ended // before Destroy returned: this never waits
	})

	t.Run("a list fails as told", func(t *testing.T) {
		t.Parallel()
		p := open(t, fake.Config{})
		p.FailList(errQuota)
		if list, err := p.List(t.Context()); !errors.Is(err, errQuota) || list != nil {
			t.Errorf("returned %v, %v", list, err)
		}
		p.FailList(nil)
		if _, err := p.List(t.Context()); err != nil {
			t.Error(err)
		}
	})

	t.Run("more than its capacity is refused", func(t *testing.T) {
		t.Parallel()
		p := open(t, fake.Config{Capacity: dspool.Resources{CPUs: 1, Memory: 4 << 30}})
		_, first := p.Create(t.Context(), spec("m-1"))
		_, second := p.Create(t.Context(), spec("m-2"))
		if first != nil || dspool.ErrorCode(second) != dspool.Unavailable {
			t.Errorf("returned %v and %v", first, second)
		}
	})
}
