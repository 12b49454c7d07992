package asuser_test

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/asuser"
)

var (
	alice = asuser.Cred{UID: 20001, GID: 20001}
	bob   = asuser.Cred{UID: 20002, GID: 20002}
)

// tree makes a share: jobs/alice and jobs/bob belong to them, secret to root.
func tree(t *testing.T) (*asuser.Root, string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("NOT TESTED: acting as other users needs root")
	}
	// t.TempDir lies behind a directory that only root may search.
	dir, err := os.MkdirTemp("", "asuser")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	must(t, os.Chmod(dir, 0o755))
	root, err := asuser.OpenRoot(dir)
	must(t, err)
	t.Cleanup(func() { root.Close() })
	must(t, os.Mkdir(filepath.Join(dir, "jobs"), 0o755))
	must(t, root.MkdirOwned(alice, "jobs/alice", 0o755))
	must(t, root.MkdirOwned(bob, "jobs/bob", 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "secret"), []byte("root's"), 0o600))
	must(t, bob.Do(func() error { return os.WriteFile(filepath.Join(dir, "jobs/bob/open"), []byte("bob's"), 0o666) }))
	must(t, os.Chmod(filepath.Join(dir, "jobs/bob/open"), 0o666))
	return root, dir
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestWorkAsUser(t *testing.T) {
	t.Parallel()
	root, dir := tree(t)
	must(t, alice.MkdirAll(root, "jobs/alice/7/0", 0o750))
	f, err := alice.Append(root, "jobs/alice/7/0/stdout.txt", 0o640)
	must(t, err)
	_, err = f.WriteString("one\n")
	must(t, err)
	if fl, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0); err != nil || fl&unix.O_NONBLOCK != 0 || fl&unix.O_APPEND == 0 {
		t.Errorf("flags of an output file: %#x, %v; want appending and blocking", fl, err)
	}
	f.Close()
	for _, p := range []string{"jobs/alice/7", "jobs/alice/7/0", "jobs/alice/7/0/stdout.txt"} {
		st, err := os.Stat(filepath.Join(dir, p))
		must(t, err)
		if uid := st.Sys().(*syscall.Stat_t).Uid; uid != 20001 {
			t.Errorf("%s belongs to %d", p, uid)
		}
	}
	r, err := alice.Read(root, "jobs/alice/7/0/stdout.txt")
	must(t, err)
	defer r.Close()
	if b, _ := io.ReadAll(r); string(b) != "one\n" {
		t.Errorf("read %q", b)
	}
	must(t, alice.MkdirAll(root, "jobs/alice/7/0", 0o750)) // again changes nothing
}

