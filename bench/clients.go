package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
)

// Ways to a machine, hosts of the clients' configuration.
const (
	throughDoor = "door"   // dspool's gateway
	throughJump = "jumped" // OpenSSH's ProxyJump over an OpenSSH sshd
	direct      = "direct" // the machine's sshd itself
)

var ways = []string{throughDoor, throughJump, direct}

// What everybody talks, on every leg that OpenSSH's client has a hand in.
const (
	keyExchange = "curve25519-sha256"
	cipher      = "aes128-gcm@openssh.com"
)

const loginWithin = time.Minute // for a login, also at the end of a crowd

// clients are OpenSSH's clients and their keys. Everybody has one key, and a certificate for it
// with which machines let them in as they let the gateway in.
type clients struct {
	dir     string
	jump    *jumpHost
	gateway int // pid
}

func (c *clients) key(user string) string    { return filepath.Join(c.dir, user) }
func (c *clients) config() string            { return filepath.Join(c.dir, "config") }
func (c *clients) public(user string) string { return c.key(user) + ".pub" }

// makeKey makes a key pair and returns its public half in the form of authorized_keys.
func (c *clients) makeKey(user string) (string, error) {
	if err := os.MkdirAll(c.dir, 0o755); err != nil {
		return "", err
	}
	_, signer, err := newKey(c.key(user))
	if err != nil {
		return "", err
	}
	line := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey())))
	return line, os.WriteFile(c.public(user), []byte(line+"\n"), 0o644)
}

// newKey makes a private key in a file.
func newKey(file string) (ed25519.PrivateKey, ssh.Signer, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		return nil, nil, err
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		return nil, nil, err
	}
	return key, signer, os.WriteFile(file, pem.EncodeToMemory(block), 0o600)
}

// signer reads a user's key, or the authority's.
func signer(file string) (ssh.Signer, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return ssh.ParsePrivateKey(text)
}

// certify signs everybody's key with the authority that machines trust. Such certificates are the
// gateway's alone otherwise, and live minutes.
func (c *clients) certify(authority string, users []string) error {
	ca, err := signer(authority)
	if err != nil {
		return err
	}
	for _, user := range users {
		key, err := signer(c.key(user))
		if err != nil {
			return err
		}
		now := time.Now()
		cert := &ssh.Certificate{
			Key: key.PublicKey(), CertType: ssh.UserCert, KeyId: "bench", ValidPrincipals: []string{user},
			ValidAfter: uint64(now.Add(-time.Minute).Unix()), ValidBefore: uint64(now.Add(6 * time.Hour).Unix()),
			Permissions: ssh.Permissions{Extensions: map[string]string{"permit-pty": "", "permit-port-forwarding": ""}},
		}
		if err := cert.SignCert(rand.Reader, ca); err != nil {
			return err
		}
		if err := os.WriteFile(c.key(user)+"-cert.pub", ssh.MarshalAuthorizedKey(cert), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// configure writes what the clients read. Both ways in differ in nothing but where they lead and in
// the proof: a plain key at the door, its certificate at a machine. Either is the first thing
// offered, so nobody is refused once before.
func (c *clients) configure(door, machine string) error {
	host, port, ok := strings.Cut(door, ":")
	if !ok {
		return fmt.Errorf("the door is at %q", door)
	}
	text := fmt.Sprintf(`Host door
  HostName %[1]s
  Port %[2]s
  PubkeyAcceptedAlgorithms ssh-ed25519
Host direct jumped
  HostName %[3]s
  PubkeyAcceptedAlgorithms ssh-ed25519-cert-v01@openssh.com
Host jumped
  ProxyJump jump
Host jump
  HostName 127.0.0.1
  Port %[4]d
  User %[5]s
  IdentityFile %[6]s
  PubkeyAcceptedAlgorithms ssh-ed25519
Host *
  UserKnownHostsFile %[7]s
  GlobalKnownHostsFile none
  StrictHostKeyChecking accept-new
  CheckHostIP no
  UpdateHostKeys no
  HostKeyAlgorithms ssh-ed25519
  KexAlgorithms %[8]s
  Ciphers %[9]s
  IdentitiesOnly yes
  IdentityAgent none
  BatchMode yes
  ConnectTimeout 60
  LogLevel ERROR
  IgnoreUnknown ObscureKeystrokeTiming
  ObscureKeystrokeTiming no
`, host, port, machine, c.jump.port, jumpUser, c.key(me), filepath.Join(c.dir, "known_hosts"), keyExchange, cipher)
	return os.WriteFile(c.config(), []byte(text), 0o600)
}

// command is OpenSSH's client on its way as a user, who may be USER+POOL.
func (c *clients) command(ctx context.Context, way, user string, args ...string) *exec.Cmd {
	name, _, _ := strings.Cut(user, "+")
	flags := flagsOf(args)
	all := slices.Concat([]string{"-F", c.config(), "-i", c.key(name), "-l", user}, flags, []string{way}, args[len(flags):])
	cmd := exec.CommandContext(ctx, "ssh", all...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// flagsOf are the client's own flags, which go before the host.
func flagsOf(args []string) []string {
	for i, a := range args {
		if !strings.HasPrefix(a, "-") {
			return args[:i]
		}
	}
	return args
}

// ssh runs a command and returns how long that took, from the client's start to its end.
func (c *clients) ssh(ctx context.Context, way, user string, args ...string) (time.Duration, error) {
	_, took, err := c.output(ctx, way, user, args...)
	return took, err
}

func (c *clients) output(ctx context.Context, way, user string, args ...string) (string, time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, loginWithin)
	defer cancel()
	var out, said bytes.Buffer
	cmd := c.command(ctx, way, user, args...)
	cmd.Stdout, cmd.Stderr = &out, &said
	begun := time.Now()
	err := cmd.Run()
	took := time.Since(begun)
	if err != nil {
		return "", 0, fmt.Errorf("ssh %s as %s: %w: %s", way, user, err, tail(said.String()))
	}
	return out.String(), took, nil
}

// tail is the last line that somebody said.
func tail(said string) string {
	lines := strings.Split(strings.TrimSpace(said), "\n")
	return strings.TrimSpace(lines[len(lines)-1])
}
