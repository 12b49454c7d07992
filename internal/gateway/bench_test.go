package gateway_test

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// peers are ways to reach the same machine with the same client and the same key.
type peers struct {
	*world
	config string
}

func newPeers(b *testing.B) *peers {
	w := newWorld(b)
	p := &peers{world: w, config: filepath.Join(w.dir, "config")}
	key := w.certify(w.server.machines, "direct", func(*ssh.Certificate) {})
	jump := startMachine(b, "jump", w.server.machines.PublicKey())
	port := func(address string) string {
		_, port, _ := net.SplitHostPort(address)
		return port
	}
	text := fmt.Sprintf(`
Host *
  BatchMode yes
  IdentitiesOnly yes
  StrictHostKeyChecking accept-new
  UserKnownHostsFile %s
  LogLevel ERROR
  User alice
  HostName 127.0.0.1
  KexAlgorithms curve25519-sha256
Host gateway
  Port %s
  IdentityFile %s
Host jump
  Port %s
  IdentityFile %s
Host direct proxyjump
  Port %s
  IdentityFile %s
Host proxyjump
  ProxyJump jump
`, filepath.Join(w.dir, "hosts"), port(w.door), w.keys["alice"], port(jump.address), key, port(w.machine.address), key)
	ok(b, os.WriteFile(p.config, []byte(text), 0o600))
	for _, host := range []string{"direct", "jump", "proxyjump", "gateway"} {
		w.want(p.to(host, "true"), nil)
	}
	return p
}

func (p *peers) to(host string, args ...string) *exec.Cmd {
	return exec.CommandContext(deadline(p), needs(p, "ssh"), append([]string{"-F", p.config, host}, args...)...)
}

// BenchmarkLogin compares `ssh HOST true` through the gateway with direct to the same sshd.
func BenchmarkLogin(b *testing.B) {
	p := newPeers(b)
	took := map[string][]time.Duration{}
	for b.Loop() {
		for _, host := range []string{"direct", "gateway", "proxyjump"} {
			began := time.Now()
			p.want(p.to(host, "true"), nil)
			took[host] = append(took[host], time.Since(began))
			// People log in one after another, not in a loop: the next one comes when the spare is there.
			p.eventually("the spare is ready", func() bool { return p.machine.logins() >= 1 })
		}
	}
	median := func(host string) float64 {
		slices.Sort(took[host])
		return float64(took[host][len(took[host])/2].Microseconds()) / 1000
	}
	for host := range took {
		b.ReportMetric(median(host), host+"-ms")
	}
	b.ReportMetric(median("gateway")/median("direct"), "of-direct")
}

// BenchmarkFirstLogin is a login for which nothing was prepared.
func BenchmarkFirstLogin(b *testing.B) {
	p := newPeers(b)
	var direct, first time.Duration
	session := int64(100)
	for b.Loop() {
		session++
		p.server.change(func() { p.server.place = onSession(p.machine, session) })
		began := time.Now()
		p.want(p.to("direct", "true"), nil)
		direct += time.Since(began)
		began = time.Now()
		p.want(p.to("gateway", "true"), nil)
		first += time.Since(began)
	}
	b.ReportMetric(float64(direct.Milliseconds())/float64(b.N), "direct-ms")
	b.ReportMetric(float64(first.Milliseconds())/float64(b.N), "first-ms")
	b.ReportMetric(float64(first)/float64(direct), "of-direct")
}

