package initd_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/agent/initd"
)

// leaves makes one of everything that can be left, in directories of others, of its own, and deeper than
// a sweep goes at once.
const leaves = `
	cd "$1"; umask 0
	echo x >file; mkdir -p mine/below; echo x >mine/below/file; mkfifo pipe; ln -s /etc link; mkdir closed; chmod 0 closed
	mkdir -p $(yes d | head -150 | tr '\n' /); echo x >$(yes d | head -150 | tr '\n' /)file
	[ ! -d open ] || { echo x >open/file; mkdir open/dir; }
	ipcmk -M 4096 -Q -S 1 >/dev/null; ipcs -a
	echo left`

func (m *testMachine) scratch() (names []string) {
	m.t.Helper()
	must(m.t, filepath.WalkDir(filepath.Join(m.dir, "scratch"), func(path string, e os.DirEntry, err error) error {
		rel, _ := filepath.Rel(filepath.Join(m.dir, "scratch"), path)
		if err == nil && rel != "." {
			names = append(names, rel)
		}
		if err == nil && e.IsDir() && strings.Count(rel, "/") == 1 {
			return filepath.SkipDir
		}
		return err
	}))
	return names
}

func (m *testMachine) as(s initd.Spec, user string, uid int) initd.Spec {
	s.User, s.UID, s.GID = user, uid, uid
	s.Dir = filepath.Join(m.dir, "jobs-"+user, filepath.Base(s.Dir))
	must(m.t, os.MkdirAll(filepath.Dir(s.Dir), 0o755))
	must(m.t, os.Chown(filepath.Dir(s.Dir), uid, uid))
	return s
}

func TestWhatAUserLeavesGoesWithTheLastOfTheUser(t *testing.T) {
	t.Parallel()
	m := startMachine(t)
	scratch := filepath.Join(m.dir, "scratch")
	bob := m.as(m.sh(1, `umask 0; cd `+scratch+`; mkdir open; echo x >open/bobs; echo x >bobs; echo there; until [ -e `+m.dir+`/jobs/go ]; do sleep 0.05; done`), "bob", userID+1)
	m.spawn(bob)
	m.await("bob's files", func() bool { return len(m.scratch()) == 3 })

	for id := int64(2); id <= 3; id++ {
		a := m.spec(id, "/bin/sh", "-c", leaves, "sh", scratch)
		if id == 2 { // another of hers runs on
			must(t, m.Close(t.Context(), initd.Closing{ID: 9}))
			if _, err := m.Open(t.Context(), initd.Session{ID: 9, Account: api.Account{User: "alice", UID: userID, GID: userID, Home: m.dir}, Request: dspool.Resources{CPUs: 1, Memory: 64 << 20}}); err != nil {
				t.Fatal(err)
			}
		}
		m.spawn(a)
		if s := m.exit(id); code(s) != "0" {
			t.Fatalf("%+v: %s", s, m.output(id, ""))
		}
		if id == 2 {
			if left := m.scratch(); !slices.Contains(left, "file") || !slices.Contains(left, "open/file") {
				t.Errorf("while her session is open there is %v", left)
			}
			must(t, m.Close(t.Context(), initd.Closing{ID: 9}))
		}
		if left, want := m.scratch(), []string{"bobs", "open", "open/bobs"}; !slices.Equal(left, want) {
			t.Errorf("when nothing of hers is left there is %v, want %v", left, want)
		}
	}
	if made := m.output(3, "left"); strings.Count(made, "alice")+strings.Count(made, "20001") < 3 {
		t.Fatalf("no objects were left: %s", made)
	}
	look := m.as(m.sh(4, `ipcs -a`), "bob", userID+1)
	m.spawn(look)
	m.exit(4)
	seen, err := os.ReadFile(filepath.Join(look.Dir, "stdout.txt"))
	must(t, err)
	if strings.Contains(string(seen), "0x") {
		t.Errorf("objects are still there: %s", seen)
	}
	must(t, os.WriteFile(filepath.Join(m.dir, "jobs/go"), nil, 0o644))
	m.exit(1)
	if left := m.scratch(); len(left) > 0 {
		t.Errorf("when nobody is left there is %v", left)
	}
}
