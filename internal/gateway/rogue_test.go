package gateway_test

import (
	"crypto/rand"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/gateway"
	"github.com/dspool/dspool/internal/testkit"
)

// rogueMachine lets everybody in and asks the person's end for channels that nobody wanted.
func rogueMachine(t *testing.T, kinds []string) *api.MachineAccess {
	t.Helper()
	host, _ := newKey(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ok(t, err)
	t.Cleanup(func() { l.Close() })
	config := &ssh.ServerConfig{PublicKeyCallback: func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) { return &ssh.Permissions{}, nil }}
	config.AddHostKey(host)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				conn, chans, reqs, err := ssh.NewServerConn(c, config)
				if err != nil {
					return
				}
				go ssh.DiscardRequests(reqs)
				for ch := range chans { // the first one says that the person is there
					ch.Reject(ssh.Prohibited, "no")
					for _, kind := range kinds {
						if far, reqs, err := conn.OpenChannel(kind, nil); err == nil {
							go ssh.DiscardRequests(reqs)
							far.Close()
						}
					}
					conn.Close()
				}
			}()
		}
	}()
	return &api.MachineAccess{Machine: "rogue-1", Address: l.Addr().String(), HostKeys: []string{strings.TrimSpace(string(ssh.MarshalAuthorizedKey(host.PublicKey())))}}
}

// The root of a machine asks the person's own computer for its agent, its display and its ports.
func TestAttackMachineReachesForThePerson(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	kinds := []string{"session", "tun@openssh.com", "auth-agent@openssh.com", "x11", "forwarded-tcpip", "forwarded-streamlocal@openssh.com"}
	access := rogueMachine(t, kinds)
	w.server.change(func() {
		w.server.place = func(api.OpenSession, func(api.SessionStep)) api.SessionStep {
			return api.SessionStep{Session: 9, Reason: testkit.Stated("rogue-1"), Ready: access}
		}
	})
	ca, _ := newKey(t)
	w.server.direct(func(d *api.GatewayDirectives) {
		d.Trust = api.Trust{Authorities: []string{string(ssh.MarshalAuthorizedKey(ca.PublicKey()))}}
	})
	certified := func(extensions map[string]string) ssh.Signer {
		signer, _ := newKey(t)
		cert := &ssh.Certificate{
			Key: signer.PublicKey(), CertType: ssh.UserCert, ValidPrincipals: []string{"alice"},
			ValidAfter: uint64(time.Now().Add(-time.Minute).Unix()), ValidBefore: uint64(time.Now().Add(time.Hour).Unix()),
			Permissions: ssh.Permissions{Extensions: extensions},
		}
		ok(t, cert.SignCert(rand.Reader, ca))
		certSigner, err := ssh.NewCertSigner(cert, signer)
		ok(t, err)
		return certSigner
	}
	// reached returns which channels arrive at the person's end.
	reached := func(signer ssh.Signer) (seen []string) {
		var conn ssh.Conn
		var chans <-chan ssh.NewChannel
		w.eventually("the login", func() bool {
			c, err := net.Dial("tcp", w.door)
			ok(t, err)
			var reqs <-chan *ssh.Request
			conn, chans, reqs, err = ssh.NewClientConn(c, w.door, &ssh.ClientConfig{User: "alice", Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)}, HostKeyCallback: ssh.InsecureIgnoreHostKey()})
			if err != nil {
				c.Close()
				return false
			}
			go ssh.DiscardRequests(reqs)
			return true
		})
		defer conn.Close()
		var all sync.WaitGroup
		all.Go(func() {
			for ch := range chans {
				seen = append(seen, ch.ChannelType())
				ch.Reject(ssh.Prohibited, "no")
			}
		})
		_, _, _ = conn.OpenChannel("direct-tcpip", ssh.Marshal(struct {
			Host string
			Port uint32
			From string
			At   uint32
		}{"localhost", 1, "localhost", 1}))
		if ch, reqs, err := conn.OpenChannel("session", nil); err == nil {
			go ssh.DiscardRequests(reqs)
			ch.Close()
		}
		all.Wait() // the machine ends the connection when it has tried everything
		return seen
	}
	t.Run("with a key it gets what sshd may ask for", func(t *testing.T) {
		if got := reached(w.signers["alice"]); !slices.Equal(got, kinds[2:]) {
			t.Errorf("%q", got)
		}
	})
	t.Run("with a certificate it gets what that permits", func(t *testing.T) {
		if got := reached(certified(map[string]string{"permit-X11-forwarding": ""})); !slices.Equal(got, []string{"x11"}) {
			t.Errorf("%q", got)
		}
		if got := reached(certified(map[string]string{"permit-port-forwarding": ""})); !slices.Equal(got, kinds[4:]) {
			t.Errorf("%q", got)
		}
	})
}

// A user opens connections without end: each takes processes on a machine that others share.
func TestAttackConnectionsOfOneUser(t *testing.T) {
	t.Parallel()
	w := newWorld(t, gateway.Limits{PerUser: 3})
	var open []*ssh.Client
	for range 3 {
		cl, err := w.client("alice", ssh.PublicKeys(w.signers["alice"]))
		ok(t, err)
		defer cl.Close()
		s, err := cl.NewSession()
		ok(t, err)
		ok(t, s.Run("true"))
		open = append(open, cl)
	}
	if _, errs, code := run(w.ssh("alice", "--", "true"), nil); code == 0 || !strings.Contains(errs, "you have 3 connections already") {
		t.Errorf("one more: code %d, %s", code, errs)
	}
	w.want(w.ssh("bob", "--", "true"), nil)
	open[0].Close()
	w.eventually("there is room again", func() bool { _, _, code := run(w.ssh("alice", "--", "true"), nil); return code == 0 })
}

// A server that mixes people up must not let one in as another.
func TestTheServerAnswersForSomebodyElse(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.server.change(func() {
		w.server.users["alice"].password = "wonderland"
		w.server.answer = func(id *api.Identity) { id.User, id.UID = "bob", testUsers["bob"] }
	})
	for how, method := range map[string]ssh.AuthMethod{"a key": ssh.PublicKeys(w.signers["alice"]), "a password": ssh.Password("wonderland")} {
		c, err := ssh.Dial("tcp", w.door, &ssh.ClientConfig{User: "alice", Auth: []ssh.AuthMethod{method}, HostKeyCallback: ssh.InsecureIgnoreHostKey(), Timeout: waitForIt})
		if err == nil {
			c.Close()
			t.Errorf("alice came in with %s as whom the server named", how)
		}
	}
	w.server.mu.Lock()
	defer w.server.mu.Unlock()
	if len(w.server.opened) > 0 || len(w.server.proofs) == 0 {
		t.Errorf("%d sessions were asked for after %d proofs", len(w.server.opened), len(w.server.proofs))
	}
}