func TestAttacks(t *testing.T) {
	t.Parallel()
	root, dir := tree(t)
	in := func(p string) string { return filepath.Join(dir, p) }
	link := func(to, at string) func() error { return func() error { return os.Symlink(to, in(at)) } }
	must(t, alice.MkdirAll(root, "jobs/alice/d", 0o755))
	for _, attack := range []struct {
		claim string
		set   func() error // by alice
		path  string
	}{
		{"output that is a link to root's file", link(in("secret"), "jobs/alice/l1"), "jobs/alice/l1"},
		{"output that is a relative link", link("../../secret", "jobs/alice/l2"), "jobs/alice/l2"},
		{"output that is a link to an own file", link("d", "jobs/alice/l3"), "jobs/alice/l3"},
		{"directory that is a link to bob's", link("../bob", "jobs/alice/l4"), "jobs/alice/l4/open"},
		{"directory that is a link to the root", link("/", "jobs/alice/l5"), "jobs/alice/l5/etc/passwd"},
		{"magic link of proc", link("/proc/self/root", "jobs/alice/l6"), "jobs/alice/l6/etc/passwd"},
		{"dangling link", link("nothing", "jobs/alice/l7"), "jobs/alice/l7"},
		{"FIFO", func() error { return unix.Mkfifo(in("jobs/alice/fifo"), 0o666) }, "jobs/alice/fifo"},
		{"socket", func() error { return unix.Mknod(in("jobs/alice/sock"), unix.S_IFSOCK|0o666, 0) }, "jobs/alice/sock"},
		{"directory", nil, "jobs/alice/d"},
		{"another's file that all may write", nil, "jobs/bob/open"},
		{"root's file", nil, "secret"},
		{"way out", nil, "../etc/passwd"},
		{"way out by the middle", nil, "jobs/../../etc/passwd"},
		{"absolute path", nil, "/etc/passwd"},
		{"NUL", nil, "jobs/alice/a\x00b"},
		{"empty path", nil, ""},
	} {
		if attack.set != nil {
			must(t, alice.Do(attack.set))
		}
		t.Run(attack.claim+" is refused", func(t *testing.T) {
			if f, err := alice.Read(root, attack.path); err == nil {
				f.Close()
				t.Error("opened for reading")
			} else if strings.Contains(err.Error(), "\n") {
				t.Errorf("error of several lines: %v", err)
			}
			if f, err := alice.Append(root, attack.path, 0o644); err == nil {
				f.Close()
				t.Error("opened for writing")
			}
			// Root's own rights change nothing about links, kinds and owners.
			if f, err := root.OpenOwned(attack.path, os.O_RDWR|os.O_TRUNC, 0, alice.UID); err == nil {
				f.Close()
				t.Error("opened with root's rights")
			}
		})
	}
	t.Run("hard link to another's file is refused", func(t *testing.T) {
		must(t, os.Link(in("jobs/bob/open"), in("jobs/alice/hard")))
		_, err := alice.Read(root, "jobs/alice/hard")
		_, err2 := alice.Append(root, "jobs/alice/hard", 0o644)
		if dspool.ErrorCode(err) != dspool.Forbidden || dspool.ErrorCode(err2) != dspool.Forbidden {
			t.Errorf("read: %v; append: %v", err, err2)
		}
		_, err = root.OpenOwned("jobs/alice/hard", os.O_RDWR|os.O_TRUNC, 0, alice.UID)
		if b, _ := os.ReadFile(in("jobs/bob/open")); err == nil || string(b) != "bob's" {
			t.Errorf("%v; bob's file now holds %q", err, b)
		}
	})
	t.Run("making directories through a link is refused", func(t *testing.T) {
		for _, p := range []string{"jobs/alice/l4/x", "jobs/alice/l5/tmp/x/y", "jobs/alice/l7/x", "jobs/alice/l7"} {
			if err := alice.MkdirAll(root, p, 0o755); err == nil {
				t.Errorf("made %s", p)
			}
			if err := root.MkdirAll(p, 0o755); err == nil {
				t.Errorf("made %s as root", p)
			}
		}
		if err := alice.MkdirAll(root, "jobs/alice/fifo/x", 0o755); err == nil {
			t.Error("made a directory in a FIFO")
		}
	})
	t.Run("directories of others are out of reach", func(t *testing.T) {
		for _, p := range []string{"jobs/bob/x", "jobs/x", "x/y"} {
			if err := alice.MkdirAll(root, p, 0o755); !errors.Is(err, fs.ErrPermission) {
				t.Errorf("%s: %v", p, err)
			}
		}
	})
	t.Run("a home is never taken from another", func(t *testing.T) {
		if err := root.MkdirOwned(alice, "jobs/bob", 0o700); dspool.ErrorCode(err) != dspool.Conflict {
			t.Errorf("%v", err)
		}
		if err := root.MkdirOwned(bob, "jobs/alice/l4", 0o700); dspool.ErrorCode(err) != dspool.Forbidden {
			t.Errorf("through a link: %v", err)
		}
		must(t, os.WriteFile(in("file"), []byte("kept"), 0o644))
		if err := root.MkdirOwned(bob, "file", 0o700); dspool.ErrorCode(err) != dspool.Conflict || !strings.Contains(err.Error(), "file is not a directory") {
			t.Errorf("in place of a file: %v", err)
		}
		must(t, os.Mkdir(in("half"), 0o700)) // as a crash leaves it
		must(t, root.MkdirOwned(bob, "half", 0o755))
		st, err := os.Stat(in("half"))
		must(t, err)
		if st.Sys().(*syscall.Stat_t).Uid != 20002 || st.Mode().Perm() != 0o755 {
			t.Errorf("an interrupted call was completed to %v of %d", st.Mode(), st.Sys().(*syscall.Stat_t).Uid)
		}
	})
}

