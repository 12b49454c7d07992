package initd

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/asuser"
)

// errThread says that the calling thread stands in a cgroup that it cannot leave.
var errThread = errors.New("the thread is in a wrong cgroup")

// attempt is a row of init's table. Its fields but the channels are guarded by machine.mu.
type attempt struct {
	spec      Spec
	state     State
	slot      *usedSlot
	wall      time.Time // of its start; zero if never started
	begun     time.Time // the same, monotonic too
	exited    bool      // the main process has ended
	status    syscall.WaitStatus
	elapsed   time.Duration
	code      *int
	fault     dspool.Reason
	hostFault bool
	oomKills  int64 // told so far
	stuck     int
	killed    *Kill

	launched chan struct{} // closed when it runs or could not start
	mainGone chan struct{} // closed when the main process has ended
	over     chan struct{} // closed when nothing of it lives
}

// Exit codes of what could not start, as shells have them.
const (
	codeNotFound   = 127
	codeNotStarted = 126
)

// startError is why a program could not start, with the exit code that shells have for it; 0 is none.
type startError struct {
	code   int
	reason dspool.Reason
	err    error
}

func (e *startError) Error() string { return e.reason.For(dspool.Viewer{Admin: true}).Text }
func (e *startError) Unwrap() error { return e.err }

// notStarted is the reason of an error of starting something, and the exit code if it has one.
func notStarted(err error) (dspool.Reason, *int) {
	var start *startError
	if errors.As(err, &start) {
		if start.code == 0 {
			return start.reason, nil
		}
		return start.reason, &start.code
	}
	return dspool.Why(dspool.WhyNotStarted, dspool.ReasonParams{Detail: err.Error()}), nil
}

// spawner starts queued attempts, one at a time, on a thread of its own.
func (m *machine) spawner() {
	runtime.LockOSThread()
	for {
		a := m.queue.pop()
		if a == nil {
			runtime.UnlockOSThread()
			return
		}
		err := m.start(a)
		if err != nil {
			m.log.Info("an attempt did not start", "attempt", a.spec.ID, "error", err)
		}
		if errors.Is(err, errThread) || errors.Is(err, asuser.ErrTainted) {
			go m.spawner()
			return // ends the thread
		}
	}
}

// fifo holds attempts that wait for a spawner.
type fifo struct {
	mu     sync.Mutex
	filled sync.Cond
	queue  []*attempt
	closed bool
}

func newFIFO() *fifo {
	q := &fifo{}
	q.filled.L = &q.mu
	return q
}

func (q *fifo) push(a *attempt) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.queue = append(q.queue, a)
	q.filled.Signal()
}

// pop returns nil once the queue is closed.
func (q *fifo) pop() *attempt {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.queue) == 0 && !q.closed {
		q.filled.Wait()
	}
	if q.closed {
		return nil
	}
	a := q.queue[0]
	q.queue = q.queue[1:]
	return a
}

func (q *fifo) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.filled.Broadcast()
}

// start runs a, or ends it with the reason why it could not be.
func (m *machine) start(a *attempt) error {
	s := &a.spec
	var argv0 string
	var files [2]*os.File
	defer func() {
		for _, f := range files {
			if f != nil {
				f.Close()
			}
		}
	}()
	var as person
	var env map[string]string
	err := s.check()
	if err == nil {
		if as, err = m.become(s.Account); err != nil {
			err = hostFault(err)
		}
	}
	if err == nil {
		env = s.environment(as.env)
		err = as.cred.DoLocked(func() (err error) {
			if files, err = m.outputs(s); err != nil {
				return s.shareFault(err)
			}
			argv0, err = lookUp(s.Command[0], s.Dir, env["PATH"])
			return hostFault(err)
		})
		if errors.Is(err, asuser.ErrTainted) {
			err = hostFails(err)
		}
	}
	var slot *usedSlot
	if err == nil {
		if slot, err = m.slotFor(s); err != nil {
			err = hostFails(err)
		}
	}
	if err != nil {
		m.conclude(a, err)
		return err
	}
	attr := as.attr(s.Dir, env, m.null.Fd(), files[0].Fd(), files[1].Fd())
	leave, err := slot.enter(attr.Sys)
	if err != nil {
		m.giveBack(slot)
		m.conclude(a, hostFails(fmt.Errorf("join the attempt's cgroup: %w", err)))
		return err
	}
	var stray, unscored error
	err = m.reaper.spawn(func() (int, error) {
		pid, err := syscall.ForkExec(argv0, s.Command, attr)
		stray = leave()
		return pid, err
	}, func(pid int) {
		if unscored = scoreAsUser(as.cred, pid); notYet(unscored) {
			go func() { m.unscored("attempt", s.ID, scoreLater(as.cred, pid, a.mainGone)) }()
		}
		m.launched(a, slot)
	}, func(ws syscall.WaitStatus, at time.Time) { m.exit(a, ws, at) })
	if err != nil {
		m.giveBack(slot)
		m.conclude(a, hostFault(forkError(s.Command[0], err)))
	}
	if !notYet(unscored) {
		m.unscored("attempt", s.ID, unscored)
	}
	return errors.Join(err, stray, taint(unscored))
}

