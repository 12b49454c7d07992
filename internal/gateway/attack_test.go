package gateway_test

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"io"
	mathrand "math/rand/v2"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/dspool/dspool/api"
)

// offering is a key that is offered with one signer and signed with another.
type offering struct {
	ssh.Signer
	shown atomic.Int64
	first ssh.PublicKey
}

func (o *offering) PublicKey() ssh.PublicKey {
	o.shown.Add(1)
	return o.first
}

func TestAttackKeyOfferedButAnotherProved(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, b := w.signers["alice"], w.signers["bob"]
	t.Run("a signature by another key than the offered one is refused", func(t *testing.T) {
		if _, err := w.client("alice", ssh.PublicKeys(&offering{Signer: b, first: a.PublicKey()})); err == nil {
			t.Fatal("bob came in as alice")
		}
	})
	t.Run("alice's key offered first and bob's proved is bob, and only as bob", func(t *testing.T) {
		// The raw protocol: query alice's key as bob's user name, then sign with bob's.
		out := w.want(w.sshWith(w.keys["bob"], "bob", "-i", w.keys["alice"], "--", "id -un"), nil)
		if out != "bob\n" {
			t.Fatalf("got %q", out)
		}
		if _, err := w.client("alice", ssh.PublicKeys(&refusing{a}, b)); err == nil {
			t.Fatal("bob's key opened alice's account after alice's was offered")
		}
		w.server.change(func() {
			for _, p := range w.server.proofs {
				if !p.Probe && p.User == "alice" {
					t.Errorf("somebody was proved to be alice: %+v", p)
				}
			}
		})
	})
}

// refusing offers a key but cannot sign with it.
type refusing struct{ ssh.Signer }

func (refusing) Sign(io.Reader, []byte) (*ssh.Signature, error) { return nil, errors.New("no") }

func TestAttackUserNames(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	key := ssh.PublicKeys(w.signers["alice"])
	for name, user := range map[string]string{
		"root": "root", "an option": "-oProxyCommand=x", "one megabyte": strings.Repeat("a", 1<<20), "NUL": "alice\x00", "a look-alike": "аlice",
		"capitals": "Alice", "a trailing dot": "alice.", "a host": "alice@evil", "a path": "../alice", "an empty one": "", "a line": "alice\nroot",
		"escape codes": "alice\x1b[2J", "a strange pool": "alice+../lab", "an empty pool": "alice+", "spaces": " alice ",
		"an empty size": "alice+lab+", "neither pool nor size": "alice++", "a strange size": "alice++../lab", "more than pool and size": "alice+lab+big+big",
		"a pool after a size": "alice++big+lab", "only a size": "++big", "an endless size": "alice++" + strings.Repeat("a", 33),
	} {
		t.Run(name+" is refused like any wrong user", func(t *testing.T) {
			_, err := w.client(user, key)
			if err == nil {
				t.Fatal("it came in")
			}
			if len(user) < 1<<18 && !strings.Contains(err.Error(), "unable to authenticate") {
				t.Fatalf("refused differently: %v", err)
			}
		})
	}
	w.server.change(func() {
		for _, p := range w.server.proofs {
			t.Errorf("the server saw %q", p.User)
		}
	})
	for line := range strings.Lines(w.log.String()) {
		if len(line) > 600 || strings.ContainsAny(line, "\x1b\x00") {
			t.Errorf("log line of %d bytes: %.200q", len(line), line)
		}
	}
}