// BenchmarkGiB carries a GiB out of a machine and into it.
func BenchmarkGiB(b *testing.B) {
	const size = 1 << 30
	defer debug.SetGCPercent(debug.SetGCPercent(400)) // as the command does
	p := newPeers(b)
	for _, way := range []string{"out", "in"} {
		for _, cipher := range []string{"default", "aes128-gcm@openssh.com"} {
			b.Run(way+"/"+cipher, func(b *testing.B) {
				took, cpu := map[string]time.Duration{}, map[string]time.Duration{}
				for b.Loop() {
					for _, host := range []string{"direct", "proxyjump", "gateway"} {
						args := []string{}
						if cipher != "default" {
							args = []string{"-c", cipher}
						}
						began, before := time.Now(), ownCPU()
						if way == "out" {
							cmd := p.to(host, append(args, fmt.Sprintf("head -c %d /dev/zero", size))...)
							cmd.Stdout, cmd.Args = nil, flagsFirst(cmd.Args, args)
							ok(b, cmd.Run())
						} else {
							f, err := os.Open("/dev/zero")
							ok(b, err)
							cmd := p.to(host, append(args, "cat >/dev/null")...)
							cmd.Args = flagsFirst(cmd.Args, args)
							in, err := cmd.StdinPipe()
							ok(b, err)
							ok(b, cmd.Start())
							io.CopyN(in, f, size)
							in.Close()
							ok(b, cmd.Wait())
							f.Close()
						}
						took[host] += time.Since(began)
						cpu[host] += ownCPU() - before
					}
				}
				mib := func(host string) float64 { return float64(size>>20) * float64(b.N) / took[host].Seconds() }
				for _, host := range []string{"direct", "proxyjump", "gateway"} {
					b.ReportMetric(mib(host), host+"-MiB/s")
				}
				b.ReportMetric(mib("gateway")/mib("proxyjump"), "of-proxyjump")
				b.ReportMetric((cpu["gateway"]-cpu["direct"]).Seconds()/float64(b.N), "gateway-cpu-s/GiB")
			})
		}
	}
}

// flagsFirst moves the flags before the host.
func flagsFirst(argv, flags []string) []string {
	if len(flags) == 0 {
		return argv
	}
	return slices.Concat(argv[:3], flags, argv[3:4], argv[4+len(flags):])
}

// ownCPU is what this process, and so the gateway, has used.
func ownCPU() time.Duration {
	var r syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &r)
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// BenchmarkKeystroke is the round trip of a byte through a terminal.
func BenchmarkKeystroke(b *testing.B) {
	p := newPeers(b)
	signer, err := os.ReadFile(filepath.Join(p.dir, "id_direct"))
	ok(b, err)
	key, err := ssh.ParsePrivateKey(signer)
	ok(b, err)
	text, err := os.ReadFile(filepath.Join(p.dir, "id_direct-cert.pub"))
	ok(b, err)
	pub, _, _, _, err := ssh.ParseAuthorizedKey(text)
	ok(b, err)
	certified, err := ssh.NewCertSigner(pub.(*ssh.Certificate), key)
	ok(b, err)
	for name, to := range map[string]struct {
		address string
		signer  ssh.Signer
	}{"direct": {p.machine.address, certified}, "gateway": {p.door, p.signers["alice"]}} {
		b.Run(name, func(b *testing.B) {
			cl, err := ssh.Dial("tcp", to.address, &ssh.ClientConfig{User: "alice", Auth: []ssh.AuthMethod{ssh.PublicKeys(to.signer)}, HostKeyCallback: ssh.InsecureIgnoreHostKey()})
			ok(b, err)
			defer cl.Close()
			s, err := cl.NewSession()
			ok(b, err)
			in, err := s.StdinPipe()
			ok(b, err)
			out, err := s.StdoutPipe()
			ok(b, err)
			ok(b, s.Start("cat"))
			one := make([]byte, 1)
			for b.Loop() {
				in.Write(one)
				io.ReadFull(out, one)
			}
		})
	}
}

// BenchmarkIdleSessions reports the memory of a session in which nothing happens.
func BenchmarkIdleSessions(b *testing.B) {
	const count = 60
	p := newPeers(b)
	for b.Loop() {
		before := memory()
		var open []*ssh.Client
		for range count {
			cl := p.login("alice")
			term := p.terminal(cl)
			ok(b, term.Shell())
			open = append(open, cl)
		}
		runtime.GC()
		// The clients are in this process too; they are about half.
		b.ReportMetric(float64(memory()-before)/count/1024, "KiB/session-with-client")
		for _, cl := range open {
			cl.Close()
		}
	}
}
