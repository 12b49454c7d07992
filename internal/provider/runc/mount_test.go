package runc_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/provider"
)

const ada, bob = 20000, 20001

// private makes a folder of a user that nobody else reads, with a file in it.
func private(t *testing.T, dir string, uid int) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "secret")
	if err := os.WriteFile(file, []byte("of "+filepath.Base(dir)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{dir, file} {
		if err := os.Chown(f, uid, uid); err != nil {
			t.Fatal(err)
		}
	}
}

// covered is an installation with a machine whose root must see nothing of who is not there.
type covered struct {
	*world
	homes, team string
}

func openCovered(t *testing.T) covered {
	w := covered{world: open(t, nil), homes: t.TempDir(), team: share(t)}
	for user, uid := range map[string]int{"ada": ada, "bob": bob} {
		private(t, filepath.Join(w.homes, user), uid)
		private(t, filepath.Join(w.team, "jobs", user), uid)
	}
	data := share(t)
	if err := os.WriteFile(filepath.Join(data, "x"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	spec := w.spec("m-1")
	spec.Mounts = []provider.Mount{
		{Source: data, Target: "/home/all/data"},
		{Source: w.homes, Target: "/home", Empty: true},
		{Source: w.team, Target: "/mnt/team", Cover: []string{"jobs", "notebooks"}},
	}
	w.create(spec)
	return w
}

func (w covered) of(user string) []provider.Mount {
	return []provider.Mount{
		{Source: w.homes, Sub: user, Target: "/home/" + user},
		{Source: w.team, Sub: "jobs/" + user, Target: "/mnt/team/jobs/" + user},
	}
}

func (w covered) mount(mounts ...provider.Mount) {
	w.t.Helper()
	if err := w.Mount(w.t.Context(), "m-1", mounts); err != nil {
		w.t.Fatal(err)
	}
}

func (w covered) sees(dir, want string) {
	w.t.Helper()
	if got := w.mustInside("m-1", 0, "list", dir); got != want {
		w.t.Errorf("root of the machine sees %q in %s, want %q", got, dir, want)
	}
}

func TestMountIntoRunningMachine(t *testing.T) {
	t.Parallel()
	w := openCovered(t)
	w.sees("/home", "all")
	w.sees("/home/all/data", "x")
	w.sees("/mnt/team", "jobs notebooks")
	w.sees("/mnt/team/jobs", "")

	w.mount(w.of("ada")...)
	w.mount(w.of("ada")...)
	if n := strings.Count(w.mustInside("m-1", 0, "read", "/proc/self/mountinfo"), " /home/ada "); n != 1 {
		t.Errorf("the home is mounted %d times", n)
	}
	w.sees("/home", "ada all")
	w.sees("/mnt/team/jobs", "ada")
	if got := w.mustInside("m-1", ada, "read", "/home/ada/secret"); got != "of ada" {
		t.Errorf("she reads %q", got)
	}
	w.refused("m-1", bob, "read", "/home/ada/secret")

	t.Run("files have their user's id on the host", func(t *testing.T) {
		w.mustInside("m-1", ada, "touch", "/home/ada/new")
		w.mustInside("m-1", ada, "touch", "/mnt/team/jobs/ada/new")
		for _, file := range []string{filepath.Join(w.homes, "ada/new"), filepath.Join(w.team, "jobs/ada/new")} {
			if uid := owner(t, file); uid != ada {
				t.Errorf("%s is of %d", file, uid)
			}
		}
	})
	t.Run("a setuid file there is not honoured", func(t *testing.T) {
		w.mustInside("m-1", 0, "setuid", "/home/ada/setuid")
		if ids := w.mustInside("m-1", ada, "run", "/home/ada/setuid", "ids"); !strings.HasPrefix(ids, "20000 20000 ") {
			t.Errorf("it ran as %q", ids)
		}
	})
	t.Run("root of the machine cannot lift the cover", func(t *testing.T) {
		for _, dir := range []string{"/home", "/mnt/team/jobs", "/mnt/team/notebooks"} {
			w.refused("m-1", 0, "umount", dir)
			w.refused("m-1", 0, "remount", dir)
			w.refused("m-1", 0, "touch", dir+"/x")
			w.refused("m-1", 0, "link", "/etc", dir+"/bob")
			w.refused("m-1", 0, "rename", dir, dir+"2")
			w.refused("m-1", 0, "remove", dir+"/ada")
		}
		w.refused("m-1", 0, "umount", "/home/ada")
		w.refused("m-1", 0, "read", "/home/ada/../bob/secret")
	})
	t.Run("who comes is added, who is gone is taken away, shares stay", func(t *testing.T) {
		w.mount(append(w.of("ada"), w.of("bob")...)...)
		w.sees("/home", "ada all bob")
		w.mount(w.of("bob")...)
		w.sees("/home", "all bob")
		w.sees("/mnt/team/jobs", "bob")
		w.sees("/home/all/data", "x")
		w.mount()
		w.sees("/home", "all")
		w.sees("/mnt/team/jobs", "")
	})
	t.Run("what was mounted is known after a restart", func(t *testing.T) {
		w.mount(w.of("ada")...)
		w.reopen()
		w.mount(w.of("bob")...)
		w.sees("/home", "all bob")
	})
	t.Run("a place may lie deeper", func(t *testing.T) {
		deep := provider.Mount{Source: w.team, Sub: "jobs/ada", Target: "/home/jobs/of/ada"}
		for range 2 {
			w.mount(deep)
			w.mount(deep)
			w.sees("/home/jobs/of/ada", "new secret")
			w.mount()
			w.sees("/home/jobs/of", "")
		}
	})
}

func TestMountIsRefused(t *testing.T) {
	t.Parallel()
	w := openCovered(t)
	w.create(w.spec("m-2"))
	if err := os.Symlink("ada", filepath.Join(w.homes, "eve")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc", filepath.Join(w.team, "mine")); err != nil {
		t.Fatal(err)
	}
	for claim, tt := range map[string]struct {
		machine string
		mount   provider.Mount
		code    dspool.Code
	}{
		"a link in place of a folder":      {"m-1", provider.Mount{Source: w.homes, Sub: "eve", Target: "/home/eve"}, dspool.Forbidden},
		"a link on the way":                {"m-1", provider.Mount{Source: w.team, Sub: "mine/ssl", Target: "/home/eve"}, dspool.Forbidden},
		"a folder outside the share":       {"m-1", provider.Mount{Source: w.homes, Sub: "../x", Target: "/home/eve"}, dspool.Invalid},
		"a target that is not empty there": {"m-1", provider.Mount{Source: w.homes, Sub: "ada", Target: "/mnt/ada"}, dspool.Conflict},
		"a target of the machine's own":    {"m-1", provider.Mount{Source: w.homes, Sub: "ada", Target: "/etc"}, dspool.Invalid},
		"a machine that mounts all":        {"m-2", provider.Mount{Source: w.homes, Sub: "ada", Target: "/home/ada"}, dspool.Conflict},
		"a machine that is not there":      {"m-3", provider.Mount{Source: w.homes, Sub: "ada", Target: "/home/ada"}, dspool.Unavailable},
	} {
		t.Run(claim, func(t *testing.T) {
			if err := w.Mount(t.Context(), tt.machine, []provider.Mount{tt.mount}); dspool.ErrorCode(err) != tt.code {
				t.Errorf("%v", err)
			}
			w.sees("/home", "all")
		})
	}
	t.Run("a place that the machine's root put elsewhere", func(t *testing.T) {
		spec := w.spec("m-5")
		spec.Mounts = []provider.Mount{{Source: w.team, Target: "/shared/team", Cover: []string{"jobs"}}}
		w.create(spec)
		hers := provider.Mount{Source: w.team, Sub: "jobs/ada", Target: "/shared/team/jobs/ada"}
		his := provider.Mount{Source: w.team, Sub: "jobs/bob", Target: "/shared/team/jobs/bob"}
		if err := w.Mount(t.Context(), "m-5", []provider.Mount{his}); err != nil {
			t.Fatal(err)
		}
		w.mustInside("m-5", 0, "rename", "/shared", "/away")
		for _, dir := range []string{"/fake", "/fake/team", "/fake/team/jobs"} {
			w.mustInside("m-5", 0, "mkdir", dir)
		}
		for _, put := range [][]string{{"link", "/fake", "/shared"}, {"rename", "/fake", "/shared"}} {
			w.inside("m-5", 0, "remove", "/shared")
			w.mustInside("m-5", 0, put...)
			err := w.Mount(t.Context(), "m-5", []provider.Mount{hers})
			if out := w.mustInside("m-5", 0, "list", "/shared/team/jobs"); err == nil || out != "" {
				t.Errorf("it was mounted where the machine's root wanted: %q, %v", out, err)
			}
			if out := w.mustInside("m-5", 0, "list", "/away/team/jobs"); out != "" {
				t.Errorf("what is private to who is gone stayed: %q", out)
			}
		}
	})
	t.Run("a folder to cover that is a user's", func(t *testing.T) {
		spec := w.spec("m-4")
		if err := os.Mkdir(filepath.Join(w.team, "hers"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(filepath.Join(w.team, "hers"), ada, ada); err != nil {
			t.Fatal(err)
		}
		for _, folder := range []string{"hers", "mine"} {
			spec.Mounts = []provider.Mount{{Source: w.team, Target: "/mnt/team", Cover: []string{folder}}}
			if _, err := w.Create(t.Context(), spec); err == nil {
				t.Errorf("%s was covered", folder)
			}
		}
	})
}
