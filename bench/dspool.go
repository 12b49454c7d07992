package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/client"
	"github.com/dspool/dspool/internal/gateway"
	"github.com/dspool/dspool/internal/hostnet"
	"github.com/dspool/dspool/internal/provider/runc"
	"github.com/dspool/dspool/internal/store"
	"golang.org/x/sys/unix"
)

// Pools: four warm machines for tasks; one made again and again; one that is always full, so
// that what is submitted to it waits.
const (
	poolTasks = "tasks"
	poolOne   = "one"
	poolFull  = "full"
)

const batchTeam = `
server: {listen: "127.0.0.1:0"}
users: {list: [{name: ada}]}
defaults: {user: ada, pool: tasks, jobs_share: team}
sizes: {small: {cpus: 1, memory: 2GiB, disk: 1GiB}}
shares: {home: {mount: /home}, team: {mount: /mnt/team}}
images: {minimal: {}}
pools:
  tasks: {image: minimal, sizes: [small], min: 0, max: 4, shares: [home, team], policy: {idle_after: 30m}}
  one: {image: minimal, sizes: [small], min: 0, max: 1, shares: [home, team], policy: {idle_after: 30m}}
  full: {image: minimal, sizes: [small], min: 0, max: 1, shares: [home, team], policy: {idle_after: 30m}}
`

// How long things may take before the benchmark gives up.
const (
	startWithin   = 30 * time.Second
	imageWithin   = 15 * time.Minute
	machineWithin = time.Minute
	tasksWithin   = 3 * time.Minute
	goneWithin    = time.Minute
)

// server is a running dspool server with a state directory of its own.
type server struct {
	*client.Client
	o    options
	dir  string
	log  string
	cmd  *exec.Cmd
	done chan struct{}
}

// newServer prepares a server whose team.yaml is text; its log is named like its directory.
func newServer(o options, dir, text string) (*server, error) {
	s := &server{o: o, dir: dir, log: filepath.Join(o.out, filepath.Base(dir)+".log")}
	if err := os.Mkdir(dir, 0o711); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "team.yaml"), []byte(text), 0o644); err != nil {
		return nil, err
	}
	if err := os.Remove(s.log); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var err error
	s.Client, err = client.New(client.Options{Socket: filepath.Join(dir, "dspool.sock")})
	return s, err
}

// start executes the server and returns how long it took until it answered on its socket.
func (s *server) start(ctx context.Context) (time.Duration, error) {
	log, err := os.OpenFile(s.log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return 0, err
	}
	defer log.Close()
	s.cmd = exec.Command(s.o.dspool, "server", "--config", filepath.Join(s.dir, "team.yaml"), "--state-dir", s.dir, "--runc", s.o.runc)
	s.cmd.Stdout, s.cmd.Stderr = log, log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	begun := time.Now()
	if err := s.cmd.Start(); err != nil {
		return 0, err
	}
	s.done = make(chan struct{})
	go func(cmd *exec.Cmd, done chan struct{}) {
		_ = cmd.Wait()
		close(done)
	}(s.cmd, s.done)
	for {
		_, err := s.Status(ctx)
		took := time.Since(begun)
		if err == nil {
			return took, nil
		}
		if took > startWithin {
			return 0, fmt.Errorf("the server does not answer after %s: %w", startWithin, err)
		}
		select {
		case <-s.done:
			return 0, fmt.Errorf("the server ended; its log is %s", s.log)
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(time.Millisecond):
		}
	}
}

// with starts the server, has fn measure, and removes every trace.
func (s *server) with(ctx context.Context, fn func() error) (err error) {
	defer func() {
		progress("removing what was started")
		s.stop()
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), goneWithin)
		defer cancel()
		err = errors.Join(err, removeInstallation(clean, s.dir))
	}()
	if _, err := s.start(ctx); err != nil {
		return err
	}
	return fn()
}

// stop ends the server; machines, jobs and the gateway live on.
func (s *server) stop() {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.done:
	case <-time.After(startWithin):
		_ = s.cmd.Process.Kill()
		<-s.done
	}
	s.cmd = nil
}

func (s *server) pid() int { return s.cmd.Process.Pid }

