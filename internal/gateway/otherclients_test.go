package gateway_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/dspool/dspool/internal/gateway"
)

// person is somebody with a client of their choice.
type person struct {
	*world
	user     string
	keys     []string // files, in the order in which they are offered
	password string
}

// What every client can do for a person.
const (
	inChannels = "channels" // run `echo one` and `echo two`, in a channel each where it can, and say UNIMPLEMENTED first where it can
	forward    = "forward"  // send "hello" to an address and print what comes back
	pipe       = "pipe"     // run a command and take its first line only
)

// otherClient does one of these things and returns what it printed.
type otherClient func(t *testing.T, p person, action, subject string) string

var otherClients = []struct {
	name   string
	do     otherClient
	cannot string // do with OpenSSH's server either
}{
	{name: "OpenSSH", do: openSSH},
	{name: "dropbear", do: dropbear, cannot: pipe},
	{name: "PuTTY", do: putty},
	{name: "Go", do: goClient},
	{name: "paramiko of Debian", do: python(ofDebian("paramiko"), "with_paramiko.py")},
	{name: "paramiko of today", do: python(ofToday, "with_paramiko.py")},
	{name: "AsyncSSH of Debian", do: python(ofDebian("asyncssh"), "with_asyncssh.py")},
	{name: "AsyncSSH of today", do: python(ofToday, "with_asyncssh.py")},
	{name: "libssh", do: python(ofToday, "with_libssh.py"), cannot: forward},
	{name: "ssh2 of Node.js", do: ssh2},
}

func TestEveryClientWorksAsWithOpenSSHsServer(t *testing.T) {
	t.Parallel()
	needsPatch(t)
	w := newWorld(t)
	w.seat("carol", talkativeMachine(t))
	w.server.change(func() { w.server.users["alice"].password = "correct horse battery" })
	_, stranger := newKey(t)
	unknown := w.writeKey("unknown", stranger)
	address := echo(t, "tcp", "127.0.0.1:0").Addr().String()
	withKeys := func(user string) person { return person{world: w, user: user, keys: []string{unknown, w.keys[user]}} }
	withPassword := person{world: w, user: "alice", keys: []string{unknown}, password: "correct horse battery"}

	for _, client := range otherClients {
		t.Run(client.name, func(t *testing.T) {
			does := func(claim string, p person, action, subject, want string) {
				if client.cannot == action {
					return
				}
				t.Run(claim, func(t *testing.T) {
					t.Parallel()
					if got := client.do(t, p, action, subject); strings.TrimSpace(got) != want {
						t.Fatalf("it printed %q, not %q", got, want)
					}
				})
			}
			does("comes in with its second key and opens channels", withKeys("alice"), inChannels, "", "one\ntwo")
			does("comes in with a password after a key", withPassword, inChannels, "", "one\ntwo")
			does("forwards", withKeys("alice"), forward, address, "echo hello")
			does("goes on when it is told what it does not know", withKeys("carol"), inChannels, "", "one\ntwo")
			mark := fmt.Sprintf("%d-%x", os.Getpid(), sha256.Sum256([]byte(t.TempDir())))
			does("ends on a closed pipe", withKeys("alice"), pipe, "yes "+mark, mark)
			t.Cleanup(func() {
				w.eventually("what "+client.name+" left running ends", func() bool { return !runs(t, mark) })
			})
		})
	}
}

// needsPatch fails a test whose program lacks the edits of the SSH library.
func needsPatch(t testing.TB) {
	t.Helper()
	if !gateway.Patched() {
		t.Fatal("this needs what the library lacks (docs/adr/0014-the-door-is-openssh.md): run scripts/go test ./internal/gateway, or make test")
	}
}

// runs says whether a process has a word in its command line.
func runs(t *testing.T, word string) bool {
	t.Helper()
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	ok(t, err)
	return slices.ContainsFunc(lines, func(path string) bool {
		line, _ := os.ReadFile(path)
		return bytes.Contains(line, []byte(word))
	})
}

// program runs one of the programs that take what to do from their arguments.
func program(t *testing.T, p person, action, subject string, env []string, argv ...string) string {
	t.Helper()
	if action == pipe {
		argv = append([]string{"sh", "-c", `"$@" | head -n 1`, "sh"}, append(argv, subject)...)
	}
	cmd := exec.CommandContext(deadline(t), argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), env...)
	cmd.WaitDelay = waitForIt
	var in io.Reader
	if action == forward {
		in = strings.NewReader("hello")
	}
	return printed(t, cmd, in)
}

