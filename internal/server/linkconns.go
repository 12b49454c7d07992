package server

import (
	"crypto/tls"
	"net"
	"net/netip"
	"sync"
)

// mostOfMachine is how many connections one address may have to the agent link, of those that have
// shown a machine's certificate and of the others each. An agent has two.
const mostOfMachine = 32

// linkListener keeps whoever is on a machine from filling the server with connections: one more than
// there may be ends the oldest of its kind. Without the machine's key nobody ends its agent's.
// Connections from this host's own addresses count to nobody.
type linkListener struct {
	net.Listener
	mu  sync.Mutex
	all map[netip.Addr][]*linkConn // oldest first
}

type linkConn struct {
	net.Conn
	l     *linkListener
	from  netip.Addr
	known bool // has shown a certificate; guarded by l.mu
	gone  sync.Once
}

// limitLink serves the agent link on l, with the limits.
func limitLink(l net.Listener, config *tls.Config) net.Listener {
	config = config.Clone()
	config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		conn, ok := hello.Conn.(*linkConn)
		if !ok {
			return nil, nil
		}
		own := config.Clone()
		own.VerifyConnection = func(s tls.ConnectionState) error {
			if err := config.VerifyConnection(s); err != nil {
				return err
			}
			if len(s.PeerCertificates) > 0 {
				conn.shown()
			}
			return nil
		}
		return own, nil
	}
	return tls.NewListener(&linkListener{Listener: l, all: map[netip.Addr][]*linkConn{}}, config)
}

func (l *linkListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	from, err := netip.ParseAddrPort(c.RemoteAddr().String())
	if err != nil || from.Addr().Unmap().IsLoopback() {
		return c, nil
	}
	conn := &linkConn{Conn: c, l: l, from: from.Addr().Unmap()}
	l.mu.Lock()
	l.all[conn.from] = append(l.all[conn.from], conn)
	over := l.over(conn)
	l.mu.Unlock()
	if over != nil {
		over.Close()
	}
	return conn, nil
}

// over returns the oldest connection of c's kind if there are too many; l.mu is held.
func (l *linkListener) over(c *linkConn) (oldest *linkConn) {
	n := 0
	for _, o := range l.all[c.from] {
		if o.known == c.known {
			if n++; oldest == nil {
				oldest = o
			}
		}
	}
	if n <= mostOfMachine {
		return nil
	}
	return oldest
}

// shown notes that the other end is a machine.
func (c *linkConn) shown() {
	c.l.mu.Lock()
	c.known = true
	over := c.l.over(c)
	c.l.mu.Unlock()
	if over != nil {
		over.Close()
	}
}

func (c *linkConn) Close() error {
	c.gone.Do(func() {
		c.l.mu.Lock()
		defer c.l.mu.Unlock()
		rest := c.l.all[c.from]
		for i, o := range rest {
			if o == c {
				rest = append(rest[:i:i], rest[i+1:]...)
				break
			}
		}
		if c.l.all[c.from] = rest; len(rest) == 0 {
			delete(c.l.all, c.from)
		}
	})
	return c.Conn.Close()
}
