// Package gateway lets people in. It is a process of its own that keeps the ssh doors: it terminates
// SSH once, asks the server over a unix socket who came in and where their session lives, opens the
// machine's own sshd with a certificate that lives minutes, and carries every channel and request
// between the two, whatever they are. It holds no database and no long-lived key but its host keys.
//
// The server may go away at any time: open connections live on, and reports wait for it. A new
// gateway asks the old one for its listening sockets; the old one lets its connections finish.
package gateway

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
)

// Options say how a gateway runs.
type Options struct {
	StateDir string // the server's; the gateway keeps its own things under gateway/ and recordings/
	Version  string // told on the control socket
	Log      *slog.Logger
	Limits   Limits
	Held     Held // listening sockets of a gateway that has died
}

// Limits bound what people can take, most of all those who have not logged in. Zero means the default.
type Limits struct {
	Handshakes int           // connections that have not logged in, all together; 768
	PerSource  int           // of these from one IPv4 address or IPv6 /64; 256
	Silent     int           // of these, those that have not yet begun a key exchange; 128
	Grace      time.Duration // from the first byte until the login must be done; 30 s
	PerUser    int           // connections that one user has; 200: each takes processes on a machine that others share
}

func (l Limits) orDefault() Limits {
	l.Handshakes, l.PerSource = cmp.Or(l.Handshakes, 768), cmp.Or(l.PerSource, 256)
	l.Silent, l.Grace = cmp.Or(l.Silent, 128), cmp.Or(l.Grace, 30*time.Second)
	l.PerUser = cmp.Or(l.PerUser, 200)
	return l
}

type gateway struct {
	Options
	server  server
	keys    hostKeys
	trust   atomic.Pointer[trust]
	slots   *slots
	guesses *guesses
	spares  *spares
	reports *reports
	doors   *doors
	web     *web
	ctx     context.Context // ends when everything must

	mu       sync.Mutex
	conns    map[string]*conn
	people   map[string]int // users, by how many connections they have
	handed   bool           // the doors are another gateway's now
	empty    chan struct{}
	latest   api.GatewayDirectives
	serving  sync.WaitGroup
	holders  atomic.Int64  // of the listening sockets, beside this process
	finished chan struct{} // closed when handed over and nobody is left
	begun    chan struct{} // closed with the first directives
	begin    sync.Once
}

// Run keeps the doors until ctx ends, or until another gateway has taken them over and the last
// connection is finished; it returns nil then.
func Run(ctx context.Context, o Options) error {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if !Patched() {
		o.Log.Warn("this program was built without scripts/go: paramiko with several keys and libssh do not get in")
	}
	o.Limits = o.Limits.orDefault()
	dir := filepath.Join(o.StateDir, "gateway")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return dspool.Errorf(dspool.Unavailable, "make the gateway's directory: %w", err)
	}
	keys, err := loadHostKeys(dir)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g := &gateway{
		Options: o, server: newLink(filepath.Join(o.StateDir, "gateway.sock")), keys: keys,
		slots: newSlots(o.Limits), guesses: newGuesses(), conns: map[string]*conn{}, people: map[string]int{}, finished: make(chan struct{}), begun: make(chan struct{}), ctx: ctx,
	}
	g.trust.Store(&trust{})
	g.reports = newReports(g)
	g.spares = newSpares(g)
	g.doors = newDoors(g)

	inherited, err := takeOver(ctx, dir, g, o.Held)
	if err != nil {
		return err
	}
	if g.web, err = newWeb(g, dir, inherited.Routes); err != nil {
		return errors.Join(err, inherited.drop())
	}
	control, err := g.listenControl(dir)
	if err != nil {
		return errors.Join(err, inherited.drop())
	}
	var parts sync.WaitGroup
	parts.Go(func() { g.serveControl(control) })
	inherited.accept() // before any directive would open the same doors
	parts.Go(func() { g.follow(ctx) })
	parts.Go(func() { g.reports.run(ctx) })

	select {
	case <-ctx.Done():
	case <-g.finished:
	}
	g.doors.close()
	control.Close()
	g.web.stop()
	for _, c := range g.all() {
		go c.end(dspool.Reason{Code: dspool.WhyGatewayStops})
	}
	g.serving.Wait()
	g.spares.close()
	cancel()
	parts.Wait()
	g.reports.flush()
	return nil
}

// Patched says whether this program was built with what the doors need of the SSH library, by scripts/go
// (docs/adr/0014-the-door-is-openssh.md).
func Patched() bool {
	_, patched := any(&ssh.ServerConfig{}).(interface{ Patched() })
	return patched
}

// follow keeps to the server's directives; while it is away, the last ones stay.
func (g *gateway) follow(ctx context.Context) {
	rest := newRest(100*time.Millisecond, 3*time.Second)
	var after int64
	for ctx.Err() == nil {
		d, err := g.server.Directives(ctx, after)
		if err != nil {
			after = 0 // another server may count anew
			rest.wait(ctx)
			continue
		}
		rest.reset()
		after = d.Revision
		g.apply(d)
	}
}

func (g *gateway) apply(d api.GatewayDirectives) {
	g.mu.Lock()
	g.latest = d
	handed := g.handed
	g.mu.Unlock()
	t, err := parseTrust(d.Trust)
	if err != nil {
		g.Log.Error("read whom to trust", "err", err) // what could be read counts
	}
	g.trust.Store(t)
	g.keys.certify(d.Trust.HostCert)
	g.web.apply(d.Web, d.Doors)
	g.begin.Do(func() { close(g.begun) })
	if !handed {
		g.doors.set(withMachineDoor(d))
	}
	g.spares.keepTo(d.Rights)
	for _, c := range g.all() {
		if why := t.revokes(c.login.cert, c.login.key); !why.IsZero() {
			g.spares.forget(c.login.identity.User)
			go c.end(dspool.Reason{Code: dspool.WhyLoginInvalid}.With(why))
		}
	}
	for _, n := range d.End {
		if c := g.conn(n.Connection); c != nil {
			g.spares.forget(c.login.identity.User)
			go c.end(n.Reason)
		}
	}
	for _, n := range d.Tell {
		if c := g.conn(n.Connection); c != nil {
			go c.tell(n.Reason)
		}
	}
}

func (g *gateway) conn(id string) *conn {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.conns[id]
}

func (g *gateway) all() []*conn {
	g.mu.Lock()
	defer g.mu.Unlock()
	list := make([]*conn, 0, len(g.conns))
	for _, c := range g.conns {
		list = append(list, c)
	}
	return list
}

func (g *gateway) add(c *conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.conns[c.id] = c
	user := c.login.identity.User
	g.people[user]++
	c.tooMany = g.people[user] > g.Limits.PerUser
}

func (g *gateway) remove(c *conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.conns, c.id)
	user := c.login.identity.User
	if g.people[user]--; g.people[user] == 0 {
		delete(g.people, user)
	}
}

// leaveOnceEmpty ends the gateway when the connections that it still serves are finished.
func (g *gateway) leaveOnceEmpty() {
	g.doors.close()
	g.web.leave()
	go func() {
		g.serving.Wait()
		close(g.finished)
	}()
}

// rest is a pause that doubles.
type rest struct{ first, most, next time.Duration }

func newRest(first, most time.Duration) *rest { return &rest{first: first, most: most, next: first} }

func (r *rest) reset() { r.next = r.first }

// wait returns false when ctx ended first.
func (r *rest) wait(ctx context.Context) bool {
	t := time.NewTimer(r.next)
	defer t.Stop()
	r.next = min(2*r.next, r.most)
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