// unscored logs why the score of an attempt or app stays as it is.
func (m *machine) unscored(what string, id int64, err error) {
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ESRCH) { // it has ended
		m.log.Debug("an out-of-memory score stays as it is", "of", what, "id", id, "error", err)
	}
}

func taint(err error) error {
	if errors.Is(err, asuser.ErrTainted) {
		return err
	}
	return nil
}

// scoreAsUser makes the kernel choose a process before anything of the machine's own. It is
// done as the user because root of a machine does not see other ids in a /proc with hidepid.
func scoreAsUser(user asuser.Cred, pid int) error {
	const tries = 5
	pause := unix.NsecToTimespec(20_000)
	return user.DoLocked(func() (err error) {
		// The fork is over a moment before the kernel gives the new program to its user.
		for range tries {
			if err = score(pid); !notYet(err) {
				return err
			}
			_ = unix.Nanosleep(&pause, nil)
		}
		return err
	})
}

// scoreLater goes on where scoreAsUser gave up, while the main process lives: on a busy core
// the new program's turn comes late. It never comes with a program that the user may not read;
// that keeps its score. Should the pid be another process's by then, only one of the same user
// can be hit, to the same effect.
func scoreLater(user asuser.Cred, pid int, gone <-chan struct{}) error {
	const most = 2 * time.Second
	for pause := time.Millisecond; ; pause *= 2 {
		select {
		case <-gone:
			return nil
		case <-time.After(pause):
		}
		err := user.Do(func() error { return score(pid) })
		if pause >= most || !notYet(err) {
			return err
		}
	}
}

// notYet says whether the kernel still keeps the process from its user, or hides it.
func notYet(err error) bool { return errors.Is(err, unix.EACCES) || errors.Is(err, unix.ENOENT) }

func score(pid int) error { return writeControl("/proc/"+strconv.Itoa(pid), "oom_score_adj", "500") }

func (s *Spec) check() error {
	switch {
	case s.UID < MinUID || s.GID < MinUID:
		return dspool.Errorf(dspool.Forbidden, "user id %d, group id %d: nothing runs with an id below %d", s.UID, s.GID, MinUID)
	case len(s.Command) == 0 || s.Command[0] == "":
		return dspool.Errorf(dspool.Invalid, "the attempt has no command")
	case !filepath.IsAbs(s.Dir):
		return dspool.Errorf(dspool.Invalid, "the task's directory %s is not an absolute path", dspool.Quote(s.Dir))
	case s.Request.CPUs <= 0 || s.Request.Memory <= 0:
		return dspool.Errorf(dspool.Invalid, "the attempt asks for %s", s.Request)
	}
	for _, arg := range s.Command {
		if strings.ContainsRune(arg, 0) {
			return dspool.Errorf(dspool.Invalid, "the command holds a NUL byte")
		}
	}
	return nil
}

// environment of the attempt. The job's own entries win, but for those of dspool.
func (s *Spec) environment(login map[string]string) map[string]string {
	env := maps.Clone(login)
	env["OMP_NUM_THREADS"] = strconv.Itoa(max(1, int(math.Ceil(s.Request.CPUs))))
	env["PYTHONUNBUFFERED"] = "1" // output is a file, which people follow
	maps.Copy(env, s.Env)
	env["DSPOOL_JOB_ID"] = strconv.FormatInt(s.Job, 10)
	env["DSPOOL_TASK_INDEX"] = strconv.FormatInt(s.Index, 10)
	env["DSPOOL_TASK_COUNT"] = strconv.FormatInt(s.Count, 10)
	env["DSPOOL_CPUS"] = dspool.FormatCPUs(s.Request.CPUs)
	env["DSPOOL_MEMORY"] = strconv.FormatInt(s.Request.Memory, 10)
	return env
}

