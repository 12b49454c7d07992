package e2e_test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// Named timeouts: how long what always happens may take on a busy machine.
const (
	startTimeout = 30 * time.Second // server answers
	imageTimeout = 5 * time.Minute  // image minimal is built; afterwards it is cached
	stopTimeout  = 20 * time.Second // server ends after SIGTERM
	reapTimeout  = 5 * time.Second  // the host reaps processes that have ended
)

// world is what one script has on the host.
type world struct {
	t       testscript.T
	work    string
	bin     string
	servers map[string]*server
	ports   map[string]*listener

	variables []string // that commands here set
}

// server is one state directory and, while it runs, its process.
type server struct {
	name, state, config, log string
	installation             string
	url                      string
	tokens                   map[string]string // by user
	cmd                      *exec.Cmd
	done                     chan struct{} // closed when cmd has ended
}

type worldKey struct{}

func worldOf(ts *testscript.TestScript) *world { return ts.Value(worldKey{}).(*world) }

func setup(env *testscript.Env, bin string) error {
	w := &world{t: env.T(), work: env.WorkDir, bin: bin, servers: map[string]*server{}, ports: map[string]*listener{}}
	env.Values[worldKey{}] = w
	env.Defer(w.cleanUp)
	if err := os.Chmod(w.work, 0o755); err != nil {
		return err
	}
	config := filepath.Join(w.work, "team.yaml")
	if _, err := os.Stat(config); os.IsNotExist(err) {
		if err := os.WriteFile(config, []byte(team), 0o644); err != nil {
			return err
		}
	}
	env.Setenv("PATH", bin+":"+env.Getenv("PATH"))
	env.Setenv("DSPOOL_STATE_DIR", filepath.Join(w.work, "main"))
	env.Setenv("SHARE", filepath.Join(w.work, "main", "shares", "team"))
	source, err := filepath.Abs("..")
	if err != nil {
		return err
	}
	env.Setenv("SOURCE", source) // the repository
	env.Setenv("HOMES", filepath.Join(w.work, "main", "shares", "home"))
	return nil
}

// server returns the server called so, running or not.
func (w *world) server(name string) *server {
	s := w.servers[name]
	if s == nil {
		s = &server{
			name: name, state: filepath.Join(w.work, name), log: filepath.Join(w.work, name+".log"),
			config: filepath.Join(w.work, name+".yaml"), tokens: map[string]string{},
		}
		if _, err := os.Stat(s.config); err != nil {
			s.config = filepath.Join(w.work, "team.yaml")
		}
		w.servers[name] = s
	}
	return s
}

// move moves the state of a server that does not run to where that of another would lie.
func (w *world) move(from, to string) error {
	s := w.server(from)
	if s.running() {
		return fmt.Errorf("server %s runs", from)
	}
	delete(w.servers, from)
	return os.Rename(s.state, w.server(to).state)
}

func cache() string { return cmp.Or(os.Getenv("DSPOOL_TEST_CACHE"), "/var/cache/dspool/images") }

// start starts the server, where kept is set on what was applied last, and waits until it answers and its machines' image
// is there.
func (w *world) start(s *server, kept bool) error {
	if s.running() {
		return fmt.Errorf("server %s runs already", s.name)
	}
	log, err := os.OpenFile(s.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	before, err := log.Seek(0, 2)
	if err != nil {
		return err
	}
	args := []string{"server", "--state-dir", s.state, "--image-cache", cache()}
	if !kept {
		args = append(args, "--config", s.config)
	}
	s.cmd = exec.Command(filepath.Join(w.bin, "dspool"), args...)
	s.cmd.Stdout, s.cmd.Stderr = log, log
	if err := s.cmd.Start(); err != nil {
		return err
	}
	s.done = make(chan struct{})
	go func(cmd *exec.Cmd, done chan struct{}) {
		_ = cmd.Wait() // how it ended is seen by the script
		close(done)
	}(s.cmd, s.done)
	if err := s.serving(before); err != nil {
		return err
	}
	return w.ready(s)
}

var servingLine = regexp.MustCompile(`msg=serving .*api=(https://\S+).* installation=(\w+)`)

// serving waits for the line with which a server says that it serves.
func (s *server) serving(from int64) error {
	for deadline := time.Now().Add(startTimeout); ; time.Sleep(20 * time.Millisecond) {
		ended := !s.running()
		text, err := os.ReadFile(s.log)
		if err != nil {
			return err
		}
		if m := servingLine.FindSubmatch(text[min(from, int64(len(text))):]); m != nil {
			s.url, s.installation = string(m[1]), string(m[2])
			return nil
		}
		if ended || time.Now().After(deadline) {
			return fmt.Errorf("server %s does not serve:\n%s", s.name, text[from:])
		}
	}
}

// ready waits until the image of the machines is built.
func (w *world) ready(s *server) error {
	text, err := os.ReadFile(s.config)
	if err != nil {
		return err
	}
	for _, image := range []string{"minimal", "people"} {
		if !bytes.Contains(text, []byte("image: "+image)) {
			continue
		}
		cmd := w.dspool(s, "image", "build", image)
		timer := time.AfterFunc(imageTimeout, func() { cmd.Process.Kill() })
		defer timer.Stop()
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build image %s: %w\n%s", image, err, out)
		}
	}
	return nil
}