// A link swapped in and out while the tree is walked must never be followed.
func TestSwappedLink(t *testing.T) {
	t.Parallel()
	root, dir := tree(t)
	must(t, os.Mkdir(filepath.Join(dir, "private"), 0o700))
	must(t, os.WriteFile(filepath.Join(dir, "private/f"), nil, 0o600))
	must(t, os.Chown(filepath.Join(dir, "private/f"), alice.UID, alice.GID))
	must(t, alice.MkdirAll(root, "jobs/alice/real", 0o755))
	must(t, alice.Do(func() error { return os.Symlink("../../private", filepath.Join(dir, "jobs/alice/link")) }))
	stop := make(chan struct{})
	var swaps sync.WaitGroup
	swaps.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				unix.Renameat2(unix.AT_FDCWD, filepath.Join(dir, "jobs/alice/real"), unix.AT_FDCWD, filepath.Join(dir, "jobs/alice/link"), unix.RENAME_EXCHANGE)
			}
		}
	})
	for range 2000 {
		if f, err := root.OpenOwned("jobs/alice/real/f", os.O_RDONLY, 0, alice.UID); err == nil {
			f.Close()
			t.Error("followed a link")
			break
		}
	}
	close(stop)
	swaps.Wait()
}

func TestDo(t *testing.T) {
	t.Parallel()
	_, dir := tree(t)
	secret := filepath.Join(dir, "secret")
	t.Run("a user's rights end with the call", func(t *testing.T) {
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 200 {
					if err := alice.Do(func() error { _, err := os.ReadFile(secret); return err }); !errors.Is(err, fs.ErrPermission) {
						t.Errorf("as alice: %v", err)
						return
					}
					if _, err := os.ReadFile(secret); err != nil {
						t.Errorf("as root again: %v", err)
						return
					}
				}
			})
		}
		wg.Wait()
	})
	t.Run("a panic reaches the caller", func(t *testing.T) {
		defer func() {
			if r := recover(); r != "boom" {
				t.Errorf("recovered %v", r)
			}
			if _, err := os.ReadFile(secret); err != nil {
				t.Errorf("as root again: %v", err)
			}
		}()
		_ = alice.Do(func() error { panic("boom") })
	})
	t.Run("an id that is none is refused", func(t *testing.T) {
		if err := (asuser.Cred{UID: -1, GID: 20000}).Do(func() error { return nil }); err == nil {
			t.Error("ran")
		}
	})
	t.Run("a user's groups do", func(t *testing.T) {
		must(t, os.WriteFile(filepath.Join(dir, "of-the-lab"), nil, 0o640))
		must(t, os.Chown(filepath.Join(dir, "of-the-lab"), 0, 20500))
		read := func() error { _, err := os.ReadFile(filepath.Join(dir, "of-the-lab")); return err }
		if err := alice.Do(read); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("outside the group: %v", err)
		}
		must(t, asuser.Cred{UID: 20001, GID: 20001, Groups: []int{20500}}.Do(read))
	})
	t.Run("root's groups do not count", func(t *testing.T) {
		must(t, os.Chown(secret, 0, 4))
		must(t, os.Chmod(secret, 0o640))
		if err := alice.Do(func() error { _, err := os.ReadFile(secret); return err }); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("%v", err)
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	if os.Geteuid() != 0 {
		b.Skip("needs root")
	}
	dir := b.TempDir()
	root, err := asuser.OpenRoot(dir)
	if err != nil {
		b.Fatal(err)
	}
	defer root.Close()
	if err := root.MkdirOwned(alice, "a", 0o755); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		f, err := alice.Append(root, "a/f", 0o644)
		if err != nil {
			b.Fatal(err)
		}
		f.Close()
	}
}
