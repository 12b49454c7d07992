package initd

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/asuser"
)

func TestWhoseFaultItIsThatNothingStarts(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: only root gives directories away")
	}
	const uid = 20001
	share := filepath.Join(t.TempDir(), "share")
	own := filepath.Join(share, "jobs", "ada")
	s := Spec{Account: api.Account{UID: uid, GID: uid}, Mount: share, Dir: filepath.Join(own, "1", "0")}
	for dir := filepath.Dir(share); dir != "/" && dir != filepath.Clean(os.TempDir()); dir = filepath.Dir(dir) {
		_ = os.Chmod(dir, 0o755) // whoever is to come in comes through
	}
	path := func(errno unix.Errno) error {
		return fmt.Errorf("make the task's directory: %w", &os.PathError{Op: "mkdir", Path: s.Dir, Err: errno})
	}
	none := dspool.ReasonCode("")
	for _, c := range []struct {
		name    string
		err     error
		prepare func()
		want    dspool.ReasonCode
	}{
		{"the share is full", path(unix.ENOSPC), nil, dspool.WhyShareFull},
		{"its disk fails", path(unix.EIO), nil, dspool.WhyShareFails},
		{"it is read-only", path(unix.EROFS), nil, dspool.WhyShareFails},
		{"its server has forgotten it", path(unix.ESTALE), nil, dspool.WhyShareFails},
		{"the user's quota is used up", path(unix.EDQUOT), nil, none},
		{"the user's own directory is closed", path(unix.EACCES), func() { os.Chmod(own, 0) }, none},
		{"the share's root is closed", path(unix.EACCES), func() { os.Chmod(share, 0o700) }, dspool.WhyShareFails},
		{"the folder of jobs is closed", path(unix.EACCES), func() { os.Chmod(filepath.Dir(own), 0o700) }, dspool.WhyShareFails},
		{"the user's folder is missing", path(unix.EACCES), func() { os.Remove(own) }, dspool.WhyShareFails},
		{"the share is not mounted", path(unix.EACCES), func() { os.RemoveAll(share) }, dspool.WhyShareFails},
		{"a link leads elsewhere", dspool.Errorf(dspool.Forbidden, "it is a link: %w", unix.ELOOP), nil, none},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, dir := range []string{share, filepath.Dir(own), own} {
				if err := os.MkdirAll(dir, 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.Chmod(dir, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Chown(own, uid, uid); err != nil {
				t.Fatal(err)
			}
			if c.prepare != nil {
				c.prepare()
			}
			var got error
			err := asuser.Cred{UID: uid, GID: uid}.Do(func() error {
				got = s.shareFault(c.err)
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			reason, code := notStarted(got)
			if is := reason.Is(hostFaults...); is != (c.want != none) || is && (!reason.Is(c.want) || code != nil) {
				t.Errorf("the reason is %+v, the exit code %v", reason, code)
			}
		})
	}
}

func TestOnlyWhatTheHostLacksIsItsFault(t *testing.T) {
	t.Parallel()
	for errno, want := range map[unix.Errno]bool{
		unix.EAGAIN: true, unix.ENOMEM: true, unix.EMFILE: true, unix.ENFILE: true, unix.EIO: true, unix.ENOSPC: true,
		unix.ENOENT: false, unix.EACCES: false, unix.ENOEXEC: false, unix.E2BIG: false, unix.ENOTDIR: false,
	} {
		reason, code := notStarted(hostFault(forkError("program", errno)))
		if reason.Is(dspool.WhyHostFails) != want || (code == nil) != want {
			t.Errorf("%v: %+v with exit code %v", errno, reason, code)
		}
	}
}