// outputs makes the task's directory and opens stdout.txt and stderr.txt in it, as the user.
func (m *machine) outputs(s *Spec) (files [2]*os.File, err error) {
	dir := strings.TrimPrefix(filepath.Clean(s.Dir), "/")
	if err := m.root.MkdirAll(dir, 0o777); err != nil {
		return files, fmt.Errorf("make the task's directory: %w", err)
	}
	for i, name := range []string{"stdout.txt", "stderr.txt"} {
		f, err := m.root.OpenOwned(filepath.Join(dir, name), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o666, s.UID)
		if err != nil {
			return files, fmt.Errorf("open the task's %s: %w", name, err)
		}
		files[i] = f
	}
	return files, nil
}

// lookUp finds the program as execvp(3) does, with the rights of the calling thread.
func lookUp(name, dir, path string) (string, error) {
	if strings.Contains(name, "/") {
		full := name
		if !filepath.IsAbs(full) {
			full = filepath.Join(dir, name)
		}
		if err := executable(full); err != nil {
			return "", execError(name, err)
		}
		return full, nil
	}
	found := error(unix.ENOENT)
	for _, d := range filepath.SplitList(path) {
		full := filepath.Join(d, name)
		if !filepath.IsAbs(full) {
			full = filepath.Join(dir, full)
		}
		err := executable(full)
		if err == nil {
			return full, nil
		}
		if err == unix.EACCES {
			found = err
		}
	}
	return "", execError(name, found)
}

func executable(path string) error {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return unix.EACCES
	}
	// AT_EACCESS, because access(2) otherwise asks for the real user.
	return unix.Faccessat(unix.AT_FDCWD, path, unix.X_OK, unix.AT_EACCESS)
}

// forkError explains why a program that lookUp found did not start.
func forkError(name string, err error) error {
	if errors.Is(err, unix.ENOENT) {
		return &startError{codeNotFound, dspool.Why(dspool.WhyNoInterpreter, dspool.ReasonParams{Name: name}), err}
	}
	return execError(name, err)
}

// execError explains why a program did not start.
func execError(name string, err error) error {
	refuse := func(exit int, code dspool.ReasonCode) error {
		return &startError{exit, dspool.Why(code, dspool.ReasonParams{Name: name}), err}
	}
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return refuse(codeNotFound, dspool.WhyNoCommand)
	case errors.Is(err, unix.EACCES):
		return refuse(codeNotStarted, dspool.WhyNotExecutable)
	case errors.Is(err, unix.ENOEXEC):
		return refuse(codeNotStarted, dspool.WhyNotProgram)
	case errors.Is(err, unix.E2BIG):
		return refuse(codeNotStarted, dspool.WhyArgumentsTooLong)
	}
	return &startError{codeNotStarted, dspool.Why(dspool.WhyNotStarted, dspool.ReasonParams{Detail: fmt.Sprintf("start command %s: %v", dspool.Quote(name), err)}), err}
}

// slotFor returns a slot with the attempt's limits. One whose memory cannot be taken back is
// replaced by a new one.
func (m *machine) slotFor(s *Spec) (*usedSlot, error) {
	l := limits{cpus: s.Request.CPUs, quota: s.Quota, memory: s.Request.Memory, pids: m.cfg.MaxProcesses}
	for try := 0; ; try++ {
		slot, err := m.slots.get()
		if err != nil {
			return nil, err
		}
		if err = slot.limit(l); err == nil {
			return slot, nil
		}
		err = errors.Join(fmt.Errorf("limit the attempt: %w", err), slot.remove())
		if try == maxFreeSlots {
			return nil, err
		}
		m.log.Warn("a slot is given up", "error", err)
	}
}

func (m *machine) giveBack(s *usedSlot) {
	if err := m.slots.put(s); err != nil {
		m.log.Warn("a slot is left behind", "error", err)
	}
}
