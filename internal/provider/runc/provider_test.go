package runc_test

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/provider"
	"github.com/dspool/dspool/internal/provider/providertest"
	"github.com/dspool/dspool/internal/provider/runc"
)

var (
	_ provider.Provider = (*runc.Provider)(nil)
	_ provider.Watcher  = (*runc.Provider)(nil)
	_ provider.Checker  = (*runc.Provider)(nil)
)

func TestProvider(t *testing.T) {
	t.Parallel()
	needRoot(t)
	image := testImage(t)
	providertest.Run(t, func(t *testing.T) provider.Provider { return open(t, nil).Provider }, providertest.Options{
		Spec: func(_ testing.TB, name string) provider.MachineSpec { return testSpec(name, image) },
		Kill: func(t testing.TB, p provider.Provider, name string) { kill(t, p.(*runc.Provider), name) },
		HalfMade: func(t testing.TB, p provider.Provider, name string) {
			halfMake(p.(*runc.Provider), testSpec(name, image))
		},
	})
}

func kill(t testing.TB, p *runc.Provider, name string) {
	t.Helper()
	pid, err := p.PID(name)
	if err != nil || pid <= 0 {
		t.Fatalf("find init of %s: %d, %v", name, pid, err)
	}
	if err := runc.KillAndWait(pid); err != nil {
		t.Fatal(err)
	}
}

