package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// jumpUser is an account that every host has; forwarding needs no shell.
const jumpUser = "nobody"

// jumpHost is an OpenSSH sshd on loopback that forwards: what people use where there is no dspool.
// There is one process of it for a connection, as OpenSSH's own listener would start it.
type jumpHost struct {
	port     int
	argv     []string
	log      *os.File
	ctx      context.Context
	cancel   context.CancelFunc
	listener net.Listener
	wait     sync.WaitGroup
	madeRun  bool

	mu    sync.Mutex
	spent time.Duration // on cores, by connections that have ended
	live  int
}

// privilegeSeparation is where sshd wants a directory.
const privilegeSeparation = "/run/sshd"

// startJump starts a jump host in a directory of its own, which lets in whoever has the key.
func startJump(ctx context.Context, dir, logs, authorized string) (_ *jumpHost, err error) {
	sshd, err := findSshd()
	if err != nil {
		return nil, err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	if _, _, err := newKey(filepath.Join(dir, "host")); err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "sshd_config")
	text := fmt.Sprintf(`HostKey %s
AuthorizedKeysFile %s
AuthenticationMethods publickey
StrictModes no
UsePAM no
UseDNS no
AllowTcpForwarding yes
Compression no
PrintMotd no
PrintLastLog no
LogLevel ERROR
PidFile none
`, filepath.Join(dir, "host"), authorized)
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		return nil, err
	}
	j := &jumpHost{argv: []string{sshd, "-i", "-e", "-f", config}}
	if j.log, err = os.Create(filepath.Join(logs, "jump.log")); err != nil {
		return nil, err
	}
	if err := os.Mkdir(privilegeSeparation, 0o755); err == nil {
		j.madeRun = true
	} else if !errors.Is(err, os.ErrExist) {
		return nil, errors.Join(err, j.log.Close())
	}
	if j.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return nil, errors.Join(err, j.log.Close())
	}
	j.port = j.listener.Addr().(*net.TCPAddr).Port
	j.ctx, j.cancel = context.WithCancel(ctx)
	j.wait.Go(j.serve)
	return j, nil
}

// findSshd also looks where only root's own PATH leads.
func findSshd() (string, error) {
	for _, name := range []string{"sshd", "/usr/sbin/sshd"} {
		if path, err := exec.LookPath(name); err == nil {
			return filepath.Abs(path) // sshd refuses to start by another name
		}
	}
	return "", errors.New("there is no sshd on this host: install openssh-server")
}

func (j *jumpHost) serve() {
	for {
		c, err := j.listener.Accept()
		if err != nil {
			return
		}
		f, err := c.(*net.TCPConn).File()
		c.Close()
		if err != nil {
			continue
		}
		cmd := exec.CommandContext(j.ctx, j.argv[0], j.argv[1:]...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = f, f, j.log
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		err = cmd.Start()
		f.Close()
		if err != nil {
			progress("jump host: %v", err)
			continue
		}
		j.count(1, 0)
		j.wait.Go(func() {
			spent, _ := watch(cmd) // clients just go away
			j.count(-1, spent)
		})
	}
}

// watchEvery is how often processes are looked at.
const watchEvery = 20 * time.Millisecond

// watch waits for a command's end and returns the time on cores that it and its children took, as
// last seen: neither sshd nor ssh waits for the child that does half of the work.
func watch(cmd *exec.Cmd) (spent time.Duration, err error) {
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	look := time.NewTicker(watchEvery)
	defer look.Stop()
	for {
		select {
		case err := <-ended:
			return max(spent, cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime()), err
		case <-look.C:
			spent = max(spent, familyUsage(cmd.Process.Pid))
		}
	}
}

// familyUsage is the time on cores of a process and of everything it has started.
func familyUsage(pid int) time.Duration {
	u, err := usageOf(pid)
	if err != nil {
		return 0
	}
	sum := u.own + u.children
	children, _ := childrenOf(pid)
	for _, child := range children {
		sum += familyUsage(child)
	}
	return sum
}

func (j *jumpHost) count(n int, spent time.Duration) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.live += n
	j.spent += spent
}

// used waits for open connections to end and returns the time on cores that all have taken.
func (j *jumpHost) used(ctx context.Context) (spent time.Duration, err error) {
	err = until(ctx, "the end of the jump host's connections", loginWithin, func() (bool, error) {
		j.mu.Lock()
		defer j.mu.Unlock()
		spent = j.spent
		return j.live == 0, nil
	})
	return spent, err
}

func (j *jumpHost) stop() {
	j.listener.Close()
	j.cancel()
	j.wait.Wait()
	j.log.Close()
	if j.madeRun {
		_ = os.Remove(privilegeSeparation)
	}
}