func (p person) port() string {
	_, port, _ := net.SplitHostPort(p.door)
	return port
}

func openSSH(t *testing.T, p person, action, subject string) string {
	argv := []string{needs(t, "ssh")}
	for _, key := range p.keys {
		argv = append(argv, "-i", key)
	}
	var env []string
	if p.password != "" {
		ask := script(t, "echo "+p.password)
		env = []string{"SSH_ASKPASS=" + ask, "SSH_ASKPASS_REQUIRE=force"}
		argv = append(argv, "-o", "BatchMode=no", "-o", "PreferredAuthentications=publickey,password")
	}
	argv = append(argv, p.options(p.keys[0])...)
	if action == forward {
		argv = append(argv, "-W", subject)
	}
	argv = append(argv, "-l", p.user, "127.0.0.1")
	if action == inChannels {
		argv = append(argv, "echo one; echo two")
	}
	return program(t, p, action, subject, env, argv...)
}

func dropbear(t *testing.T, p person, action, subject string) string {
	argv := []string{needs(t, "dbclient"), "-y", "-y", "-T", "-p", p.port()}
	for i, key := range p.keys {
		own := filepath.Join(t.TempDir(), fmt.Sprint(i))
		printed(t, exec.Command(needs(t, "dropbearconvert"), "openssh", "dropbear", key, own), nil)
		argv = append(argv, "-i", own)
	}
	env := []string{"DROPBEAR_PASSWORD=" + p.password, "HOME=" + t.TempDir(), "SSH_AUTH_SOCK="}
	if action == forward {
		argv = append(argv, "-B", subject)
	}
	argv = append(argv, p.user+"@127.0.0.1")
	if action == inChannels {
		argv = append(argv, "echo one; echo two")
	}
	return program(t, p, action, subject, env, argv...)
}

// putty is plink with its keys in an agent: it takes only one from a file.
func putty(t *testing.T, p person, action, subject string) string {
	socket := startAgent(t)
	env := []string{"SSH_AUTH_SOCK=" + socket, "HOME=" + t.TempDir()}
	for _, key := range p.keys {
		add := exec.Command(needs(t, "ssh-add"), "-q", key)
		add.Env = append(os.Environ(), env...)
		printed(t, add, nil)
	}
	key, err := os.ReadFile(filepath.Join(p.state, "gateway", "host_ed25519.pub"))
	ok(t, err)
	host, _, _, _, err := ssh.ParseAuthorizedKey(key)
	ok(t, err)
	argv := []string{needs(t, "plink"), "-batch", "-ssh", "-agent", "-P", p.port(), "-l", p.user, "-hostkey", ssh.FingerprintSHA256(host)}
	if p.password != "" {
		file := filepath.Join(t.TempDir(), "password")
		ok(t, os.WriteFile(file, []byte(p.password+"\n"), 0o600))
		argv = append(argv, "-pwfile", file)
	}
	if action == forward {
		argv = append(argv, "-nc", subject)
	}
	argv = append(argv, "127.0.0.1")
	if action == inChannels {
		argv = append(argv, "echo one; echo two")
	}
	return program(t, p, action, subject, env, argv...)
}

func goClient(t *testing.T, p person, action, subject string) string {
	needs(t, "sshd")
	var auth []ssh.AuthMethod
	var signers []ssh.Signer
	for _, key := range p.keys {
		text, err := os.ReadFile(key)
		ok(t, err)
		signer, err := ssh.ParsePrivateKey(text)
		ok(t, err)
		signers = append(signers, signer)
	}
	auth = append(auth, ssh.PublicKeys(signers...))
	if p.password != "" {
		auth = append(auth, ssh.Password(p.password))
	}
	client, err := ssh.Dial("tcp", p.door, &ssh.ClientConfig{User: p.user, Auth: auth, HostKeyCallback: ssh.InsecureIgnoreHostKey(), Timeout: waitForIt})
	ok(t, err)
	defer client.Close()
	switch action {
	case forward:
		c, err := client.Dial("tcp", subject)
		ok(t, err)
		return ask(t, c, "hello")
	case pipe:
		s, err := client.NewSession()
		ok(t, err)
		out, err := s.StdoutPipe()
		ok(t, err)
		ok(t, s.Start(subject))
		line := make([]byte, len(subject)-len("yes "))
		_, err = io.ReadFull(out, line)
		ok(t, err)
		ok(t, s.Close())
		return string(line)
	}
	var all []byte
	for _, word := range []string{"one", "two"} {
		s, err := client.NewSession()
		ok(t, err)
		out, err := s.Output("echo " + word)
		ok(t, err)
		all = append(all, out...)
	}
	return string(all)
}

