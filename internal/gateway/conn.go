package gateway

import (
	"context"
	"crypto/rand"
	"errors"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
)

const (
	mostChannels = 1000            // open at once in one connection, each way
	lingering    = 2 * time.Second // for a client to read the last words and to go by itself
	lastWords    = 2 * time.Second // for a terminal that does not read
)

// conn is one login: a connection through a door and, once the session has a machine, the
// connection to the machine's sshd that belongs to it.
type conn struct {
	g        *gateway
	id       string
	from     string
	protocol dspool.Protocol
	doorPool string
	login    login
	outer    *ssh.ServerConn
	ctx      context.Context // ends with the connection
	cancel   context.CancelFunc

	in, out   atomic.Int64
	lastInput atomic.Int64 // Unix milliseconds

	settling chan chan struct{} // to dispatch

	placed  chan struct{} // closed when inner or failed is set
	inner   *inner
	failed  *dspool.Error
	machine string
	address string // of its sshd
	session atomic.Int64
	record  bool
	tooMany bool // connections that its user has; set by gateway.add

	losing sync.Once
	loss   dspool.Reason // why the machine's end is gone

	mu       sync.Mutex
	step     api.SessionStep
	stepped  chan struct{} // closed and replaced with every step
	sessions map[*session]struct{}
	why      dspool.Reason // why it ended, if the gateway did it
	told     dspool.Reason
	casts    int

	channels atomic.Int64   // that people have open
	opened   atomic.Int64   // that the machine has open
	parts    sync.WaitGroup // everything that works for this connection
}

// serve is the whole life of a connection through a door.
func (g *gateway) serve(ctx context.Context, c net.Conn, slot *slot, doorPool string) {
	defer c.Close()
	outer, chans, reqs, l := g.handshake(ctx, c, slot)
	slot.leave()
	if outer != nil {
		g.attend(ctx, outer, chans, reqs, l, dspool.ProtocolSSH, c.RemoteAddr().String(), doorPool)
	}
}

// attend is a connection's life once its person is known.
func (g *gateway) attend(ctx context.Context, outer *ssh.ServerConn, chans <-chan ssh.NewChannel, reqs <-chan *ssh.Request, l login, protocol dspool.Protocol, from, doorPool string) {
	// A gateway that stops ends its connections with a word, not by ending their context.
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	co := &conn{
		g: g, id: strings.ToLower(rand.Text()), from: from, protocol: protocol, doorPool: doorPool, login: l, outer: outer, ctx: ctx, cancel: cancel,
		settling: make(chan chan struct{}), placed: make(chan struct{}), stepped: make(chan struct{}), sessions: map[*session]struct{}{},
	}
	co.lastInput.Store(time.Now().UnixMilli())
	g.Log.Info("login", "connection", co.id, "user", l.identity.User, "from", co.from, "auth", l.identity.Auth)
	g.add(co)
	if why := g.trust.Load().revokes(l.cert, l.key); !why.IsZero() { // revoked since it was checked
		co.because(why)
		outer.Close()
	}
	co.parts.Go(co.place)
	if isOpenSSH(outer.ClientVersion()) { // others do not know it, and some leave then
		outer.SendRequest(hostKeysTold, false, g.keys.announcement()) // before any command can end
	}
	co.dispatch(chans, reqs)

	cancel()
	outer.Close()
	<-co.placed
	if co.inner != nil {
		co.inner.Close()
	}
	co.parts.Wait()
	g.remove(co)
	g.reports.ended(co)
	g.Log.Info("logout", "connection", co.id, "user", l.identity.User, "bytes_in", co.in.Load(), "bytes_out", co.out.Load(), "why", co.reason().Code)
}

// handshake lets somebody in, or not.
func (g *gateway) handshake(ctx context.Context, c net.Conn, slot *slot) (*ssh.ServerConn, <-chan ssh.NewChannel, <-chan *ssh.Request, login) {
	end := time.Now().Add(g.Limits.Grace)
	ctx, cancel := context.WithDeadline(ctx, end)
	defer cancel()
	defer context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })()
	if c.SetDeadline(end) != nil {
		return nil, nil, nil, login{}
	}
	wire, offer, err := greet(c)
	if err != nil {
		g.Log.Debug("no ssh", "from", c.RemoteAddr(), "err", err)
		return nil, nil, nil, login{}
	}
	slot.reach(exchanging)
	if c.SetDeadline(end) != nil {
		return nil, nil, nil, login{}
	}
	a := &authenticator{g: g, ctx: ctx, slot: slot, from: c.RemoteAddr()}
	user := ""
	config := a.config(offer)
	config.AuthLogCallback = func(m ssh.ConnMetadata, _ string, _ error) { user = m.User() }
	outer, chans, reqs, err := ssh.NewServerConn(wire, config)
	if err != nil {
		if user != "" {
			g.Log.Info("no login", "from", c.RemoteAddr(), "user", dspool.Quote(user), "why", a.last)
		}
		return nil, nil, nil, login{}
	}
	wire.open.Store(true)
	l, ok := outer.Permissions.ExtraData[loginKey{}].(login)
	if !ok || c.SetDeadline(time.Time{}) != nil || ctx.Err() != nil {
		outer.Close()
		go discard(chans, reqs)
		return nil, nil, nil, login{}
	}
	return outer, chans, reqs, l
}

