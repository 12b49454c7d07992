package initd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dspool/dspool"

	"github.com/dspool/dspool/internal/asuser"
)

// Config of an init. The zero value is that of a machine.
type Config struct {
	Dir   string   // of the socket; Dir unless set
	Etc   string   // of passwd and group; /etc unless set
	Agent []string // command that is started and restarted; none if empty
	Grace time.Duration
	// MaxProcesses an attempt may have at once; 4096 unless set.
	MaxProcesses int
	Owners       string // address at which it says whose connections are; nowhere if empty
	// Scratch are the places in which users' files are removed once nothing of theirs is on the machine;
	// with none, nothing that they leave is removed.
	Scratch []string
	Log     *slog.Logger
}

// MinUID is the lowest user and group id that anything is run as.
const MinUID = 20000

// DefaultGrace is the time between SIGTERM and SIGKILL.
const DefaultGrace = 5 * time.Second

// machine is a running init.
type machine struct {
	cfg      Config
	log      *slog.Logger
	reaper   *reaper
	slots    *pool
	accounts *accounts
	tenants  tenants
	root     *asuser.Root
	null     *os.File
	queue    *fifo
	ended    chan struct{} // closed when Run is over

	mu       sync.Mutex
	attempts map[int64]*attempt
	sessions map[int64]*session
	apps     map[int64]*app
	services map[string]*keeper
	streams  map[*stream]bool
	talks    map[*talk]bool // connections
	stopping bool

	appVersion int64         // of apps; see appsMoved
	appChange  chan struct{} // closed at the next one
}

// Run is init until ctx is done: then it ends everything, SIGTERM first, and returns nil.
// It needs root. It changes the process: users' umask, no core dumps, reaper of orphans.
func Run(ctx context.Context, cfg Config) error {
	if os.Geteuid() != 0 {
		return errors.New("init must be root of its machine")
	}
	m, err := newMachine(cfg)
	if err != nil {
		return err
	}
	defer func() { close(m.ended); m.queue.close() }()
	// Whoever connects before the rest is ready waits in the socket's queue. The agent
	// enrols meanwhile.
	listener, err := m.listen()
	if err != nil {
		return err
	}
	defer listener.Close()
	owners, err := m.ownersAt()
	if err != nil {
		return err
	}
	if owners != nil {
		defer owners.Close()
		go m.serveOwners(owners)
	}
	agent := m.startAgent()
	h, err := detect()
	if err != nil {
		return fmt.Errorf("find cgroups: %w", err)
	}
	if err := h.sweep(); err != nil {
		return fmt.Errorf("clear cgroups: %w", err)
	}
	m.slots = &pool{h: h}
	for range 2 {
		go m.spawner()
	}
	go m.serve(listener)
	<-ctx.Done()
	m.log.Info("init ends", "why", context.Cause(ctx))
	m.shutdown()
	agent.stop()
	m.stopServices()
	return m.slots.close()
}

func newMachine(cfg Config) (*machine, error) {
	if cfg.Dir == "" {
		cfg.Dir = Dir
	}
	if cfg.Etc == "" {
		cfg.Etc = "/etc"
	}
	if cfg.Grace == 0 {
		cfg.Grace = DefaultGrace
	}
	if cfg.MaxProcesses == 0 {
		cfg.MaxProcesses = 4096
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	// Whatever started init may have left files open; attempts must not inherit them.
	if err := unix.CloseRange(3, ^uint(0)>>1, unix.CLOSE_RANGE_CLOEXEC); err != nil && err != unix.ENOSYS {
		return nil, fmt.Errorf("keep open files from attempts: %w", err)
	}
	// Whatever it starts has the umask of users; its own files have their modes from whoever makes them.
	unix.Umask(asuser.Umask)
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return nil, fmt.Errorf("switch core dumps off: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("become reaper: %w", err)
	}
	root, err := asuser.OpenRoot("/")
	if err != nil {
		return nil, err
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	m := &machine{
		cfg: cfg, log: cfg.Log, reaper: newReaper(), accounts: newAccounts(cfg.Etc), root: root, null: null,
		queue: newFIFO(), ended: make(chan struct{}), tenants: tenants{byUID: map[int]*tenant{}},
		attempts: map[int64]*attempt{}, sessions: map[int64]*session{}, services: map[string]*keeper{}, streams: map[*stream]bool{}, talks: map[*talk]bool{},
		apps: map[int64]*app{}, appVersion: 1, appChange: make(chan struct{}),
	}
	go m.reaper.run()
	return m, nil
}

func (m *machine) listen() (*net.UnixListener, error) {
	if err := os.MkdirAll(m.cfg.Dir, 0o700); err != nil {
		return nil, err
	}
	if err := os.Chmod(m.cfg.Dir, 0o700); err != nil {
		return nil, err
	}
	path := filepath.Join(m.cfg.Dir, SocketName)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen for the agent: %w", err)
	}
	return l, os.Chmod(path, 0o600)
}

// shutdown ends every attempt and session and waits until all have ended, or a little longer
// than the grace.
func (m *machine) shutdown() {
	m.mu.Lock()
	m.stopping = true
	var all []<-chan struct{}
	var attempts []*attempt
	for _, a := range m.attempts {
		attempts = append(attempts, a)
		all = append(all, a.over)
	}
	for _, s := range m.sessions {
		m.endSession(s, m.cfg.Grace)
		all = append(all, s.over)
	}
	m.mu.Unlock()
	for _, a := range attempts {
		m.kill(a, Kill{ID: a.spec.ID, Cause: Shutdown, Reason: dspool.Reason{Code: dspool.WhyShutDown}, Grace: m.cfg.Grace})
	}
	late := time.After(m.cfg.Grace + 2*time.Second)
	for _, over := range all {
		select {
		case <-over:
		case <-late:
			return
		}
	}
}
