package runc

import (
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// watcher learns at once when a machine's init dies.
type watcher struct {
	exited chan string
	done   chan struct{}
	wg     sync.WaitGroup

	mu      sync.Mutex
	watched map[string]*watch
	closed  bool
}

type watch struct {
	pidfd *os.File
	log   *os.File // what init wrote, on the machine's /run; nil if it could not be opened
}

func newWatcher() *watcher {
	return &watcher{exited: make(chan string), done: make(chan struct{}), watched: map[string]*watch{}}
}

// watch begins to watch process pid, unless it has died and the pid is another's.
func (w *watcher) watch(machine string, pid int, started uint64) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return // already dead: List says so
	}
	it := &watch{pidfd: os.NewFile(uintptr(fd), "pidfd")}
	if now, alive := startTime(pid); !alive || now != started {
		it.pidfd.Close()
		return
	}
	// Links in the machine's tree are the machine's: they are not followed out of it.
	if root, err := os.OpenRoot(filepath.Join("/proc", strconv.Itoa(pid), "root")); err == nil {
		it.log, _ = root.OpenFile(logInMachine, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
		root.Close()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		it.close()
		return
	}
	w.drop(machine)
	w.watched[machine] = it
	w.wg.Go(func() {
		conn, err := it.pidfd.SyscallConn()
		if err != nil {
			return
		}
		err = conn.Read(func(fd uintptr) bool {
			n, _ := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
			return n > 0
		})
		if err != nil {
			return // unwatched
		}
		select {
		case w.exited <- machine:
		case <-w.done:
		}
	})
}

// unwatch forgets a machine that is being destroyed: its death is no news.
func (w *watcher) unwatch(machine string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.drop(machine)
}

func (w *watcher) drop(machine string) {
	if it := w.watched[machine]; it != nil {
		it.close()
		delete(w.watched, machine)
	}
}

func (it *watch) close() {
	it.pidfd.Close()
	if it.log != nil {
		it.log.Close()
	}
}

// lastWords returns the last line that the machine's init wrote, for people; "" if unknown.
func (w *watcher) lastWords(machine string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	it := w.watched[machine]
	if it == nil || it.log == nil {
		return ""
	}
	info, err := it.log.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return ""
	}
	const most = 400
	data, _ := io.ReadAll(io.NewSectionReader(it.log, max(0, info.Size()-most), most))
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' { // the machine's root wrote it: nothing that a terminal obeys
			return -1
		}
		return r
	}, lines[len(lines)-1])
}

func (w *watcher) close() {
	w.mu.Lock()
	if !w.closed {
		w.closed = true
		close(w.done)
		for machine := range w.watched {
			w.drop(machine)
		}
	}
	w.mu.Unlock()
	w.wg.Wait()
}
