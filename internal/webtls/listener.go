package webtls

import (
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

const (
	firstByte    = 10 * time.Second // that a connection may take to say anything
	maxSilent    = 4096             // connections that have not yet
	plainTimeout = 10 * time.Second // for a request without TLS, and between two
	tlsHandshake = 0x16             // the first byte of TLS (RFC 8446, section 5.1); no request of HTTP begins so
)

// Listen makes a listener of TLS connections (*tls.Conn, before their handshake) from a door's. Whoever speaks
// plain HTTP there is answered at once: an ACME authority's challenge with its answer, a person
// with a redirect to https at the same address, or at port 443 for one who came to port 80.
func (s *Source) Listen(l net.Listener) net.Listener {
	t := &listener{Listener: l, config: s.Config(), secure: make(chan accepted), plain: make(chan accepted),
		closed: make(chan struct{}), slots: make(chan struct{}, maxSilent)}
	server := &http.Server{
		Handler:                      http.HandlerFunc(s.servePlain),
		DisableGeneralOptionsHandler: true, ReadHeaderTimeout: plainTimeout, WriteTimeout: plainTimeout, IdleTimeout: plainTimeout, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(s.o.Log.Handler(), slog.LevelDebug),
	}
	t.tasks.Go(t.accept)
	t.tasks.Go(func() { server.Serve(plainListener{t}) })
	t.tasks.Go(func() {
		<-t.closed
		server.Close()
	})
	return t
}

func (s *Source) servePlain(w http.ResponseWriter, r *http.Request) {
	s.mu.RLock()
	domain, from := s.domain, s.from
	s.mu.RUnlock()
	if a, ok := from.(*acme); ok && a.answer(w, r) {
		return
	}
	host := strings.ToLower(r.Host)
	if h, port, err := net.SplitHostPort(host); err == nil {
		if host = h; port != "80" {
			host = net.JoinHostPort(h, port)
		}
		if !ours(h, domain) {
			host = ""
		}
	} else if !ours(host, domain) {
		host = ""
	}
	if host == "" || r.Method != http.MethodGet && r.Method != http.MethodHead || !strings.HasPrefix(r.URL.Path, "/") {
		http.Error(w, "This door speaks https only.", http.StatusBadRequest)
		return
	}
	w.Header().Set("Connection", "close")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Location", "https://"+host+r.URL.RequestURI())
	w.WriteHeader(http.StatusTemporaryRedirect)
}

type accepted struct {
	conn net.Conn
	err  error
}

// listener sorts connections by their first byte.
type listener struct {
	net.Listener
	config        *tls.Config
	secure, plain chan accepted
	closed        chan struct{}
	once          sync.Once
	slots         chan struct{}
	tasks         sync.WaitGroup
}

func (t *listener) accept() {
	for {
		c, err := t.Listener.Accept()
		if err != nil {
			t.give(t.secure, accepted{err: err})
			if errors.Is(err, net.ErrClosed) {
				return
			}
			select {
			case <-t.closed:
				return
			default:
				continue // the taker waited, if waiting is of use
			}
		}
		select {
		case t.slots <- struct{}{}:
			go t.sort(c)
		default:
			c.Close()
		}
	}
}

func (t *listener) sort(c net.Conn) {
	defer func() { <-t.slots }()
	first := make([]byte, 1)
	c.SetReadDeadline(time.Now().Add(firstByte))
	unwatch := t.closeWith(c)
	_, err := io.ReadFull(c, first)
	unwatch()
	if err != nil {
		c.Close()
		return
	}
	c.SetReadDeadline(time.Time{})
	p := &peeked{Conn: c, first: first}
	if first[0] == tlsHandshake {
		t.give(t.secure, accepted{conn: tls.Server(p, t.config)})
	} else {
		t.give(t.plain, accepted{conn: p})
	}
}

// closeWith closes c when the listener is closed before the returned function is called.
func (t *listener) closeWith(c net.Conn) (unwatch func()) {
	done := make(chan struct{})
	go func() {
		select {
		case <-t.closed:
			c.Close()
		case <-done:
		}
	}()
	return func() { close(done) }
}

func (t *listener) give(to chan accepted, a accepted) {
	select {
	case to <- a:
	case <-t.closed:
		if a.conn != nil {
			a.conn.Close()
		}
	}
}

func (t *listener) take(from chan accepted) (net.Conn, error) {
	select {
	case a := <-from:
		return a.conn, a.err
	case <-t.closed:
		return nil, net.ErrClosed
	}
}

// Accept returns connections that speak TLS.
func (t *listener) Accept() (net.Conn, error) { return t.take(t.secure) }

// Close also ends what is being answered without TLS, and connections that have not said anything.
func (t *listener) Close() error {
	err := t.Listener.Close()
	t.once.Do(func() { close(t.closed) })
	t.tasks.Wait()
	return err
}

type plainListener struct{ *listener }

func (p plainListener) Accept() (net.Conn, error) { return p.take(p.plain) }
func (p plainListener) Close() error              { return nil } // the door's is closed by its own owner

// peeked is a connection whose first byte was read already.
type peeked struct {
	net.Conn
	first []byte
}

func (p *peeked) Read(b []byte) (int, error) {
	if len(p.first) > 0 && len(b) > 0 {
		n := copy(b, p.first)
		p.first = p.first[n:]
		return n, nil
	}
	return p.Conn.Read(b)
}
