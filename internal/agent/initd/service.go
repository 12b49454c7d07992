package initd

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dspool/dspool"
)

// Service is a program of the machine that init keeps running, as root.
type Service struct {
	Name    string   `json:"name"`
	Command []string `json:"command,omitempty"` // an absolute path first; none stops the service
	// Version is that of its configuration: another one restarts it.
	Version string `json:"version,omitempty"`
}

// ServiceStatus is how a service is.
type ServiceStatus struct {
	Name string `json:"name"`
	PID  int    `json:"pid,omitempty"` // 0 while it does not run
	// Failures in a row: it has ended so often, each time soon after it was started.
	Failures int    `json:"failures,omitempty"`
	Said     string `json:"said,omitempty"` // its last words, at most 2 KiB
}

func (s Service) same(o Service) bool {
	return s.Version == o.Version && slices.Equal(s.Command, o.Command)
}

// serviceWanted starts, restarts or stops a service; it does not wait.
func (m *machine) serviceWanted(s Service) error {
	if err := dspool.CheckName("service", s.Name); err != nil {
		return err
	}
	if len(s.Command) > 0 && !filepath.IsAbs(s.Command[0]) {
		return dspool.Errorf(dspool.Invalid, "the program %s of service %s is not an absolute path", dspool.Quote(s.Command[0]), s.Name)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	old := m.services[s.Name]
	switch {
	case m.stopping:
		return errors.New("the machine is shutting down")
	case old != nil && old.spec.same(s), old == nil && len(s.Command) == 0:
		return nil
	}
	if old != nil {
		delete(m.services, s.Name)
		go old.stop()
	}
	if len(s.Command) == 0 {
		return nil
	}
	k, err := newKeeper(m, s)
	if err != nil {
		return err
	}
	m.services[s.Name] = k
	go func() {
		if old != nil {
			<-old.gone // it may hold a port
		}
		k.run()
	}()
	return nil
}

func (m *machine) listServices() []ServiceStatus {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := make([]ServiceStatus, 0, len(m.services))
	for _, k := range m.services {
		list = append(list, k.status())
	}
	slices.SortFunc(list, func(a, b ServiceStatus) int { return cmp.Compare(a.Name, b.Name) })
	return list
}

func (m *machine) stopServices() {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all sync.WaitGroup
	for _, k := range m.services {
		all.Go(k.stop)
	}
	all.Wait()
}

// keeper keeps a program running: the agent, or a service.
type keeper struct {
	m    *machine
	spec Service
	out  int // what its standard output and error are
	said *tail

	mu       sync.Mutex
	pid      int
	failures int
	stopped  bool
	quit     chan struct{} // closed by stop
	gone     chan struct{} // closed when it has ended after stop
}

func (m *machine) startAgent() *keeper {
	k := &keeper{m: m, spec: Service{Name: "agent", Command: m.cfg.Agent}, out: 2, quit: make(chan struct{}), gone: make(chan struct{})}
	if len(m.cfg.Agent) == 0 {
		close(k.gone)
		return k
	}
	go k.run()
	return k
}

// newKeeper keeps the last words of a service, and no more of them: a service may talk for ever.
func newKeeper(m *machine, s Service) (*keeper, error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return nil, fmt.Errorf("make a pipe for service %s: %w", s.Name, err)
	}
	k := &keeper{m: m, spec: s, out: p[1], said: &tail{}, quit: make(chan struct{}), gone: make(chan struct{})}
	go func() {
		r := os.NewFile(uintptr(p[0]), s.Name)
		defer r.Close()
		buf := make([]byte, 1024)
		for {
			n, err := r.Read(buf)
			k.said.add(buf[:n])
			if err != nil {
				return
			}
		}
	}()
	return k, nil
}

// run starts it again and again until it is stopped.
func (k *keeper) run() {
	defer close(k.gone)
	if k.said != nil {
		defer unix.Close(k.out)
	}
	const first, most, steady = 100 * time.Millisecond, 10 * time.Second, 30 * time.Second
	wait := time.Duration(0)
	for {
		begun := time.Now()
		status, err := k.once()
		k.mu.Lock()
		pid := k.pid
		k.pid = 0
		k.failures++
		if time.Since(begun) > steady {
			wait, k.failures = 0, 1
		}
		stopped := k.stopped
		k.mu.Unlock()
		k.m.heardOut(pid)
		if stopped {
			return
		}
		k.m.log.Error("a service ended and is started again", "service", k.spec.Name, "status", status, "error", err, "wait", wait)
		select {
		case <-time.After(wait):
		case <-k.quit:
			return
		case <-k.m.ended:
			return
		}
		wait = min(most, max(first, 2*wait))
	}
}

func (k *keeper) once() (string, error) {
	done := make(chan syscall.WaitStatus, 1)
	err := k.m.reaper.spawn(func() (int, error) {
		argv := k.spec.Command
		return syscall.ForkExec(argv[0], argv, &syscall.ProcAttr{
			Dir: "/", Env: os.Environ(), Files: []uintptr{k.m.null.Fd(), uintptr(k.out), uintptr(k.out)},
		})
	}, func(pid int) {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.pid = pid
		if k.stopped {
			_ = unix.Kill(pid, unix.SIGTERM)
		}
	}, func(ws syscall.WaitStatus, _ time.Time) { done <- ws })
	if err != nil {
		return "", fmt.Errorf("start %s: %w", k.spec.Name, err)
	}
	ws := <-done
	if ws.Signaled() {
		return "signal " + ws.Signal().String(), nil
	}
	return fmt.Sprintf("exit code %d", ws.ExitStatus()), nil
}

// stop ends it: it has two seconds for what it still has to do. Only it is ended, not what it
// has started: an sshd leaves its connections alone.
func (k *keeper) stop() {
	signal := func(s syscall.Signal) {
		k.mu.Lock()
		defer k.mu.Unlock()
		if !k.stopped {
			k.stopped = true
			close(k.quit)
		}
		if k.pid != 0 {
			_ = unix.Kill(k.pid, s)
		}
	}
	signal(unix.SIGTERM)
	select {
	case <-k.gone:
		return
	case <-time.After(2 * time.Second):
	}
	signal(unix.SIGKILL)
}

func (k *keeper) status() ServiceStatus {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := ServiceStatus{Name: k.spec.Name, PID: k.pid, Failures: k.failures}
	if k.said != nil {
		s.Said = k.said.String()
	}
	return s
}

// tail keeps the end of what is added to it.
type tail struct {
	mu   sync.Mutex
	text []byte
}

const tailBytes = 2048

func (t *tail) add(b []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, b...)
	if over := len(t.text) - tailBytes; over > 0 {
		t.text = append(t.text[:0], t.text[over:]...)
	}
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.ToValidUTF8(strings.TrimSpace(string(t.text)), "?")
}