func TestAttackCertificates(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ca, _ := newKey(t)
	rogue, _ := newKey(t)
	trust := func(change func(*api.Trust)) {
		w.server.direct(func(d *api.GatewayDirectives) {
			d.Trust = api.Trust{Authorities: []string{string(ssh.MarshalAuthorizedKey(ca.PublicKey()))}}
			change(&d.Trust)
		})
	}
	trust(func(*api.Trust) {})
	good := w.certify(ca, "good", func(*ssh.Certificate) {})
	w.eventually("the authority is trusted", func() bool { _, _, code := run(w.sshWith(good, "alice", "--", "true"), nil); return code == 0 })

	at := func(d time.Duration) uint64 { return uint64(time.Now().Add(d).Unix()) }
	for name, change := range map[string]func(*ssh.Certificate){
		"expired":                        func(c *ssh.Certificate) { c.ValidBefore = at(-time.Second) },
		"not yet valid":                  func(c *ssh.Certificate) { c.ValidAfter = at(5 * time.Minute) },
		"for another principal":          func(c *ssh.Certificate) { c.ValidPrincipals = []string{"bob"} },
		"for no principal":               func(c *ssh.Certificate) { c.ValidPrincipals = nil },
		"for a prefix of the principal":  func(c *ssh.Certificate) { c.ValidPrincipals = []string{"alic", "alice2", "*"} },
		"of a host":                      func(c *ssh.Certificate) { c.CertType = ssh.HostCert },
		"from elsewhere":                 func(c *ssh.Certificate) { c.CriticalOptions["source-address"] = "10.0.0.0/8,192.168.1.1" },
		"with an empty source-address":   func(c *ssh.Certificate) { c.CriticalOptions["source-address"] = "" },
		"with an unknown demand":         func(c *ssh.Certificate) { c.CriticalOptions["be-nice"] = "" },
		"that forces an empty command":   func(c *ssh.Certificate) { c.CriticalOptions["force-command"] = "" },
		"with a broken source-address":   func(c *ssh.Certificate) { c.CriticalOptions["source-address"] = "127.0.0.1,x" },
		"that ends before it begins":     func(c *ssh.Certificate) { c.ValidAfter, c.ValidBefore = at(time.Hour), at(-time.Hour) },
		"with a validity beyond 63 bits": func(c *ssh.Certificate) { c.ValidAfter = 1 << 63 },
	} {
		t.Run("a certificate "+name+" is refused", func(t *testing.T) {
			path := w.certify(ca, strings.ReplaceAll(name, " ", "-"), change)
			if _, errs, code := run(w.sshWith(path, "alice", "--", "true"), nil); code != 255 || !strings.Contains(errs, "Permission denied") {
				t.Fatalf("code %d: %s", code, errs)
			}
		})
	}
	t.Run("a certificate of another authority is refused", func(t *testing.T) {
		if _, _, code := run(w.sshWith(w.certify(rogue, "rogue", func(*ssh.Certificate) {}), "alice", "--", "true"), nil); code != 255 {
			t.Fatalf("code %d", code)
		}
	})
	t.Run("one from the right address comes in", func(t *testing.T) {
		path := w.certify(ca, "here", func(c *ssh.Certificate) { c.CriticalOptions["source-address"] = "10.0.0.1,127.0.0.0/8" })
		w.want(w.sshWith(path, "alice", "--", "true"), nil)
		w.server.change(func() {
			last := w.server.proofs[len(w.server.proofs)-1]
			if last.Method != "certificate" || last.Serial != 42 || last.KeyID != "here" || last.Probe || !strings.HasPrefix(last.Key, "SHA256:") {
				t.Errorf("audit: %+v", last)
			}
		})
	})
	t.Run("a forced command takes the place of shell, command and subsystem", func(t *testing.T) {
		path := w.certify(ca, "forced", func(c *ssh.Certificate) { c.CriticalOptions["force-command"] = "echo forced:$SSH_ORIGINAL_COMMAND" })
		if out := w.want(w.sshWith(path, "alice", "--", "rm -rf 'x'; id"), nil); out != "forced:rm -rf x; id\n" && out != "forced:rm -rf 'x'; id\n" {
			t.Fatalf("got %q", out)
		}
		if out := w.want(w.sshWith(path, "alice"), strings.NewReader("id\n")); out != "forced:\n" {
			t.Fatalf("got %q", out)
		}
		if out := w.want(w.sshWith(path, "alice", "-s", "--", "sftp"), strings.NewReader("")); out != "forced:sftp\n" {
			t.Fatalf("got %q", out)
		}
	})
	t.Run("what a certificate does not permit is refused", func(t *testing.T) {
		path := w.certify(ca, "bare", func(c *ssh.Certificate) { c.Extensions = nil })
		if out, errs, _ := run(w.sshWith(path, "alice", "-tt", "--", "tty || true"), nil); strings.Contains(out, "/dev/pts") || !strings.Contains(errs, "PTY allocation request failed") {
			t.Fatalf("it has a terminal: %q %s", out, errs)
		}
		if _, errs, code := run(w.sshWith(path, "alice", "-W", w.machine.address), nil); code == 0 || !strings.Contains(errs, "forwarding failed") {
			t.Fatalf("it forwards: %d %s", code, errs)
		}
		if _, errs, code := run(w.sshWith(path, "alice", "-o", "ExitOnForwardFailure=yes", "-R", "0:127.0.0.1:1", "--", "true"), nil); code == 0 {
			t.Fatalf("it listens: %s", errs)
		}
	})

	t.Run("a serial number is revoked for the authority that gave it", func(t *testing.T) {
		other, _ := newKey(t)
		theirs := w.certify(other, "theirs", func(*ssh.Certificate) {})
		both := func(change func(*api.Trust)) {
			trust(func(t *api.Trust) {
				t.Authorities = append(t.Authorities, string(ssh.MarshalAuthorizedKey(other.PublicKey())))
				change(t)
			})
		}
		comes := func(path string) bool {
			_, _, code := run(w.sshWith(path, "alice", "--", "true"), nil)
			return code == 0
		}
		both(func(*api.Trust) {})
		w.eventually("both come in", func() bool { return comes(good) && comes(theirs) })
		both(func(t *api.Trust) { t.RevokedSerials = []uint64{42} })
		w.eventually("ours is out, theirs is not", func() bool { return !comes(good) && comes(theirs) })
		both(func(t *api.Trust) {
			t.RevokedCertificates = []api.RevokedCertificate{{Authority: ssh.FingerprintSHA256(other.PublicKey()), Serial: 42}}
		})
		w.eventually("theirs is out, ours is not", func() bool { return comes(good) && !comes(theirs) })
		trust(func(*api.Trust) {})
	})
	t.Run("an authority that signs with SHA-1 is refused", func(t *testing.T) {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		ok(t, err)
		signer, err := ssh.NewSignerFromKey(key)
		ok(t, err)
		signers := map[string]string{}
		for _, algorithm := range []string{ssh.KeyAlgoRSA, ssh.KeyAlgoRSASHA512} {
			s, err := ssh.NewSignerWithAlgorithms(signer.(ssh.AlgorithmSigner), []string{algorithm})
			ok(t, err)
			signers[algorithm] = w.certify(s, algorithm, func(*ssh.Certificate) {})
		}
		trust(func(t *api.Trust) { t.Authorities = []string{string(ssh.MarshalAuthorizedKey(signer.PublicKey()))} })
		w.eventually("SHA-2 comes in", func() bool {
			_, _, code := run(w.sshWith(signers[ssh.KeyAlgoRSASHA512], "alice", "--", "true"), nil)
			return code == 0
		})
		// With the library: OpenSSH's client would not even offer it.
		line, err := os.ReadFile(signers[ssh.KeyAlgoRSA] + "-cert.pub")
		ok(t, err)
		pub, _, _, _, err := ssh.ParseAuthorizedKey(line)
		ok(t, err)
		text, err := os.ReadFile(signers[ssh.KeyAlgoRSA])
		ok(t, err)
		own, err := ssh.ParsePrivateKey(text)
		ok(t, err)
		certified, err := ssh.NewCertSigner(pub.(*ssh.Certificate), own)
		ok(t, err)
		if _, err := w.client("alice", ssh.PublicKeys(certified)); err == nil {
			t.Error("it came in")
		}
		w.eventually("the log says why", func() bool { return w.logged("its authority signed with SHA-1") })
		trust(func(*api.Trust) {})
	})

	hold := func(path string) (ended chan int) {
		ended = make(chan int, 1)
		cmd := w.sshWith(path, "alice", "--", "echo up; cat")
		in, err := cmd.StdinPipe()
		ok(t, err)
		out := &syncBuffer{}
		cmd.Stdout = out
		t.Cleanup(func() { in.Close() })
		ok(t, cmd.Start())
		go func() { cmd.Wait(); ended <- cmd.ProcessState.ExitCode() }()
		w.eventually("the command runs", func() bool { return out.String() == "up\n" })
		return ended
	}
	for name, revoke := range map[string]func(*api.Trust){
		"its serial is revoked":         func(t *api.Trust) { t.RevokedSerials = []uint64{42} },
		"its authority is revoked":      func(tr *api.Trust) { tr.RevokedKeys = []string{ssh.FingerprintSHA256(ca.PublicKey())} },
		"its authority is trusted less": func(tr *api.Trust) { tr.Authorities = nil },
	} {
		t.Run("when "+name+" the open connection ends and no new one comes", func(t *testing.T) {
			trust(func(*api.Trust) {})
			w.eventually("the certificate is good again", func() bool { _, _, code := run(w.sshWith(good, "alice", "--", "true"), nil); return code == 0 })
			ended := hold(good)
			trust(revoke)
			select {
			case code := <-ended:
				if code != 254 {
					t.Errorf("code %d", code)
				}
			case <-time.After(waitForIt):
				t.Fatal("the connection lives on")
			}
			if _, _, code := run(w.sshWith(good, "alice", "--", "true"), nil); code != 255 {
				t.Fatalf("a new login: %d", code)
			}
		})
	}
}

func TestAttackRevokedKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	cl := w.login("alice")
	term := w.terminal(cl)
	ok(t, term.Shell())
	w.server.direct(func(d *api.GatewayDirectives) {
		d.Trust.RevokedKeys = []string{ssh.FingerprintSHA256(w.signers["alice"].PublicKey())}
	})
	if err := term.Wait(); err == nil || !strings.Contains(term.out.String(), "the key is revoked") {
		t.Fatalf("%v %q", err, term.out)
	}
	if _, err := w.client("alice", ssh.PublicKeys(w.signers["alice"])); err == nil {
		t.Fatal("the key still opens")
	}
}

// TestAttackTerrapin: the strict key exchange that ends the prefix truncation attack is offered, and
// a packet that was slipped into the key exchange ends the connection.
func TestAttackTerrapin(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c, err := net.Dial("tcp", w.door)
	ok(t, err)
	defer c.Close()
	io.WriteString(c, "SSH-2.0-x\r\n")
	c.Write(kexInit("kex-strict-c-v00@openssh.com"))
	slipped := []byte{0, 0, 0, 12, 6, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0} // SSH_MSG_IGNORE
	c.Write(slipped)
	c.SetReadDeadline(time.Now().Add(waitForIt))
	answer, err := io.ReadAll(c)
	if err != nil && !strings.Contains(err.Error(), "reset") {
		t.Fatalf("the connection lives on: %v", err)
	}
	for _, want := range []string{"kex-strict-s-v00@openssh.com", "mlkem768x25519-sha256", "rsa-sha2-512"} {
		if !bytes.Contains(answer, []byte(want)) {
			t.Errorf("%s is not offered", want)
		}
	}
	for _, bad := range []string{"sha1", "ssh-rsa,", "cbc", "chacha20"} { // a client with GCM is offered nothing slower
		if bytes.Contains(answer, []byte(bad)) {
			t.Errorf("%s is offered", bad)
		}
	}
}

