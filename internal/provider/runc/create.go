package runc

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/provider"
	"golang.org/x/sys/unix"
)

// undoTimeout bounds the undoing of a creation that failed, its own context may have ended.
const undoTimeout = 30 * time.Second

// Create makes and starts the machine. Remains of a machine of that name whose making
// was interrupted, or whose init has died, are removed first.
func (p *Provider) Create(ctx context.Context, spec provider.MachineSpec) (provider.Handle, error) {
	if err := p.check(spec); err != nil {
		return provider.Handle{}, err
	}
	unlock, err := p.lock(ctx, spec.Name)
	if err != nil {
		return provider.Handle{}, fmt.Errorf("create machine %s: %w", spec.Name, err)
	}
	defer unlock()
	r, ok, err := load(p.cfg, spec.Name)
	if err != nil {
		return provider.Handle{}, err
	}
	if ok && r.running(p.cfg) {
		return r.handle(), nil
	}
	if err := p.destroy(ctx, spec.Name); err != nil {
		return provider.Handle{}, fmt.Errorf("remove remains of machine %s: %w", spec.Name, err)
	}
	select {
	case p.slots <- struct{}{}:
		defer func() { <-p.slots }()
	case <-ctx.Done():
		return provider.Handle{}, fmt.Errorf("create machine %s: %w", spec.Name, ctx.Err())
	}
	if err := p.room(); err != nil {
		return provider.Handle{}, err
	}
	r, err = p.create(ctx, spec)
	if err != nil {
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
		defer cancel()
		if undone := p.destroy(undo, spec.Name); undone != nil {
			err = errors.Join(err, fmt.Errorf("undo: %w", undone))
		}
		return provider.Handle{}, fmt.Errorf("create machine %s: %w", spec.Name, err)
	}
	return r.handle(), nil
}

// check refuses what this host can never make.
func (p *Provider) check(spec provider.MachineSpec) error {
	if err := spec.Check(); err != nil {
		return err
	}
	if spec.Resources.GPUs > 0 {
		return dspool.Errorf(dspool.Invalid, "machine %s asks for %d gpus", spec.Name, spec.Resources.GPUs).WithHint("the embedded provider gives none")
	}
	if spec.UIDs == (dspool.UIDRange{}) {
		return dspool.Errorf(dspool.Invalid, "machine %s has no range of user ids", spec.Name)
	}
	if err := isDirectory("image", spec.Image); err != nil {
		return err
	}
	for _, m := range spec.Mounts {
		if err := isDirectory("share", m.Source); err != nil {
			return err
		}
	}
	return nil
}

func isDirectory(noun, path string) error {
	if !filepath.IsAbs(path) {
		return dspool.Errorf(dspool.Invalid, "%s %s is not an absolute path", noun, dspool.Quote(path))
	}
	info, err := os.Stat(path)
	if err != nil {
		return dspool.Errorf(dspool.Invalid, "%s %s: %w", noun, dspool.Quote(path), err)
	}
	if !info.IsDir() {
		return dspool.Errorf(dspool.Invalid, "%s %s is not a directory", noun, dspool.Quote(path))
	}
	return nil
}

// room refuses when the disk is nearly full: machines that run need the rest.
func (p *Provider) room() error {
	var fs unix.Statfs_t
	if err := unix.Statfs(p.cfg.StateDir, &fs); err != nil {
		return fmt.Errorf("read free space: %w", err)
	}
	if free := int64(fs.Bavail) * fs.Bsize; free < p.cfg.ReserveDisk {
		return dspool.Errorf(dspool.Unavailable, "no machine is made: %s has %s free, %s are kept in reserve",
			p.cfg.StateDir, dspool.FormatBytes(free), dspool.FormatBytes(p.cfg.ReserveDisk)).WithHint("free some disk space")
	}
	return nil
}

// create does the steps. Whatever it leaves behind when it fails, or is killed, destroy removes.
func (p *Provider) create(ctx context.Context, spec provider.MachineSpec) (record, error) {
	r := record{Name: spec.Name, CPUs: spec.Resources.CPUs, Boot: bootID()}
	for _, m := range spec.Mounts {
		r.Mounts = append(r.Mounts, m.Target)
	}
	dir := machineDir(p.cfg, spec.Name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return r, err
	}
	if err := p.step("directory"); err != nil {
		return r, err
	}
	private, err := takeRange(ctx, p.cfg, spec.Name)
	if err != nil {
		return r, err
	}
	if err := p.step("ids"); err != nil {
		return r, err
	}
	if spec.Disk > 0 && disksWork() {
		err = makeDisk(ctx, p.cfg, spec.Name, spec.Disk)
	} else {
		err = os.Mkdir(diskFile(p.cfg, spec.Name), 0o700)
	}
	if err != nil {
		return r, fmt.Errorf("make disk: %w", err)
	}
	if err := p.step("disk"); err != nil {
		return r, err
	}
	r.Cores = p.cores.choose(spec.Name, spec.Resources.CPUs)
	if err := inMountNamespace(func() error { return p.contain(ctx, spec, r, private) }); err != nil {
		return r, err
	}
	if err := p.step("container"); err != nil {
		return r, err
	}
	if r.PID, r.Started, err = readPID(dir); err != nil {
		return r, err
	}
	if err := p.groups.delegate(spec.Name, private); err != nil {
		return r, err
	}
	if err := p.step("delegated"); err != nil {
		return r, err
	}
	if r.Address, err = p.cfg.Network.Plug(ctx, spec.Name, r.PID, spec.Reach); err != nil {
		return r, fmt.Errorf("plug into network: %w", err)
	}
	// Nothing of the machine has run yet, so this is the root file system as we made it.
	if err := writeEtc(fmt.Sprintf("/proc/%d/root", r.PID), private, map[string]string{"hosts": hosts(r)}); err != nil {
		return r, err
	}
	if err := p.step("plugged"); err != nil {
		return r, err
	}
	if err := r.save(p.cfg); err != nil {
		return r, fmt.Errorf("save record: %w", err)
	}
	p.watcher.watch(r.Name, r.PID, r.Started)
	if err := p.step("recorded"); err != nil {
		return r, err
	}
	if err := release(ctx, p.cfg, r); err != nil {
		return r, err
	}
	return r, p.step("started")
}

