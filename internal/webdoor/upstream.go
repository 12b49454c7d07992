package webdoor

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Upstream is where a request goes.
type Upstream struct {
	Network string      // "tcp" or "unix"
	Address string      // as net.Dial takes it
	Host    string      // the Host header to send; "" keeps what the client sent
	TLS     *tls.Config // nil speaks plain HTTP
	// Check, if any, looks at every new connection before anything is sent on it; its error refuses it.
	Check func(context.Context, net.Conn) error
}

// Of connections that nobody uses, some are kept for the next request.
const (
	dialWithin      = 10 * time.Second
	keepIdle        = 90 * time.Second
	mostIdle        = 4096 // all together
	mostIdleOfOne   = 128
	trustIdle       = 5 * time.Millisecond // an idle connection this young needs no look before use
	mostHead        = 256 << 10            // bytes of a response's head, with the informational ones before it
	upstreamReading = 8 << 10
	upstreamWriting = 4 << 10
)

// place tells connections apart: what belongs to one scope never serves another, even if the other
// has got the address since.
type place struct {
	scope, network, address string
	tls                     *tls.Config
}

// conn is a connection to an upstream, used for one exchange at a time.
type conn struct {
	net.Conn
	br     *bufio.Reader
	bw     *bufio.Writer
	place  place
	raw    syscall.RawConn // of a plain connection
	budget int             // bytes that may still be read of a head; negative: no limit
	reused bool
	since  time.Time // idle since
	peek   func(fd uintptr) bool
	live   bool
}

var errHeadTooLong = errors.New("the response's head is too long")

// Read takes bytes off the wire for br.
func (c *conn) Read(p []byte) (int, error) {
	if c.budget < 0 {
		return c.Conn.Read(p)
	}
	if c.budget == 0 {
		return 0, errHeadTooLong
	}
	n, err := c.Conn.Read(p[:min(len(p), c.budget)])
	c.budget -= n
	return n, err
}

// tcp is the connection for the kernel to copy from, or nil.
func (c *conn) tcp() *net.TCPConn {
	t, _ := c.Conn.(*net.TCPConn)
	return t
}

// alive says that an idle connection is still open and that nothing has come on it.
func (c *conn) alive() bool {
	if c.br.Buffered() > 0 {
		return false
	}
	if c.raw == nil {
		return true
	}
	c.live = false
	return c.raw.Read(c.peek) == nil && c.live
}

func newConn(nc net.Conn, at place) *conn {
	c := &conn{Conn: nc, place: at}
	c.br, c.bw = bufio.NewReaderSize(c, upstreamReading), bufio.NewWriterSize(nc, upstreamWriting)
	if s, ok := nc.(syscall.Conn); ok {
		c.raw, _ = s.SyscallConn()
	}
	var one [1]byte
	c.peek = func(fd uintptr) bool {
		_, _, err := unix.Recvfrom(int(fd), one[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		c.live = errors.Is(err, unix.EAGAIN)
		return true
	}
	return c
}

// pool keeps connections between requests.
type pool struct {
	mu     sync.Mutex
	idle   map[place][]*conn // the last is the youngest
	count  int
	sweep  *time.Timer
	closed bool
}

// get returns an idle connection, or makes one. Careful ones are looked at first: their requests
// cannot be sent a second time.
func (p *pool) get(ctx context.Context, at place, check func(context.Context, net.Conn) error, careful bool) (*conn, error) {
	for {
		c := p.take(at)
		if c == nil {
			return dial(ctx, at, check)
		}
		if (careful || time.Since(c.since) > trustIdle) && !c.alive() {
			c.Close()
			continue
		}
		c.reused = true
		return c, nil
	}
}

func (p *pool) take(at place) *conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := p.idle[at]
	if len(list) == 0 {
		return nil
	}
	c := list[len(list)-1]
	list[len(list)-1] = nil
	p.idle[at] = list[:len(list)-1]
	p.count--
	return c
}

func (p *pool) put(c *conn) {
	c.since = time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.count >= mostIdle || len(p.idle[c.place]) >= mostIdleOfOne {
		c.Close()
		return
	}
	if p.idle == nil {
		p.idle = map[place][]*conn{}
	}
	p.idle[c.place] = append(p.idle[c.place], c)
	p.count++
	if p.sweep == nil {
		p.sweep = time.AfterFunc(keepIdle, p.clean)
	}
}

// clean closes what has been idle for long.
func (p *pool) clean() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for at, list := range p.idle {
		old := 0
		for old < len(list) && time.Since(list[old].since) >= keepIdle {
			list[old].Close()
			old++
		}
		p.count -= old
		if old == len(list) {
			delete(p.idle, at)
		} else {
			p.idle[at] = append([]*conn(nil), list[old:]...)
		}
	}
	p.sweep = nil
	if p.count > 0 && !p.closed {
		p.sweep = time.AfterFunc(keepIdle, p.clean)
	}
}

func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, list := range p.idle {
		for _, c := range list {
			c.Close()
		}
	}
	p.idle, p.count = nil, 0
	if p.sweep != nil {
		p.sweep.Stop()
	}
}

func dial(ctx context.Context, at place, check func(context.Context, net.Conn) error) (*conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialWithin)
	defer cancel()
	var d net.Dialer
	nc, err := d.DialContext(ctx, at.network, at.address)
	if err != nil {
		return nil, err
	}
	if check != nil {
		if err := check(ctx, nc); err != nil {
			nc.Close()
			return nil, err
		}
	}
	if at.tls != nil {
		config := at.tls
		if config.ServerName == "" && !config.InsecureSkipVerify {
			config = config.Clone()
			config.ServerName, _, _ = net.SplitHostPort(at.address)
		}
		t := tls.Client(nc, config)
		if err := t.HandshakeContext(ctx); err != nil {
			nc.Close()
			return nil, err
		}
		nc = t
	}
	return newConn(nc, at), nil
}