func TestAttackGarbageAfterLogin(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	bystander := w.login("bob")
	for range 20 {
		raw, err := net.Dial("tcp", w.door)
		ok(t, err)
		conn, chans, reqs, err := ssh.NewClientConn(raw, w.door, &ssh.ClientConfig{
			User: "alice", Auth: []ssh.AuthMethod{ssh.PublicKeys(w.signers["alice"])}, HostKeyCallback: ssh.InsecureIgnoreHostKey(),
			Config: ssh.Config{Ciphers: []string{ssh.CipherAES128GCM}},
		})
		ok(t, err)
		go ssh.DiscardRequests(reqs)
		go func() {
			for ch := range chans {
				ch.Reject(ssh.Prohibited, "")
			}
		}()
		junk := make([]byte, 1+mathrand.IntN(4096))
		rand.Read(junk)
		if mathrand.IntN(2) == 0 {
			copy(junk, []byte{0, 0, 0, 0}) // a length that cannot be
		}
		raw.Write(junk)
		raw.(*net.TCPConn).CloseWrite()
		conn.Wait()
	}
	s, err := bystander.NewSession()
	ok(t, err)
	ok(t, s.Run("true"))
}

func TestAttackForgedProxyHeader(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, header := range []string{"PROXY TCP4 10.1.2.3 127.0.0.1 4000 22\r\nSSH-2.0-x\r\n", "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c"} {
		c, err := net.Dial("tcp", w.door)
		ok(t, err)
		io.WriteString(c, header)
		c.SetReadDeadline(time.Now().Add(waitForIt))
		answer, err := io.ReadAll(c)
		if err != nil && !errors.Is(err, net.ErrClosed) && !strings.Contains(err.Error(), "reset") {
			t.Fatal(err)
		}
		if string(answer) != "SSH-2.0-OpenSSH_9.9 dspool\r\n" {
			t.Fatalf("answered %q", answer)
		}
		c.Close()
	}
	w.want(w.ssh("alice", "--", "true"), nil)
	w.server.change(func() {
		if from := w.server.opened[0].From; !strings.HasPrefix(from, "127.0.0.1:") {
			t.Errorf("audit says %s", from)
		}
	})
}

