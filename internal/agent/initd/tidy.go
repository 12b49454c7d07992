package initd

import (
	"errors"
	"io"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// What a user leaves outside of homes and shares would be others' loss: files on memory or on the
// machine's disk, and objects that have no file. It goes with the last that the user has on the machine,
// before that end is told, so that whoever gets the room finds it empty.

// Scratch is where every user of a machine may write.
var Scratch = []string{"/dev/shm", "/dev/mqueue", "/tmp", "/var/tmp", "/run/user", "/run/lock", "/run/screen"}

// tenants counts what each user has on the machine: attempts and sessions.
type tenants struct {
	mu    sync.Mutex
	byUID map[int]*tenant
}

type tenant struct {
	claims int
	tidied chan struct{} // closed when a tidying that is under way is over; nil if none is
}

// come counts one more of a user's; it must not begin before wait, if there is one, is closed.
func (t *tenants) come(uid int) (wait <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	x := t.byUID[uid]
	if x == nil {
		x = &tenant{}
		t.byUID[uid] = x
	}
	x.claims++
	return x.tidied
}

// leave counts one less. When it was the last, the caller must tidy up and then call tidied.
func (t *tenants) leave(uid int) (last bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	x := t.byUID[uid]
	if x.claims--; x.claims > 0 || x.tidied != nil {
		return false
	}
	x.tidied = make(chan struct{})
	return true
}

func (t *tenants) tidied(uid int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	x := t.byUID[uid]
	close(x.tidied)
	if x.tidied = nil; x.claims == 0 {
		delete(t.byUID, uid)
	}
}

// tidy removes what a user has left, of whom nothing lives on the machine.
func (m *machine) tidy(uid int) {
	defer m.tenants.tidied(uid)
	if len(m.cfg.Scratch) == 0 {
		return
	}
	errs := []error{removeObjects(uid)}
	for _, dir := range m.cfg.Scratch {
		errs = append(errs, removeFiles(dir, uid))
	}
	if err := errors.Join(errs...); err != nil {
		m.log.Error("what a user left cannot be removed", "uid", uid, "error", err)
	}
}

// removeFiles removes what a user owns below dir. No link is followed.
func removeFiles(dir string, uid int) error {
	top, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return nil // the image has no such place
	}
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(top)
	var st unix.Stat_t
	if err := unix.Fstat(top, &st); err != nil {
		return err
	}
	s := &sweep{uid: uint32(uid), top: top, device: st.Dev}
	for again := true; again; {
		s.moved = 0
		s.below(top, 0)
		again = s.moved > 0
	}
	if s.failed != nil {
		return &os.PathError{Op: "remove files below", Path: dir, Err: s.failed}
	}
	return nil
}

// deepest is how deep a sweep goes with a file open for each directory.
const deepest = 64

type sweep struct {
	uid    uint32
	top    int
	device uint64
	number int // of what was moved up
	moved  int // in this pass
	failed error
}

// below removes the user's entries of an open directory, and of those below it where the user could write.
func (s *sweep) below(dir, depth int) {
	fd, err := unix.Openat(dir, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		s.note(err)
		return
	}
	list := os.NewFile(uintptr(fd), ".")
	defer list.Close()
	for {
		names, err := list.Readdirnames(1000)
		for _, name := range names {
			s.entry(dir, name, depth)
		}
		if err != nil {
			if err != io.EOF {
				s.note(err)
			}
			return
		}
	}
}

func (s *sweep) entry(dir int, name string, depth int) {
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		s.note(err)
		return
	}
	mine := st.Uid == s.uid
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		if mine {
			s.note(unix.Unlinkat(dir, name, 0))
		}
		return
	}
	if st.Dev != s.device || !mine && st.Mode&0o022 == 0 {
		return
	}
	if depth == deepest {
		if mine {
			s.number++
			to := ".dspool-left-" + strconv.Itoa(int(s.uid)) + "-" + strconv.Itoa(s.number)
			if err := unix.Renameat(dir, name, s.top, to); err != nil {
				s.note(err)
				return
			}
			s.moved++
		}
		return
	}
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		s.note(err)
		return
	}
	s.below(fd, depth+1)
	unix.Close(fd)
	if mine {
		// What others put into it stays, and so does it.
		if err := unix.Unlinkat(dir, name, unix.AT_REMOVEDIR); err != unix.ENOTEMPTY && err != unix.EEXIST {
			s.note(err)
		}
	}
}

// note keeps the first error. What has gone meanwhile, or was swapped by its other users, is none.
func (s *sweep) note(err error) {
	if s.failed == nil && err != nil && err != unix.ENOENT && err != unix.ELOOP && err != unix.ENOTDIR {
		s.failed = err
	}
}

// objects are those of System V, each with the name of its column of identifiers and how it is removed.
var objects = []struct {
	list, id string
	remove   func(id int) error
}{
	{"/proc/sysvipc/shm", "shmid", func(id int) error { _, err := unix.SysvShmCtl(id, unix.IPC_RMID, nil); return err }},
	{"/proc/sysvipc/msg", "msqid", func(id int) error { return control(unix.SYS_MSGCTL, id, unix.IPC_RMID, 0) }},
	{"/proc/sysvipc/sem", "semid", func(id int) error { return control(unix.SYS_SEMCTL, id, 0, unix.IPC_RMID) }},
}

func control(call uintptr, a, b, c int) error {
	if _, _, errno := unix.Syscall(call, uintptr(a), uintptr(b), uintptr(c)); errno != 0 {
		return errno
	}
	return nil
}

// removeObjects removes a user's shared memory, queues and semaphores that have no file.
func removeObjects(uid int) error {
	var left []func() error
	for _, o := range objects {
		text, err := os.ReadFile(o.list)
		if errors.Is(err, os.ErrNotExist) {
			continue // a kernel without them
		}
		if err != nil {
			return err
		}
		for _, id := range ownedObjects(string(text), o.id, uid) {
			left = append(left, func() error { return o.remove(id) })
		}
	}
	if len(left) == 0 {
		return nil
	}
	// Only their owner may: the machine's root is not the system's administrator.
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread with the other id is discarded
		if err := control(unix.SYS_SETRESUID, -1, uid, -1); err != nil {
			done <- err
			return
		}
		var errs []error
		for _, remove := range left {
			if err := remove(); err != unix.EINVAL && err != unix.EIDRM { // gone meanwhile
				errs = append(errs, err)
			}
		}
		done <- errors.Join(errs...)
	}()
	return <-done
}

// ownedObjects reads a list of /proc/sysvipc.
func ownedObjects(text, column string, uid int) (ids []int) {
	lines := strings.Split(text, "\n")
	head := strings.Fields(lines[0])
	id, owner, maker := slices.Index(head, column), slices.Index(head, "uid"), slices.Index(head, "cuid")
	if id < 0 || owner < 0 || maker < 0 {
		return nil
	}
	want := strconv.Itoa(uid)
	for _, line := range lines[1:] {
		f := strings.Fields(line)
		if len(f) != len(head) || f[owner] != want && f[maker] != want {
			continue
		}
		if n, err := strconv.Atoi(f[id]); err == nil {
			ids = append(ids, n)
		}
	}
	return ids
}