func hosts(r record) string {
	address := r.Address
	if !address.IsValid() {
		address = netip.MustParseAddr("127.0.1.1")
	}
	return fmt.Sprintf("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n%s\t%s\n", address, r.Name)
}

// contain mounts the machine's root file system and makes its container, whose init
// waits to be released. It runs in a mount namespace of its own.
func (p *Provider) contain(ctx context.Context, spec provider.MachineSpec, r record, private int) error {
	s, dir := stageOf(p.cfg), machineDir(p.cfg, spec.Name)
	users, err := newUserNamespace(private, spec.UIDs)
	if err != nil {
		return err
	}
	defer users.close()
	if err := s.mountImage(spec.Image, users); err != nil {
		return err
	}
	disk := diskFile(p.cfg, spec.Name)
	if info, err := os.Stat(disk); err == nil && info.IsDir() {
		err = s.bindDirectory(disk)
		if err != nil {
			return err
		}
	} else if err := mountDisk(disk, s.disk()); err != nil {
		return err
	}
	if err := s.mountRoot(private); err != nil {
		return err
	}
	etc := map[string]string{"hostname": spec.Name + "\n", "resolv.conf": fmt.Sprintf("nameserver %s\n", p.cfg.Network.Nameserver())}
	if err := writeEtc(s.root(), private, etc); err != nil {
		return err
	}
	boot, err := json.Marshal(spec.Agent)
	if err != nil {
		return err
	}
	log, err := s.mountRun(private, spec.Resources.Memory, boot)
	if err != nil {
		return err
	}
	defer log.Close()
	if err := s.mountCovers(spec.Mounts); err != nil {
		return err
	}
	if err := writeBundle(p.cfg, p.groups, spec, r.Cores, users.path()); err != nil {
		return err
	}
	if err := p.step("mounts"); err != nil {
		return err
	}
	return runcCreate(ctx, p.cfg, spec.Name, dir, log)
}

// limits is a script that lowers limits, which init inherits, and becomes its arguments:
// no core dumps, an ordinary number of open files that programs may raise. runc itself
// would need a capability for that which a server in a container does not have.
const limits = `ulimit -c 0; test "$(ulimit -H -n)" -le 524288 2>/dev/null || ulimit -H -n 524288; ulimit -S -n 1024; exec "$@"`

// runcCreate runs "runc create". The runc process, should it outlive this one, holds
// the machine's lock: destroy waits for its end.
func runcCreate(ctx context.Context, cfg Config, name, dir string, log *os.File) error {
	lock, err := lockFile(ctx, filepath.Join(dir, "lock"))
	if err != nil {
		return err
	}
	defer lock.Close()
	logFile := filepath.Join(dir, "runc.log")
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", limits, "sh", cfg.Runc, "--root", runcRoot(cfg), "--log", logFile, "--log-format", "json",
		"create", "--bundle", dir, "--pid-file", filepath.Join(dir, "pid"), name)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{lock}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("runc create: %w: %s", err, runcError(logFile))
	}
	return nil
}

// runcError returns what runc logged last.
func runcError(logFile string) string {
	data, _ := os.ReadFile(logFile)
	lines := bytes.Split(bytes.TrimSpace(data), []byte("\n"))
	var entry struct{ Msg string }
	_ = json.Unmarshal(lines[len(lines)-1], &entry)
	return firstLine([]byte(entry.Msg))
}

func firstLine(b []byte) string {
	line, _, _ := strings.Cut(strings.TrimSpace(string(b)), "\n")
	return line
}

func readPID(dir string) (pid int, started uint64, err error) {
	data, err := os.ReadFile(filepath.Join(dir, "pid"))
	if err != nil {
		return 0, 0, err
	}
	if pid, err = strconv.Atoi(string(data)); err != nil {
		return 0, 0, fmt.Errorf("read pid of init: %w", err)
	}
	started, alive := startTime(pid)
	if !alive {
		return 0, 0, errors.New("init died before its start")
	}
	return pid, started, nil
}

// release lets the container's init go. It does what "runc start" does, reading from
// the fifo that init waits at and removing it, without starting a process for it.
func release(ctx context.Context, cfg Config, r record) error {
	path := fifo(cfg, r.Name)
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("start init: %w", err)
	}
	defer unix.Close(fd)
	pidfd, err := unix.PidfdOpen(r.PID, 0)
	if err != nil {
		return fmt.Errorf("start init: %w", err)
	}
	defer unix.Close(pidfd)
	for {
		wait := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}, {Fd: int32(pidfd), Events: unix.POLLIN}}
		if _, err := unix.Poll(wait, 100); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("start init: %w", err)
		}
		if wait[0].Revents&unix.POLLIN != 0 {
			break
		}
		if wait[1].Revents != 0 {
			return errors.New("start init: it died before its start")
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	if n, err := unix.Read(fd, make([]byte, 1)); err != nil || n != 1 {
		return fmt.Errorf("start init: read fifo: %d bytes, %w", n, err)
	}
	return os.Remove(path)
}