func TestAttackPasswords(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.server.change(func() { w.server.users["alice"].password = "right" })
	t.Run("the right one comes in, both ways", func(t *testing.T) {
		for _, auth := range []ssh.AuthMethod{ssh.Password("right"), ssh.KeyboardInteractive(func(_, _ string, q []string, _ []bool) ([]string, error) {
			return []string{"right"}, nil
		})} {
			cl, err := w.client("alice", auth)
			ok(t, err)
			cl.Close()
		}
	})
	t.Run("wrong user, wrong name and wrong password look and last the same", func(t *testing.T) {
		var texts []string
		for _, user := range []string{"alice", "nobody-here", "root"} {
			began := time.Now()
			_, err := w.client(user, ssh.Password("wrong"))
			if took := time.Since(began); took < 700*time.Millisecond || took > 2*time.Second {
				t.Errorf("%s was refused after %s", user, took)
			}
			texts = append(texts, err.Error())
		}
		if texts[0] != texts[1] || texts[1] != texts[2] {
			t.Fatalf("they differ: %q", texts)
		}
	})
	t.Run("guessing gets slower", func(t *testing.T) {
		w.client("bob", ssh.Password("1"), ssh.Password("2"))
		began := time.Now()
		w.client("bob", ssh.Password("wrong"))
		if took := time.Since(began); took < 950*time.Millisecond {
			t.Fatalf("the fifth wrong password was answered after %s", took)
		}
		w.want(w.ssh("bob", "--", "true"), nil) // keys are not held back
	})
	t.Run("no proof at all is refused", func(t *testing.T) {
		if _, err := w.client("alice"); err == nil {
			t.Fatal("it came in")
		}
	})
}