// removeInstallation takes everything of a server that has ended from this host: machines,
// network, control groups.
func removeInstallation(ctx context.Context, dir string) error {
	if _, err := os.Stat(filepath.Join(dir, "state.db")); err != nil {
		return nil // it never came to be
	}
	// A killed run's server gets the signal to end at that moment, and needs one more to do so.
	err := until(ctx, "the end of the server in "+dir, startWithin, func() (bool, error) {
		lock, err := holdLock(filepath.Join(dir, "server.lock"))
		if err != nil {
			return false, nil
		}
		return true, lock.Close()
	})
	if err != nil {
		return err
	}
	if err := stopGateway(ctx, dir); err != nil {
		return err
	}
	db, err := store.Open(ctx, filepath.Join(dir, "state.db"))
	if err != nil {
		return fmt.Errorf("find installation: %w", err)
	}
	id := db.Installation()
	if err := db.Close(); err != nil {
		return err
	}
	network, err := hostnet.Open(ctx, hostnet.Options{Installation: id, StateDir: filepath.Join(dir, "network"), AgentPort: 8444})
	if err != nil {
		return err
	}
	defer network.Close()
	machines, err := runc.Open(ctx, runc.Config{StateDir: filepath.Join(dir, "runc"), Installation: id, Runc: "runc", Network: network})
	if err != nil {
		return err
	}
	defer machines.Close()
	if err := machines.Remove(ctx); err != nil {
		return fmt.Errorf("remove installation %s: %w", id, err)
	}
	return nil
}

// stopGateway ends the gateway of a server that has ended, if it has one.
func stopGateway(ctx context.Context, dir string) error {
	g, err := gateway.ReadStatus(ctx, dir)
	if err != nil {
		return nil // none runs
	}
	if err := unix.Kill(g.PID, unix.SIGTERM); err != nil {
		return fmt.Errorf("stop the gateway: %w", err)
	}
	return until(ctx, "the end of the gateway", startWithin, func() (bool, error) {
		stat, err := statOf(g.PID)
		return err != nil || stat[0] == "Z", nil
	})
}

const askEvery = 5 * time.Millisecond

// until calls fn again and again until it says yes.
func until(ctx context.Context, what string, within time.Duration, fn func() (bool, error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, within, fmt.Errorf("%s: not within %s", what, within))
	defer cancel()
	for {
		ok, err := fn()
		if ok || (err != nil && ctx.Err() == nil) {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(askEvery):
		}
	}
}

// resize sets how many machines of a pool there are, and waits until it is so.
func (s *server) resize(ctx context.Context, pool string, n int) ([]dspool.Machine, error) {
	if _, err := s.ResizePool(ctx, pool, api.ResizeRequest{Min: &n}); err != nil {
		return nil, err
	}
	list, err := s.Machines(ctx, pool, false)
	if err != nil {
		return nil, err
	}
	for i := n; i < len(list.Items); i++ {
		if _, err := s.RemoveMachine(ctx, list.Items[i].Name, true); err != nil {
			return nil, err
		}
	}
	err = until(ctx, fmt.Sprintf("%d machines in pool %s", n, pool), machineWithin, func() (bool, error) {
		list, err = s.Machines(ctx, pool, false)
		ready := 0
		for _, m := range list.Items {
			if m.State == dspool.Ready {
				ready++
			}
		}
		return ready == n && len(list.Items) == n, err
	})
	return list.Items, err
}

// waitImage waits until machines can be made of an image.
func (s *server) waitImage(ctx context.Context, name string) (image dspool.Image, err error) {
	told := false
	err = until(ctx, "image "+name, imageWithin, func() (bool, error) {
		list, err := s.Images(ctx)
		if err != nil {
			return false, err
		}
		for _, image = range list.Items {
			if image.Name != name {
				continue
			}
			if image.State == dspool.ImageFailed {
				return false, fmt.Errorf("image %s could not be built: %s", name, image.Reason)
			}
			if image.State != dspool.ImageReady && !told {
				told = true
				progress("building image %s (cached for the next run)", name)
			}
			return image.State == dspool.ImageReady, nil
		}
		return false, nil
	})
	return image, err
}

// run submits a job and waits for its end; it must succeed. It returns the time that took.
func (s *server) run(ctx context.Context, spec dspool.JobSpec) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, tasksWithin)
	defer cancel()
	begun := time.Now()
	job, err := s.Submit(ctx, api.SubmitRequest{JobSpec: spec})
	if err != nil {
		return 0, err
	}
	for state, err := range s.StreamJob(ctx, job.ID) {
		if err != nil {
			return 0, fmt.Errorf("wait for job %d: %w", job.ID, err)
		}
		job = state
	}
	took := time.Since(begun)
	if job.State != dspool.JobSucceeded {
		return 0, fmt.Errorf("job %d %s: %s", job.ID, job.State, job.Reason)
	}
	return took, nil
}