// dspool is a command of the host's root to that server.
func (w *world) dspool(s *server, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(w.bin, "dspool"), args...)
	cmd.Env = append(os.Environ(), "DSPOOL_STATE_DIR="+s.state)
	return cmd
}

func (s *server) running() bool {
	if s.done == nil {
		return false
	}
	select {
	case <-s.done:
		return false
	default:
		return true
	}
}

// end ends the server with a signal and waits for it.
func (s *server) end(sig syscall.Signal) error {
	if !s.running() {
		return fmt.Errorf("server %s does not run", s.name)
	}
	if err := s.cmd.Process.Signal(sig); err != nil {
		return err
	}
	select {
	case <-s.done:
		return nil
	case <-time.After(stopTimeout):
		_ = s.cmd.Process.Kill()
		<-s.done
		return fmt.Errorf("server %s did not end within %s of %v", s.name, stopTimeout, sig)
	}
}

// gateway is the host's address as the server's machines see it.
func (s *server) gateway() string {
	link, err := net.InterfaceByName("dsp" + s.installation)
	if err != nil {
		return ""
	}
	addrs, _ := link.Addrs()
	for _, a := range addrs {
		if ip, ok := a.(*net.IPNet); ok && ip.IP.To4() != nil {
			return ip.IP.String()
		}
	}
	return ""
}

// cleanUp ends what the script left, and fails it when the host is not as before.
func (w *world) cleanUp() {
	for _, l := range w.ports {
		l.Close()
	}
	var wrong []string
	for _, s := range w.servers {
		failed, ok := w.t.(interface{ Failed() bool })
		if ok && failed.Failed() {
			w.t.Log(s.story(w))
		}
		if s.running() {
			if err := s.end(syscall.SIGTERM); err != nil {
				wrong = append(wrong, err.Error())
			}
		}
		if s.installation == "" {
			continue // it never served
		}
		if out, err := w.dspool(s, "uninstall", "--state-dir", s.state).CombinedOutput(); err != nil {
			wrong = append(wrong, fmt.Sprintf("uninstall %s: %v\n%s", s.name, err, out))
		}
		left := leftovers(s)
		for deadline := time.Now().Add(reapTimeout); len(left) > 0 && time.Now().Before(deadline); time.Sleep(pollEvery) {
			left = leftovers(s)
		}
		wrong = append(wrong, left...)
	}
	if len(wrong) > 0 {
		w.t.Fatal("the host is not as before:\n" + strings.Join(wrong, "\n"))
	}
}

// story is what somebody wants to read when a script failed.
func (s *server) story(w *world) string {
	events, _ := w.dspool(s, "events", "--limit", "40").CombinedOutput()
	log, _ := os.ReadFile(s.log)
	if len(log) > 8<<10 {
		log = log[len(log)-8<<10:]
	}
	return fmt.Sprintf("events of server %s:\n%s\nits log:\n%s", s.name, events, log)
}

// token returns a token of the user, made by the host's root.
func (w *world) token(s *server, user string) (string, error) {
	if t := s.tokens[user]; t != "" {
		return t, nil
	}
	out, err := w.dspool(s, "token", "create", "--user", user, "-o", "json").Output()
	if err != nil {
		return "", fmt.Errorf("make a token of %s: %w", user, err)
	}
	var token struct{ Secret string }
	if err := json.Unmarshal(out, &token); err != nil {
		return "", err
	}
	s.tokens[user] = token.Secret
	return token.Secret, nil
}