// python runs a client that is a library of Python.
func python(interpreter func(*testing.T) string, client string) otherClient {
	return func(t *testing.T, p person, action, subject string) string {
		return p.library(t, interpreter(t), client, action, subject, "HOME="+t.TempDir())
	}
}

// library runs a client that is a script around a library.
func (p person) library(t *testing.T, interpreter, script, action, subject string, env ...string) string {
	t.Helper()
	cmd := exec.CommandContext(deadline(t), interpreter, filepath.Join("testdata", "clients", script), "127.0.0.1", p.port(), p.user, action, subject)
	cmd.Env = append(append(os.Environ(), "KEYS="+strings.Join(p.keys, " "), "SSH_AUTH_SOCK="), env...)
	if p.password != "" {
		cmd.Env = append(cmd.Env, "PASSWORD="+p.password)
	}
	return printed(t, cmd, nil)
}

// systemPython is the one that Debian's packages are for.
const systemPython = "/usr/bin/python3"

func ofDebian(module string) func(*testing.T) string {
	return func(t *testing.T) string {
		needs(t, "sshd")
		if out, err := exec.CommandContext(deadline(t), systemPython, "-c", "import "+module).CombinedOutput(); err != nil {
			t.Skipf("SKIPPED: needs %s of Debian (scripts/deps test): %v\n%s", module, err, out)
		}
		return systemPython
	}
}

// ofToday is a Python with the libraries that testdata/clients/requirements.txt names.
func ofToday(t *testing.T) string {
	needs(t, "sshd")
	requirements := filepath.Join("testdata", "clients", "requirements.txt")
	list, err := os.ReadFile(requirements)
	ok(t, err)
	dir := installed(t, "python", string(list), func(ctx context.Context, dir string) ([]byte, error) {
		if out, err := exec.CommandContext(ctx, systemPython, "-m", "venv", "--clear", dir).CombinedOutput(); err != nil {
			return out, err
		}
		return exec.CommandContext(ctx, filepath.Join(dir, "bin", "python"), "-m", "pip", "install", "-q", "--only-binary", ":all:", "-r", requirements).CombinedOutput()
	})
	return filepath.Join(dir, "bin", "python")
}

const ssh2Package = "ssh2@1.17.0"

func ssh2(t *testing.T, p person, action, subject string) string {
	needs(t, "sshd")
	node := needs(t, "node")
	dir := installed(t, "npm", ssh2Package, func(ctx context.Context, dir string) ([]byte, error) {
		// What is optional is native code that makes it faster.
		return exec.CommandContext(ctx, "npm", "install", "--silent", "--no-fund", "--no-audit", "--omit=optional", "--ignore-scripts", "--prefix", dir, ssh2Package).CombinedOutput()
	})
	return p.library(t, node, "with_ssh2.js", action, subject, "MODULES="+filepath.Join(dir, "node_modules"))
}

// installTime is how long a package registry may take.
const installTime = 5 * time.Minute

// installed returns a folder that install has filled, now or in a former run; its name says with what. Without a
// registry the test is skipped.
func installed(t *testing.T, kind, what string, install func(ctx context.Context, dir string) ([]byte, error)) string {
	t.Helper()
	user, _ := os.UserCacheDir()
	cache := cmp.Or(os.Getenv("DSPOOL_TEST_CACHE"), filepath.Join(cmp.Or(user, os.TempDir()), "dspool"))
	ok(t, os.MkdirAll(cache, 0o755))
	dir := filepath.Join(cache, fmt.Sprintf("gateway-%s-%.6x", kind, sha256.Sum256([]byte(what))))
	lock, err := os.OpenFile(dir+".lock", os.O_CREATE|os.O_RDWR, 0o644)
	ok(t, err)
	defer lock.Close()
	ok(t, syscall.Flock(int(lock.Fd()), syscall.LOCK_EX))
	done := filepath.Join(dir, "done")
	if _, err := os.Stat(done); err == nil {
		return dir
	}
	ok(t, os.MkdirAll(dir, 0o755))
	ctx, cancel := context.WithTimeout(t.Context(), installTime)
	defer cancel()
	if out, err := install(ctx, dir); err != nil {
		t.Skipf("SKIPPED: %s cannot be installed: %v\n%s", strings.TrimSpace(what), err, out)
	}
	ok(t, os.WriteFile(done, nil, 0o644))
	return dir
}

// script writes a program of the shell.
func script(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "script")
	ok(t, os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o755))
	return path
}
