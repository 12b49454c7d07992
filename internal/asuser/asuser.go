// Package asuser lets root work in file trees that users write, with a user's rights
// and without ever following a link that a user made. Cred runs code on one thread
// with the user's file rights; Root walks beneath a directory by openat2.
package asuser

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"

	"golang.org/x/sys/unix"
)

// Umask is that of everything that is done as a user. Whoever writes for others of a group needs no
// other one: a folder of the group with setgid and a default ACL says so itself.
const Umask = 0o022

// Cred is whose file rights are taken, without capabilities over files.
type Cred struct {
	UID, GID int
	Groups   []int // supplementary
}

// ErrTainted says that the thread could not get its own rights back. The goroutine that
// locked it must end without unlocking, which discards the thread.
var ErrTainted = errors.New("the thread cannot get its own rights back")

// Do runs f with c's file rights on a thread of its own. Root only, except that everybody may
// act as themselves. Panics of f reach the caller. Code that f starts in other goroutines has
// the process's rights, not c's.
func (c Cred) Do(f func() error) error {
	if err := c.check(); err != nil {
		return err
	}
	if c.self() {
		return f()
	}
	type result struct {
		err      error
		panicked any
	}
	done := make(chan result, 1)
	go func() {
		r := result{err: errors.New("the function did not return")}
		runtime.LockOSThread()
		defer func() {
			r.panicked = recover()
			done <- r
		}()
		r.err = c.DoLocked(f)
		// After a panic, too, the goroutine ends with its thread locked, which discards it.
		if !errors.Is(r.err, ErrTainted) {
			runtime.UnlockOSThread()
		}
	}()
	r := <-done
	if r.panicked != nil {
		panic(r.panicked)
	}
	return r.err
}

// DoLocked is Do on the calling goroutine's thread, which must be locked. When the error is
// ErrTainted, the goroutine must end without unlocking it.
func (c Cred) DoLocked(f func() error) (err error) {
	if err := c.check(); err != nil {
		return err
	}
	if c.self() {
		return f()
	}
	groups, err := unix.Getgroups()
	if err != nil {
		return fmt.Errorf("read groups: %w", err)
	}
	uid, gid, other := os.Geteuid(), os.Getegid(), !slices.Equal(groups, c.Groups)
	defer func() {
		e := errors.Join(setFSUID(uid), setFSGID(gid))
		if other {
			e = errors.Join(e, setThreadGroups(groups))
		}
		if e != nil {
			err = errors.Join(err, ErrTainted, e)
		}
	}()
	if other {
		if err := setThreadGroups(c.Groups); err != nil {
			return fmt.Errorf("take groups: %w", err)
		}
	}
	if err := setFSGID(c.GID); err != nil {
		return err
	}
	if err := setFSUID(c.UID); err != nil {
		return err
	}
	return f()
}

func (c Cred) check() error {
	if c.UID < 0 || c.GID < 0 || c.UID > 1<<31-2 || c.GID > 1<<31-2 {
		return fmt.Errorf("act as user %d, group %d: not an id", c.UID, c.GID)
	}
	return nil
}

func (c Cred) self() bool { return os.Geteuid() != 0 && c.UID == os.Geteuid() && c.GID == os.Getegid() }

// setFSUID sets the thread's fsuid. The kernel reports no error, only the old value, so
// that the new one is read back with an id that is never valid.
func setFSUID(uid int) error {
	unix.RawSyscall(unix.SYS_SETFSUID, uintptr(uid), 0, 0)
	if now, _, _ := unix.RawSyscall(unix.SYS_SETFSUID, ^uintptr(0), 0, 0); int(int32(now)) != uid {
		return fmt.Errorf("take file rights of user %d: %w", uid, unix.EPERM)
	}
	return nil
}

func setFSGID(gid int) error {
	unix.RawSyscall(unix.SYS_SETFSGID, uintptr(gid), 0, 0)
	if now, _, _ := unix.RawSyscall(unix.SYS_SETFSGID, ^uintptr(0), 0, 0); int(int32(now)) != gid {
		return fmt.Errorf("take file rights of group %d: %w", gid, unix.EPERM)
	}
	return nil
}