// halfMake abandons a creation: its goroutine ends on the way, nothing is undone.
func halfMake(p *runc.Provider, spec provider.MachineSpec) {
	p.SetFault(func(step string) error {
		if step == "recorded" {
			runtime.Goexit()
		}
		return nil
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = p.Create(context.Background(), spec)
	}()
	<-done
	p.SetFault(nil)
}

func TestManners(t *testing.T) {
	t.Parallel()
	w := open(t, nil)
	spec := w.spec("m-1")
	spec.Resources.CPUs = 0.5
	w.create(spec)

	t.Run("the machine knows its name and its cores", func(t *testing.T) {
		if got := w.mustInside("m-1", 0, "hostname"); got != "m-1" {
			t.Errorf("host name is %q", got)
		}
		if got := w.mustInside("m-1", 0, "nproc"); got != "1" {
			t.Errorf("it has %s cores", got)
		}
		if hosts := w.mustInside("m-1", 20000, "read", "/etc/hosts"); !strings.Contains(hosts, "192.0.2.1\tm-1") {
			t.Errorf("hosts is %q", hosts)
		}
		if resolv := w.mustInside("m-1", 20000, "read", "/etc/resolv.conf"); resolv != "nameserver 192.0.2.1" {
			t.Errorf("resolv.conf is %q", resolv)
		}
		if _, err := os.Lstat("/var/tmp/dspool-must-not-be-written"); err == nil {
			t.Error("a link of the image was followed out of it")
		}
	})

	t.Run("only its root reads the boot file, and can remove it", func(t *testing.T) {
		w.refused("m-1", 20000, "read", "/run/dspool/boot.json")
		if boot := w.mustInside("m-1", 0, "read", "/run/dspool/boot.json"); !strings.Contains(boot, "secret-m-1") {
			t.Errorf("boot file is %q", boot)
		}
		w.mustInside("m-1", 0, "remove", "/run/dspool/boot.json")
		err := filepath.WalkDir(w.cfg.StateDir, func(path string, e os.DirEntry, err error) error {
			if err == nil && e.Type().IsRegular() {
				if data, err := os.ReadFile(path); err == nil && strings.Contains(string(data), "secret-m-1") {
					t.Errorf("%s holds the token", path)
				}
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})

	t.Run("its root divides its control group and cannot raise the limit on it", func(t *testing.T) {
		w.mustInside("m-1", 0, "group")
		for _, limit := range []string{"memory/memory.limit_in_bytes", "memory.max"} {
			w.refused("m-1", 0, "write", "/sys/fs/cgroup/"+limit, "99999999999")
		}
	})

	t.Run("a fraction of a core is a quota", func(t *testing.T) {
		data, err := os.ReadFile("/sys/fs/cgroup/cpu/dspool-" + w.cfg.Installation + "/m-1/cpu.cfs_quota_us")
		if err != nil {
			t.Skip("no version 1 control groups")
		}
		if got := strings.TrimSpace(string(data)); got != "50000" {
			t.Errorf("quota is %s of 100000", got)
		}
	})

	t.Run("it leaves no mount on the host", func(t *testing.T) {
		mounts, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(mounts), w.cfg.StateDir) || strings.Contains(string(mounts), "/run/dspool/stage") {
			t.Error("mounts are left")
		}
	})

	t.Run("its root, its users and what has another of their groups can ping", func(t *testing.T) {
		for _, id := range []int{0, 1, 20000, 20007, 29999, 30000} {
			if out, err := w.inside("m-1", id, "ping", "127.0.0.1"); err != nil || out != "answer from 127.0.0.1:0" {
				t.Errorf("as %d: %q, %v", id, out, err)
			}
		}
	})

	t.Run("users cannot see each other's processes", func(t *testing.T) {
		w.refused("m-1", 20000, "read", "/proc/1/stat")
	})

	t.Run("a restarted server finds it", func(t *testing.T) {
		w.reopen()
		list, err := w.List(t.Context())
		if err != nil || len(list) != 1 || !list[0].Running {
			t.Errorf("listed are %+v, %v", list, err)
		}
		again := w.create(spec)
		if again != list[0].Handle {
			t.Errorf("created again it is %+v, was %+v", again, list[0].Handle)
		}
		kill(t, w.Provider, "m-1")
		if name := <-w.Exited(); name != "m-1" {
			t.Errorf("told of %q", name)
		}
	})
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	w := open(t, nil)
	for claim, spoil := range map[string]func(*provider.MachineSpec){
		"an image that is not there": func(s *provider.MachineSpec) { s.Image = "/nonexistent" },
		"an image that is a file":    func(s *provider.MachineSpec) { s.Image = "/etc/passwd" },
		"a relative image":           func(s *provider.MachineSpec) { s.Image = "image" },
		"a share that is not there": func(s *provider.MachineSpec) {
			s.Mounts = []provider.Mount{{Source: "/nonexistent", Target: "/mnt/a"}}
		},
		"gpus":        func(s *provider.MachineSpec) { s.Resources.GPUs = 1 },
		"no user ids": func(s *provider.MachineSpec) { s.UIDs = dspool.UIDRange{} },
	} {
		t.Run(claim+" is refused", func(t *testing.T) {
			spec := w.spec("m-1")
			spoil(&spec)
			if _, err := w.Create(t.Context(), spec); dspool.ErrorCode(err) != dspool.Invalid {
				t.Errorf("returned %v", err)
			}
		})
	}
	t.Run("nothing is made when the disk is nearly full", func(t *testing.T) {
		full := open(t, func(c *runc.Config) { c.ReserveDisk = 1 << 60 })
		_, err := full.Create(t.Context(), full.spec("m-1"))
		if dspool.ErrorCode(err) != dspool.Unavailable || !strings.Contains(err.Error(), "reserve") {
			t.Errorf("returned %v", err)
		}
	})
	t.Run("an init that ends at once is dead with its last words", func(t *testing.T) {
		dying := open(t, func(c *runc.Config) { c.Init = []string{"/run/dspool/dspool", "die"} })
		dying.create(dying.spec("m-1"))
		<-dying.Exited()
		list, err := dying.List(t.Context())
		if err != nil || len(list) != 1 || list[0].Running || list[0].Detail != "init exited: no [31mhope" {
			t.Errorf("listed are %+v, %v", list, err)
		}
	})
	t.Run("an init that is not there is an error", func(t *testing.T) {
		wrong := open(t, func(c *runc.Config) { c.Init = []string{"/nonexistent"} })
		_, err := wrong.Create(t.Context(), wrong.spec("m-1"))
		if err == nil || !strings.Contains(err.Error(), "/nonexistent") {
			t.Errorf("returned %v", err)
		}
		if list, err := wrong.List(t.Context()); err != nil || len(list) != 0 {
			t.Errorf("left %+v, %v", list, err)
		}
	})
}

func TestCoresAreSharedEvenly(t *testing.T) {
	t.Parallel()
	w := open(t, nil)
	var used []string
	for i := range runtime.NumCPU() {
		name := "m-" + string(rune('a'+i))
		w.create(w.spec(name))
		data := w.mustInside(name, 0, "read", "/proc/self/status")
		_, after, _ := strings.Cut(data, "Cpus_allowed_list:")
		used = append(used, strings.Fields(after)[0])
		if i == 7 {
			break // enough
		}
	}
	slices.Sort(used)
	if len(slices.Compact(slices.Clone(used))) != len(used) {
		t.Errorf("machines of one cpu share cores while others are free: %v", used)
	}
}

func TestCheckFindsThisHostFit(t *testing.T) {
	t.Parallel()
	w := open(t, nil)
	for _, f := range w.Check(t.Context()) {
		t.Logf("%+v", f)
		if f.Fatal {
			t.Errorf("%s: %s", f.Subject, f.Detail)
		}
	}
}

func TestMountNamespaceIsNeverTheProcesss(t *testing.T) {
	t.Parallel()
	needRoot(t)
	host, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 200 { // more than there are threads: one of them is likely the first
		wg.Go(func() {
			err := runc.InMountNamespace(func() error {
				own, err := os.Readlink("/proc/thread-self/ns/mnt")
				if own == host {
					t.Error("it runs in the host's namespace")
				}
				return err
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if now, err := os.Readlink("/proc/self/ns/mnt"); now != host || err != nil {
		t.Errorf("the process is in %s now, was in %s, %v", now, host, err)
	}
}

func TestMachineWithoutDirectoryIsListedAndDestroyed(t *testing.T) {
	t.Parallel()
	w := open(t, nil)
	w.create(w.spec("m-1"))
	if err := os.RemoveAll(filepath.Join(w.cfg.StateDir, "machines/m-1")); err != nil {
		t.Fatal(err)
	}
	list, err := w.List(t.Context())
	if err != nil || len(list) != 1 || list[0].Running || !strings.Contains(list[0].Detail, "left over") {
		t.Errorf("listed are %+v, %v", list, err)
	}
	if err := w.Destroy(t.Context(), "m-1"); err != nil {
		t.Fatal(err)
	}
	w.wantClean("m-1")
}
