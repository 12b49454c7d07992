package webtls

import (
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	plainTimeout = 10 * time.Second // for a request without TLS
	tlsHandshake = 0x16             // the first byte of TLS (RFC 8446, section 5.1); no request of HTTP begins so
)

// Listen makes a listener of TLS connections (*tls.Conn, before their handshake) from a door's. Whoever speaks
// plain HTTP there fails to shake hands and is answered beside it: an ACME authority's challenge with its
// answer, a person with a redirect to https at the same address, or at port 443 for one who came
// to port 80. Closing the listener closes the door's.
func (s *Source) Listen(l net.Listener) net.Listener {
	t := &listener{Listener: l, config: s.Config(), plain: make(chan net.Conn), closed: make(chan struct{})}
	t.server = &http.Server{
		Handler:           http.HandlerFunc(s.servePlain),
		ReadHeaderTimeout: plainTimeout, ReadTimeout: plainTimeout, WriteTimeout: plainTimeout, MaxHeaderBytes: 16 << 10,
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     slog.NewLogLogger(s.o.Log.Handler(), slog.LevelDebug),
	}
	t.server.SetKeepAlivesEnabled(false)
	go t.server.Serve(plainListener{t})
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
	name, port, err := net.SplitHostPort(host)
	if err != nil {
		name, port = host, ""
	}
	if !ours(name, domain) || r.Method != http.MethodGet && r.Method != http.MethodHead || !strings.HasPrefix(r.URL.Path, "/") {
		http.Error(w, "This door speaks https only.", http.StatusBadRequest)
		return
	}
	host = name
	if port != "" && port != "80" {
		host = net.JoinHostPort(name, port)
	}
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Location", "https://"+host+r.URL.RequestURI())
	w.WriteHeader(http.StatusTemporaryRedirect)
}

// listener looks at connections only once they are read, so that it holds none back when it is closed.
type listener struct {
	net.Listener
	config *tls.Config
	server *http.Server  // of those that speak plain HTTP
	plain  chan net.Conn // to server
	closed chan struct{}
	once   sync.Once
}

// Accept returns a connection that may yet turn out to be no TLS: then its handshake ends at once.
func (t *listener) Accept() (net.Conn, error) {
	c, err := t.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return tls.Server(&sniffed{Conn: c, divert: t.divert}, t.config), nil
}

func (t *listener) divert(c net.Conn) {
	select {
	case t.plain <- c:
	case <-t.closed:
		c.Close()
	}
}

// Close leaves what is being answered without TLS its time to end.
func (t *listener) Close() error {
	t.once.Do(func() {
		close(t.closed)
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), plainTimeout)
			defer cancel()
			t.server.Shutdown(ctx)
			t.server.Close()
		}()
	})
	return t.Listener.Close()
}

type plainListener struct{ *listener }

func (p plainListener) Accept() (net.Conn, error) {
	select {
	case c := <-p.plain:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p plainListener) Close() error { return nil } // the door's is closed by its own owner

// sniffed is a connection that TLS reads, until its first byte shows that it speaks something else: then it
// goes elsewhere, and to TLS it has ended.
type sniffed struct {
	net.Conn
	divert func(net.Conn)
	speaks atomic.Int32
}

// What a connection speaks.
const (
	notYet int32 = iota
	speaksTLS
	speaksElse // it is no longer ours to touch
)

// Read hands the connection on when it is no TLS.
func (s *sniffed) Read(b []byte) (int, error) {
	if s.gone() {
		return 0, io.EOF
	}
	n, err := s.Conn.Read(b)
	if n == 0 || s.speaks.Load() == speaksTLS {
		return n, err
	}
	if b[0] == tlsHandshake {
		s.speaks.Store(speaksTLS)
		return n, err
	}
	s.speaks.Store(speaksElse)
	s.Conn.SetDeadline(time.Time{}) // TLS's; the next server sets its own
	s.divert(&begun{Conn: s.Conn, first: append([]byte(nil), b[:n]...)})
	return 0, io.EOF
}

func (s *sniffed) gone() bool { return s.speaks.Load() == speaksElse }

func (s *sniffed) Write(b []byte) (int, error) {
	if s.gone() {
		return 0, net.ErrClosed
	}
	return s.Conn.Write(b)
}

func (s *sniffed) Close() error { return s.unlessGone(s.Conn.Close) }

func (s *sniffed) SetDeadline(t time.Time) error {
	return s.unlessGone(func() error { return s.Conn.SetDeadline(t) })
}

func (s *sniffed) SetReadDeadline(t time.Time) error {
	return s.unlessGone(func() error { return s.Conn.SetReadDeadline(t) })
}

func (s *sniffed) SetWriteDeadline(t time.Time) error {
	return s.unlessGone(func() error { return s.Conn.SetWriteDeadline(t) })
}

func (s *sniffed) unlessGone(do func() error) error {
	if s.gone() {
		return nil
	}
	return do()
}

// begun is a connection of which something was read already.
type begun struct {
	net.Conn
	first []byte
}

func (b *begun) Read(into []byte) (int, error) {
	if len(b.first) > 0 && len(into) > 0 {
		n := copy(into, b.first)
		b.first = b.first[n:]
		return n, nil
	}
	return b.Conn.Read(into)
}
