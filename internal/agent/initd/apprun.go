package initd

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/asuser"
)

// restGrace is what the rest of an app has after the end of its main process, which had the whole grace.
const restGrace = 2 * time.Second

// appRun is one run of an app.
type appRun struct {
	n, pid, port int
	part         slot
	log          *appLog
	gone         chan struct{} // closed when the main process has ended
	status       syscall.WaitStatus
	stuck        int
	oomBefore    int64
}

// keepApp runs an app until it has ended for good.
func (m *machine) keepApp(a *app) {
	const first, most, steady = 100 * time.Millisecond, 10 * time.Second, 30 * time.Second
	defer close(a.over)
	for pause := first; ; pause = min(most, 2*pause) {
		if m.appEnds(a) {
			break
		}
		begun := time.Now()
		r, err := m.startApp(a)
		if err == nil {
			m.followApp(a, r)
		}
		if ended := m.concludeApp(a, r, err); ended {
			break
		}
		if time.Since(begun) > steady {
			pause = first
		}
		m.log.Info("an app ended and is started again", "app", a.spec.ID, "name", a.spec.Name, "wait", pause)
		if m.pauseApp(a, pause) {
			break
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	a.status.State = Ended
	if a.status.Reason.IsZero() {
		a.status.Reason = a.why // also of one that never ran, or waited for its next run
	}
	m.appsMoved()
}

func (m *machine) appEnds(a *app) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return a.ends
}

// pauseApp waits for the time of an app's next run; it returns true when there is none.
func (m *machine) pauseApp(a *app, d time.Duration) (ends bool) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			return m.appEnds(a)
		case <-a.kick:
			if m.appEnds(a) {
				return true
			}
		case <-m.ended:
			return true
		}
	}
}

// startApp begins a run. It is done on a thread of its own, which is discarded when it cannot
// get its rights or its cgroup back.
func (m *machine) startApp(a *app) (r *appRun, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		var stray error
		r, stray, err = m.launchApp(a)
		if errors.Is(stray, errThread) || errors.Is(errors.Join(stray, err), asuser.ErrTainted) {
			m.log.Warn("a thread is given up", "error", errors.Join(stray, err))
			return
		}
		runtime.UnlockOSThread()
	}()
	<-done
	if err != nil {
		m.log.Info("an app did not start", "app", a.spec.ID, "name", a.spec.Name, "error", err)
	}
	return r, err
}

// launchApp is called on a locked thread. stray says that the thread must not be used again.
func (m *machine) launchApp(a *app) (r *appRun, stray, err error) {
	m.mu.Lock()
	user, n := a.session.spec, a.status.Run+1
	m.mu.Unlock()
	if err := a.spec.check(); err != nil {
		return nil, nil, err
	}
	port, err := m.freePort()
	if err != nil {
		return nil, nil, err
	}
	as, err := m.become(user.Account)
	if err != nil {
		return nil, nil, err
	}
	command, env := a.spec.with(port), a.spec.environment(as.env, port)
	var dir, argv0 string
	var file *os.File
	if err := as.cred.DoLocked(func() (err error) {
		var noLog error
		if file, noLog = openAppLog(user.Home, a.spec.Name, user.UID); noLog != nil {
			m.log.Info("the output of an app is not kept", "app", a.spec.ID, "error", noLog)
		}
		if dir, err = startDir(user.Home, a.spec.Dir); err != nil {
			return err
		}
		argv0, err = lookUp(command[0], dir, env["PATH"])
		return err
	}); err != nil {
		if file != nil {
			file.Close()
		}
		return nil, nil, err
	}
	r = &appRun{n: n, port: port, gone: make(chan struct{})}
	out := -1
	if r.log, out, err = newAppLog(file); err != nil {
		return nil, nil, err
	}
	defer unix.Close(out)
	part, err := a.session.slot.part(fmt.Sprintf("app-%d-%d", a.spec.ID, n))
	if err != nil {
		r.log.finish()
		return nil, nil, fmt.Errorf("make cgroup: %w", err)
	}
	r.part = part
	r.oomBefore, _ = part.oomKills()
	attr := as.attr(dir, env, m.null.Fd(), uintptr(out), uintptr(out))
	leave, err := part.enter(attr.Sys)
	if err != nil {
		r.log.finish()
		m.removePart(r.part, a)
		return nil, err, fmt.Errorf("join the app's cgroup: %w", err)
	}
	var unscored error
	err = m.reaper.spawn(func() (int, error) {
		pid, err := syscall.ForkExec(argv0, command, attr)
		stray = leave()
		return pid, err
	}, func(pid int) {
		r.pid = pid
		if unscored = scoreAsUser(as.cred, pid); notYet(unscored) {
			go func() { m.unscored("app", a.spec.ID, scoreLater(as.cred, pid, r.gone)) }()
		}
	}, func(ws syscall.WaitStatus, _ time.Time) {
		r.status = ws
		close(r.gone)
	})
	if err != nil {
		r.log.finish()
		m.removePart(r.part, a)
		return nil, stray, forkError(command[0], err)
	}
	if !notYet(unscored) {
		m.unscored("app", a.spec.ID, unscored)
	}
	m.appLaunched(a, r)
	return r, errors.Join(stray, taint(unscored)), nil
}

