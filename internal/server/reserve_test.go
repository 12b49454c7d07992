package server

import (
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/store"
)

// mounted is a small file system.
func mounted(t *testing.T, size string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: only root mounts")
	}
	dir := filepath.Join(t.TempDir(), "disk")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, cmd := range [][]string{{"truncate", "-s", size, dir + ".img"}, {"mkfs.ext4", "-q", "-m", "0", dir + ".img"}, {"mount", "-o", "loop", dir + ".img", dir}} {
		if out, err := exec.Command(cmd[0], cmd[1:]...).CombinedOutput(); err != nil {
			t.Skipf("SKIPPED: %v: %v: %s", cmd, err, out)
		}
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fill takes all that is left.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, block := range [][]byte{make([]byte, 1<<20), make([]byte, 4096)} {
		for err = nil; err == nil; {
			_, err = f.Write(block)
		}
		if !errors.Is(err, unix.ENOSPC) {
			t.Fatal(err)
		}
	}
}

func TestStateSurvivesAFullDisk(t *testing.T) {
	t.Parallel()
	dir := mounted(t, "96M")
	r := &reserve{dir: dir, size: 16 << 20, log: slog.New(slog.DiscardHandler)}
	write := func(s *store.Store, n int) error {
		return s.Write(t.Context(), func(tx *store.Tx) error {
			for range n {
				if err := tx.AddEvent(dspool.Event{Actor: "server", Kind: "test", Message: string(make([]byte, 1000))}); err != nil {
					return err
				}
			}
			return nil
		})
	}
	open := func() *store.Store {
		t.Helper()
		s, err := store.Open(t.Context(), filepath.Join(dir, StoreFile))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := open()
	if err := write(s, 1); err != nil {
		t.Fatal(err)
	}
	r.tend()
	if len(r.problems()) != 0 {
		t.Errorf("with room it says %v", r.problems())
	}
	// While somebody fills the disk, and before the server looks, it goes on writing.
	fill(t, filepath.Join(dir, "fill"))
	for range 10 {
		if err := write(s, 100); err != nil {
			t.Fatalf("on a full disk: %v", err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	// Nor does it matter to the next server.
	fill(t, filepath.Join(dir, "fill"))
	r.tend()
	if p := r.problems(); len(p) != 1 || !p[0].Is(dspool.WhyStateFull) {
		t.Errorf("it says %v", p)
	}
	s = open()
	defer s.Close()
	if err := write(s, 1000); err != nil {
		t.Fatalf("after a restart: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "fill")); err != nil {
		t.Fatal(err)
	}
	r.tend()
	if len(r.problems()) != 0 {
		t.Errorf("with room again it says %v", r.problems())
	}
	if info, err := os.Stat(filepath.Join(dir, reserveFile)); err != nil || info.Size() != 16<<20 {
		t.Errorf("the reserve is not back: %v", err)
	}
}
