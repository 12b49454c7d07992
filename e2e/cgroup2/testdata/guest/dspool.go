package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// patience bounds every wait; emulated processors are slow.
const patience = 90 * time.Second

const team = `
server: {listen: "127.0.0.1:8443", subnet: 10.77.0.0/24, images: /etc/dspool/images}
users: {list: [ada]}
defaults: {user: ada, pool: batch, jobs_share: team}
sizes:
  whole: {cpus: 1, memory: 320MiB, disk: 64MiB}
  half: {cpus: 0.5, memory: 200MiB, disk: 64MiB}
shares:
  home: {mount: /home}
  team: {}
images: {guest: {}}
pools:
  batch: {image: guest, sizes: [whole, half], max: 2, shares: [home, team], internet: false, policy: {idle_after: 1h, start_timeout: 80s}}
`

// server is a dspool server that runs.
type server struct {
	state string // its state directory
	place place
	log   string
	cmd   *exec.Cmd
	ended chan error
}

// place is where a server runs.
type place struct {
	dir  string   // its control group
	wrap []string // what its command line begins with
	team string   // its configuration; team unless given
}

// command makes a command that starts in the place's control group.
func (p place) command(args ...string) (cmd *exec.Cmd, closeGroup func()) {
	args = append(slices.Clone(p.wrap), args...)
	cmd = exec.Command(args[0], args[1:]...)
	group, err := unix.Open(p.dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	must(err)
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: group, Setsid: true}
	return cmd, func() { unix.Close(group) }
}

// start starts a server.
func start(state string, p place) *server {
	s := &server{state: state, place: p, log: state + ".log", ended: make(chan error, 1)}
	must(os.MkdirAll(state, 0o711))
	config := state + ".yaml"
	must(os.WriteFile(config, []byte(cmp.Or(p.team, team)), 0o644))
	log, err := os.OpenFile(s.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	must(err)
	defer log.Close()
	cmd, closeGroup := p.command(programs+"/dspool", "server", "--config", config, "--state-dir", state, "--image-cache", imageCache)
	defer closeGroup()
	s.cmd = cmd
	s.cmd.Stdout, s.cmd.Stderr = log, log
	must(s.cmd.Start())
	go func() { s.ended <- s.cmd.Wait() }()
	return s
}

// ready waits until the server answers.
func (s *server) ready() string {
	if out, err := s.try("status", "--wait", patience.String()); err != nil {
		fail("the server does not answer: %v: %s\n%s", err, out, s.logged())
	}
	return ""
}

// stop ends the server by a signal and waits for it.
func (s *server) stop(signal os.Signal) {
	must(s.cmd.Process.Signal(signal))
	select {
	case <-s.ended:
	case <-time.After(patience):
		fail("the server did not end")
	}
}

func (s *server) logged() string {
	data, _ := os.ReadFile(s.log)
	return string(data[max(0, len(data)-3000):])
}

// try runs a command of the user's.
func (s *server) try(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, programs+"/dspool", append([]string{"--state-dir", s.state}, args...)...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return strings.TrimSpace(out.String()), err
}

// do is try that must work.
func (s *server) do(args ...string) string {
	out, err := s.try(args...)
	if err != nil {
		fail("dspool %s: %v: %s\n%s", strings.Join(args, " "), err, out, s.describe())
	}
	return out
}

// submit submits a job and returns its number.
func (s *server) submit(args ...string) string {
	var job struct{ ID int64 }
	s.decode(&job, append([]string{"job", "submit", "-o", "json"}, args...)...)
	return strconv.FormatInt(job.ID, 10)
}

func (s *server) decode(into any, args ...string) {
	out := s.do(args...)
	if err := json.Unmarshal([]byte(out), into); err != nil {
		fail("dspool %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// machines are the directories of the server's machines in the whole hierarchy, by name.
func (s *server) machines() map[string]string {
	all := map[string]string{}
	dirs, _ := filepath.Glob(filepath.Join(s.parent(), "*"))
	for _, dir := range dirs {
		if info, err := os.Stat(dir); err == nil && info.IsDir() {
			all[filepath.Base(dir)] = dir
		}
	}
	return all
}

// parent is the installation's own group.
func (s *server) parent() string {
	var found []string
	_ = filepath.WalkDir(groupRoot, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.HasPrefix(d.Name(), "dspool-") && d.Name() != "dspool-init" && !strings.HasPrefix(d.Name(), "dspool-slot-") {
			found = append(found, path)
			return filepath.SkipDir
		}
		return nil
	})
	if len(found) > 1 {
		fail("more than one installation's group: %v", found)
	}
	if len(found) == 0 {
		return ""
	}
	return found[0]
}

func (s *server) describe() string {
	jobs, _ := s.try("job", "list", "-o", "csv")
	machines, _ := s.try("machine", "list", "--all", "-o", "csv")
	return fmt.Sprintf("%s\n%s\n%s", jobs, machines, s.logged())
}

func output(program string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, program, args...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}