// appLaunched notes that a's main process runs.
func (m *machine) appLaunched(a *app, r *appRun) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a.begun, a.part = time.Now(), r.part
	s := &a.status
	s.State, s.Run, s.PID, s.Port = Running, r.n, r.pid, r.port
	a.oom.begin(r.oomBefore, a.begun)
	m.appsMoved()
}

// followApp returns when nothing of a run lives, or what does is stuck in the kernel.
func (m *machine) followApp(a *app, r *appRun) {
	grace, asked := m.awaitAppEnd(a, r)
	if asked && grace > 0 {
		select {
		case <-r.gone:
		default:
			// Jupyter, for one, ends its kernels itself, and in order.
			signalAll([]int{r.pid}, unix.SIGTERM, unix.SIGCONT)
		}
		select {
		case <-r.gone:
		case <-time.After(grace):
		}
	}
	select {
	case <-r.gone:
		if rest := min(grace, restGrace); rest > 0 && !awaitEmpty(r.part, 0) {
			if pids, err := r.part.pids(); err == nil {
				signalAll(pids, unix.SIGTERM, unix.SIGHUP, unix.SIGCONT)
			}
			awaitEmpty(r.part, rest)
		}
	default:
	}
	r.stuck = m.empty(r.part, "app", a.spec.ID)
	select {
	case <-r.gone:
	case <-time.After(stuckAfter):
	}
}

// awaitAppEnd returns when the main process has ended, or is to.
func (m *machine) awaitAppEnd(a *app, r *appRun) (grace time.Duration, asked bool) {
	for {
		select {
		case <-r.gone:
			return restGrace, false
		case <-a.kick:
			m.mu.Lock()
			grace, asked = a.grace, a.ends || a.endRun == r.n
			m.mu.Unlock()
			if asked {
				return grace, true
			}
		}
	}
}

// concludeApp writes down how a run ended, or why it did not begin. It returns whether it was the last.
func (m *machine) concludeApp(a *app, r *appRun, err error) (last bool) {
	said := ""
	var oom int64
	if r != nil {
		said = a.spec.withoutSecrets(r.log.finish())
		oom, _ = r.part.oomKills()
	}
	m.mu.Lock()
	s := &a.status
	s.State, s.PID, s.Port, a.part = Starting, 0, 0, nil
	s.ExitCode, s.Signal, s.OOM, s.Fault, s.Reason, s.Said, s.Stuck = nil, 0, false, dspool.Reason{}, dspool.Reason{}, said, 0
	switch {
	case err != nil:
		var code *int
		s.Fault, code = notStarted(err)
		s.ExitCode = code
		s.Run++ // no other run has this number
	default:
		s.Stuck = r.stuck
		select {
		case <-r.gone:
			code := r.status.ExitStatus()
			if r.status.Signaled() {
				s.Signal = int(r.status.Signal())
				code = 128 + s.Signal
			}
			s.ExitCode = &code
		default: // stuck
		}
		if a.ends || a.endRun == r.n {
			s.Reason = a.why
		}
		s.OOM = s.Reason.IsZero() && s.ExitCode != nil && *s.ExitCode != 0 && a.oom.fresh(oom)
	}
	if last = a.ends || !a.spec.Restart || m.stopping; last {
		s.State = Ended
	}
	m.appsMoved()
	m.mu.Unlock()
	if r != nil && r.stuck == 0 {
		m.removePart(r.part, a)
	}
	return last
}

// removePart removes the cgroup of a run. What is in the middle of its end is not listed and
// still keeps it.
func (m *machine) removePart(p slot, a *app) {
	const first, most = time.Millisecond, 50 * time.Millisecond
	end := time.Now().Add(restGrace)
	for pause := first; ; pause = min(most, 2*pause) {
		err := p.remove()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			m.log.Warn("the cgroup of an app is left behind", "app", a.spec.ID, "error", err)
			return
		}
		time.Sleep(pause)
	}
}

// startDir returns where an app starts, with the rights of the calling thread: its home, or dir
// below it, on a way through no link that leads out.
func startDir(home, dir string) (string, error) {
	if dir == "" {
		if info, err := os.Stat(home); err != nil || !info.IsDir() {
			return "/", nil // as sshd does
		}
		return home, nil
	}
	bad := func(err error) (string, error) {
		return "", dspool.Errorf(dspool.Invalid, "the app cannot start in directory %s of the home: %w", dspool.Quote(dir), err)
	}
	if rel, err := filepath.Rel(home, dir); err == nil && filepath.IsAbs(dir) {
		dir = rel
	}
	if !filepath.IsLocal(dir) || strings.ContainsRune(dir, 0) {
		return bad(errors.New("it is not below it"))
	}
	root, err := unix.Open(home, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return bad(err)
	}
	defer unix.Close(root)
	fd, err := unix.Openat2(root, dir, &unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS})
	if err == unix.EXDEV {
		return bad(errors.New("a link leads out of it"))
	}
	if err != nil {
		return bad(err)
	}
	defer unix.Close(fd)
	// The program's own chdir happens as the user: whatever is swapped meanwhile gains nothing.
	return os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
}
