package gateway

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

const (
	machinePatience = 6 * time.Second // for a machine's sshd, before the server is asked again where the session lives
	machineTries    = 5
	spareLife       = 2 * time.Minute // of a prepared connection that nobody uses
	mostSpares      = 256
	innerCongestion = "cubic"
	userTimeout     = 20 * time.Second // unanswered bytes after which a machine is gone
)

// innerKeepAlive notices a machine that vanished without a word.
var innerKeepAlive = net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 3 * time.Second, Count: 4}

// inner is a connection to a machine's sshd, logged in as the user.
type inner struct {
	ssh.Conn
	chans <-chan ssh.NewChannel
	reqs  <-chan *ssh.Request
	done  chan struct{} // closed when the connection has ended
}

// dialMachine logs in with a certificate for a key that lives as long as this call.
func (g *gateway) dialMachine(ctx context.Context, user, connection string, session int64, m api.MachineAccess) (*inner, error) {
	pins, kinds, err := parsePins(m.HostKeys)
	if err != nil {
		return nil, dspool.Errorf(dspool.Internal, "the host keys of machine %s are not known: %w", m.Machine, err)
	}
	signer, err := g.certificate(ctx, connection, session)
	if err != nil {
		return nil, fmt.Errorf("get a certificate for machine %s: %w", m.Machine, err)
	}
	config := &ssh.ClientConfig{
		Config:            ssh.Config{Ciphers: allCiphers, KeyExchanges: keyExchanges, MACs: macs},
		User:              user,
		Auth:              []ssh.AuthMethod{ssh.PublicKeys(signer)},
		HostKeyAlgorithms: kinds,
		ClientVersion:     serverVersion,
		HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error {
			if !slices.Contains(pins, string(key.Marshal())) {
				return errors.New("it is another machine: its host key is not the enrolled one")
			}
			return nil
		},
	}
	ctx, cancel := context.WithTimeout(ctx, machinePatience)
	defer cancel()
	for rest := newRest(20*time.Millisecond, time.Second); ; {
		in, err := loginMachine(ctx, m.Address, config)
		if err == nil {
			return in, nil
		}
		// The machine's sshd may still be starting, or be out of places; a wrong key stays wrong.
		var network net.Error
		if !errors.As(err, &network) && !errors.Is(err, io.EOF) {
			return nil, dspool.Errorf(dspool.Internal, "machine %s does not let the gateway in: %w", m.Machine, err).WithHint("tell whoever runs this pool")
		}
		if !rest.wait(ctx) {
			return nil, dspool.Errorf(dspool.Unavailable, "machine %s does not answer: %w", m.Machine, err).WithHint("try again; if it stays, tell whoever runs this pool")
		}
	}
}

func loginMachine(ctx context.Context, address string, config *ssh.ClientConfig) (*inner, error) {
	d := net.Dialer{KeepAliveConfig: innerKeepAlive}
	c, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	defer context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })()
	if raw, err := c.(*net.TCPConn).SyscallConn(); err == nil {
		raw.Control(func(fd uintptr) {
			unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(userTimeout.Milliseconds()))
			// Where the host paces what it sends (BBR), that only delays on the way to its own machines.
			// A kernel without this one keeps its own choice.
			_ = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, innerCongestion)
		})
	}
	conn, chans, reqs, err := ssh.NewClientConn(newBulkConn(c), address, config)
	if err != nil {
		c.Close()
		return nil, err
	}
	in := &inner{Conn: conn, chans: chans, reqs: reqs, done: make(chan struct{})}
	go func() {
		conn.Wait()
		close(in.done)
	}()
	if ctx.Err() != nil {
		in.drop()
		return nil, ctx.Err()
	}
	return in, nil
}

// drop closes a connection that nobody uses.
func (in *inner) drop() {
	in.Close()
	go discard(in.chans, in.reqs)
}

func (g *gateway) certificate(ctx context.Context, connection string, session int64) (ssh.Signer, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		return nil, err
	}
	ask := api.MachineLogin{Connection: connection, Session: session, PublicKey: strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey())))}
	answer, err := patiently(ctx, func() (api.MachineCertificate, error) { return g.server.Certificate(ctx, ask) })
	if err != nil {
		return nil, err
	}
	pub, _, _, _, err := ssh.ParseAuthorizedKey([]byte(answer.Certificate))
	if err != nil {
		return nil, fmt.Errorf("read it: %w", err)
	}
	cert, ok := pub.(*ssh.Certificate)
	if !ok {
		return nil, errors.New("the server sent a plain key")
	}
	return ssh.NewCertSigner(cert, signer)
}