// discard refuses what is left on a connection that ends.
func discard(chans <-chan ssh.NewChannel, reqs <-chan *ssh.Request) {
	go ssh.DiscardRequests(reqs)
	for ch := range chans {
		ch.Reject(ssh.Prohibited, "the connection ends")
	}
}

// place opens the session and the machine's sshd.
func (c *conn) place() {
	defer close(c.placed)
	in, err := c.reach()
	if err == nil {
		c.inner = in
		c.parts.Go(func() { c.fromMachine(in) })
		return
	}
	var e *dspool.Error
	if !errors.As(err, &e) {
		e = dspool.Errorf(dspool.Internal, "%w", err)
	}
	c.failed = e
	if c.ctx.Err() == nil {
		c.g.Log.Warn("no session", "connection", c.id, "user", c.login.identity.User, "err", e)
		c.because(dspool.Why(dspool.WhyNotOpened, dspool.ReasonParams{Detail: e.Message}))
		c.parts.Go(c.leaveSoon)
	}
}

// reach asks where the session lives and logs in there; a machine that does not answer may have gone
// meanwhile, so that the server is asked again.
func (c *conn) reach() (in *inner, err error) {
	if c.tooMany {
		return nil, dspool.Errorf(dspool.Conflict, "you have %d connections already", c.g.Limits.PerUser).WithHint("end some of them")
	}
	for range machineTries {
		var last api.SessionStep
		if last, err = c.openSession(); err != nil {
			return nil, err
		}
		c.session.Store(last.Session)
		c.machine, c.address, c.record = last.Ready.Machine, last.Ready.Address, last.Ready.Record
		c.progress(api.SessionStep{Session: last.Session, Reason: dspool.Why(dspool.WhyConnecting, dspool.ReasonParams{Machine: c.machine})})
		in, err = c.g.spares.inner(c.ctx, c, *last.Ready)
		if dspool.ErrorCode(err) != dspool.Unavailable || c.ctx.Err() != nil {
			return in, err
		}
	}
	return nil, err
}

func (c *conn) openSession() (api.SessionStep, error) {
	ask := api.OpenSession{
		Connection: c.id, User: c.login.identity.User, Pool: c.login.pool, Size: c.login.size, DoorPool: c.doorPool,
		Protocol: c.protocol, From: c.from, Auth: c.login.identity.Auth, Login: c.login.identity.Login,
	}
	last, err := patiently(c.ctx, func() (api.SessionStep, error) {
		s, err := c.g.server.OpenSession(c.ctx, ask, c.progress)
		if errors.Is(err, errAway) {
			c.progress(api.SessionStep{Reason: dspool.Reason{Code: dspool.WhyServerRestarts}})
		}
		return s, err
	})
	if err == nil && last.Failed != nil {
		err = last.Failed
	}
	return last, err
}

// progress tells everybody who waits how far it has come.
func (c *conn) progress(s api.SessionStep) {
	if s.Session != 0 {
		c.session.Store(s.Session)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.step = s
	close(c.stepped)
	c.stepped = make(chan struct{})
}

func (c *conn) waitingFor() (api.SessionStep, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.step, c.stepped
}

func (c *conn) isPlaced() bool {
	select {
	case <-c.placed:
		return true
	default:
		return false
	}
}

// leaveSoon ends the connection when its person has had the time to read why.
func (c *conn) leaveSoon() {
	t := time.NewTimer(lingering)
	defer t.Stop()
	select {
	case <-t.C:
		c.outer.Close()
	case <-c.ctx.Done():
	}
}

func (c *conn) because(why dspool.Reason) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.why.IsZero() {
		c.why = why
	}
}

func (c *conn) reason() dspool.Reason {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.why
}

func (c *conn) terminals() []*session {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := make([]*session, 0, len(c.sessions))
	for s := range c.sessions {
		list = append(list, s)
	}
	return list
}

// tell writes a reason to the terminals of the connection; the same is not told twice in a row.
func (c *conn) tell(why dspool.Reason) {
	c.mu.Lock()
	again := c.told.Equal(why)
	c.told = why
	c.mu.Unlock()
	if again {
		return
	}
	for _, s := range c.terminals() {
		if s.isTerminal() {
			go s.say(sentence(why))
		}
	}
}

// end tells everybody on the connection why, and closes it. It may be called more than once.
func (c *conn) end(why dspool.Reason) {
	c.because(why)
	var said sync.WaitGroup
	for _, s := range c.terminals() {
		said.Go(func() { s.finish(sentence(why), 254) })
	}
	done := make(chan struct{})
	go func() { said.Wait(); close(done) }()
	t := time.NewTimer(lastWords)
	defer t.Stop()
	select {
	case <-done:
		// The client goes when its channels are closed; closing first could lose the last words.
		select {
		case <-c.ctx.Done():
		case <-t.C:
		}
	case <-t.C:
	case <-c.ctx.Done():
	}
	c.outer.Close()
}

func (c *conn) report(ended bool) api.ConnectionReport {
	return api.ConnectionReport{
		ID: c.id, Session: c.session.Load(), BytesIn: c.in.Load(), BytesOut: c.out.Load(),
		LastInput: time.UnixMilli(c.lastInput.Load()).UTC(), Ended: ended, Why: c.reason(),
	}
}
