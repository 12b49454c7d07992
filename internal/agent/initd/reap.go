package initd

import (
	"sync"
	"syscall"
	"time"
)

// reaper waits for every child of this process, also for orphans that become its children.
type reaper struct {
	mu       sync.Mutex
	watched  map[int]func(syscall.WaitStatus, time.Time)
	spawning int
	// early holds children that ended before their spawner told their pid.
	early map[int]earlyExit
	forks uint64
	woken chan struct{} // there may be children again
}

type earlyExit struct {
	status syscall.WaitStatus
	at     time.Time
	fork   uint64 // count of forks begun when it ended
}

func newReaper() *reaper {
	return &reaper{watched: map[int]func(syscall.WaitStatus, time.Time){}, early: map[int]earlyExit{}, woken: make(chan struct{}, 1)}
}

// spawn calls fork and has ended called once with the child's end, however early that was.
// started runs before ended can.
func (r *reaper) spawn(fork func() (int, error), started func(pid int), ended func(syscall.WaitStatus, time.Time)) error {
	r.mu.Lock()
	r.spawning++
	r.forks++
	mine := r.forks
	r.mu.Unlock()
	pid, err := fork()
	select {
	case r.woken <- struct{}{}:
	default:
	}
	if err == nil {
		started(pid)
	}
	r.mu.Lock()
	r.spawning--
	// An entry from before this fork is of an earlier process with the same pid.
	e, over := r.early[pid]
	over = over && err == nil && e.fork >= mine
	if err == nil && !over {
		r.watched[pid] = ended
	}
	if over {
		delete(r.early, pid)
	}
	if r.spawning == 0 {
		clear(r.early)
	}
	r.mu.Unlock()
	if over {
		ended(e.status, e.at)
	}
	return err
}

// run waits for ever.
func (r *reaper) run() {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case err == syscall.EINTR:
			continue
		case err != nil: // no children
			<-r.woken
			continue
		case !status.Exited() && !status.Signaled():
			continue
		}
		now := time.Now()
		r.mu.Lock()
		ended, ok := r.watched[pid]
		if ok {
			delete(r.watched, pid)
		} else if r.spawning > 0 {
			r.early[pid] = earlyExit{status, now, r.forks}
		}
		r.mu.Unlock()
		if ok {
			ended(status, now)
		}
	}
}