// parsePins returns the pinned keys in wire form and the algorithms that they can sign with.
func parsePins(lines []string) (pins, algorithms []string, err error) {
	for _, line := range lines {
		key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
		if err != nil {
			return nil, nil, err
		}
		pins = append(pins, string(key.Marshal()))
		if key.Type() == ssh.KeyAlgoRSA {
			algorithms = append(algorithms, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256)
		} else {
			algorithms = append(algorithms, key.Type())
		}
	}
	if len(pins) == 0 {
		return nil, nil, errors.New("there are none")
	}
	return pins, algorithms, nil
}

// spares are connections prepared for the next login of the same user to the same machine, which
// then need not wait for the machine's key exchange. They are used by nobody but that user's next
// connection, which has proved itself and was given the session anew.
type spares struct {
	g      *gateway
	mu     sync.Mutex
	ready  map[spareKey]*spare
	rights map[int64]string // of sessions, as the server said last
	closed bool
}

type spareKey struct {
	user, machine, address, pins, rights string
	session                              int64
}

type spare struct {
	in    *inner // nil while it is being made
	taken chan struct{}
	left  chan struct{} // closed when the one who watched over it has let go
}

func newSpares(g *gateway) *spares { return &spares{g: g, ready: map[spareKey]*spare{}} }

// inner returns a connection to the machine, a prepared one if there is one, and prepares the next.
func (s *spares) inner(ctx context.Context, c *conn, m api.MachineAccess) (*inner, error) {
	if m.Full {
		s.forget(c.login.identity.User)
		return s.g.dialMachine(ctx, c.login.identity.User, c.id, c.session.Load(), m)
	}
	k := spareKey{c.login.identity.User, m.Machine, m.Address, strings.Join(m.HostKeys, "\n"), m.Rights, c.session.Load()}
	if in := s.take(k); in != nil {
		go s.prepare(k, c.id, m)
		return in, nil
	}
	in, err := s.g.dialMachine(ctx, k.user, c.id, k.session, m)
	if err == nil {
		go s.prepare(k, c.id, m)
	}
	return in, err
}

func (s *spares) take(k spareKey) *inner {
	s.mu.Lock()
	sp := s.ready[k]
	if sp == nil || sp.in == nil {
		s.mu.Unlock()
		return nil
	}
	delete(s.ready, k)
	close(sp.taken)
	s.mu.Unlock()
	<-sp.left
	select {
	case <-sp.in.done:
		sp.in.drop()
		return nil
	default:
		return sp.in
	}
}

func (s *spares) prepare(k spareKey, connection string, m api.MachineAccess) {
	s.mu.Lock()
	if s.closed || s.stale(k) || s.ready[k] != nil || len(s.ready) >= mostSpares {
		s.mu.Unlock()
		return
	}
	sp := &spare{taken: make(chan struct{}), left: make(chan struct{})}
	s.ready[k] = sp
	s.mu.Unlock()
	in, err := s.g.dialMachine(s.g.ctx, k.user, connection, k.session, m)
	s.mu.Lock()
	if err != nil || s.ready[k] != sp || s.stale(k) { // forgotten meanwhile
		if s.ready[k] == sp {
			delete(s.ready, k)
		}
		s.mu.Unlock()
		if err == nil {
			in.drop()
		}
		return
	}
	sp.in = in
	s.mu.Unlock()
	go s.watch(k, sp)
}

// watch answers for a spare until it is taken, too old or dead.
func (s *spares) watch(k spareKey, sp *spare) {
	defer close(sp.left)
	t := time.NewTimer(spareLife)
	defer t.Stop()
	for {
		select {
		case <-sp.taken:
			return
		case req, ok := <-sp.in.reqs:
			if ok {
				req.Reply(false, nil)
				continue
			}
		case <-t.C:
		}
		s.mu.Lock()
		if s.ready[k] == sp {
			delete(s.ready, k)
			sp.in.drop()
		}
		s.mu.Unlock()
		return
	}
}

// forget drops what was prepared for a user.
func (s *spares) forget(user string) {
	s.dropIf(func(k spareKey) bool { return k.user == user })
}

// keepTo drops what was prepared with other rights than these.
func (s *spares) keepTo(list []api.Rights) {
	rights := map[int64]string{}
	for _, r := range list {
		rights[r.Session] = r.Rights
	}
	s.mu.Lock()
	s.rights = rights
	s.mu.Unlock()
	s.dropIf(s.stale)
}

// stale says whether the server is known to have taken rights away that were there, or given others; mu is
// held. Of a session that is new it may not have said anything yet.
func (s *spares) stale(k spareKey) bool {
	rights, known := s.rights[k.session]
	return known && rights != k.rights
}

func (s *spares) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.dropIf(func(spareKey) bool { return true })
}

func (s *spares) dropIf(which func(spareKey) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, sp := range s.ready {
		if which(k) {
			delete(s.ready, k)
			if sp.in != nil {
				close(sp.taken)
				sp.in.drop()
			}
		}
	}
}
