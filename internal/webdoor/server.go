package webdoor

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"syscall"
	"time"
)

// Limits of what clients may take before they have sent a request. There is none on how long a
// request or its response takes: kernels are silent for days.
const (
	headerWithin    = 30 * time.Second
	handshakeWithin = 15 * time.Second
	idleFor         = 3 * time.Minute
	requestHead     = 64 << 10
	mostHandshakes  = 1024
	newcomersWithin = 5 * time.Second        // for who has connected to a server that shuts down to ask for something
	acceptRest      = 100 * time.Millisecond // when this process has no more files
	streams         = 250                    // of one HTTP/2 connection
)

// Server serves HTTP to browsers: HTTP/1.1 and, with TLS, HTTP/2. It never offers WebSockets over
// HTTP/2 (RFC 8441): browsers open a connection of their own for them.
type Server struct {
	http    *http.Server
	shaking sync.WaitGroup // handshakes, and the loops that begin them

	mu        sync.Mutex
	listeners map[net.Listener]bool
	closing   bool
	open      int           // connections, without those that somebody took over
	empty     chan struct{} // closed when closing and none is open
}

type tlsKey struct{}

// NewServer makes a server of h. Its own complaints, most of them of clients that do not speak HTTP, are
// logged at debug level.
func NewServer(h http.Handler, log *slog.Logger) *Server {
	s := &Server{http: newHTTPServer(h, log), listeners: map[net.Listener]bool{}, empty: make(chan struct{})}
	s.http.ConnState = s.count
	return s
}

func newHTTPServer(h http.Handler, log *slog.Logger) *http.Server {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	return &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.ProtoMajor == 1 {
				if state, ok := r.Context().Value(tlsKey{}).(*tls.ConnectionState); ok {
					r.TLS = state
				}
				if len(r.TransferEncoding) > 0 { // strictConn has lost count
					w.Header().Set("Connection", "close")
				}
			}
			h.ServeHTTP(w, r)
		}),
		Protocols:         &protocols,
		ReadHeaderTimeout: headerWithin,
		IdleTimeout:       idleFor,
		MaxHeaderBytes:    requestHead,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: streams, MaxReceiveBufferPerConnection: 4 << 20, MaxReceiveBufferPerStream: 1 << 20},
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			if s, ok := c.(*strictConn); ok {
				if t, ok := s.Conn.(*tls.Conn); ok {
					state := t.ConnectionState()
					ctx = context.WithValue(ctx, tlsKey{}, &state)
				}
			}
			return ctx
		},
	}
}

// Serve serves the connections of l, with TLS where config is not nil, until Shutdown or Close; it
// returns http.ErrServerClosed then. Connections that are TLS's already are taken as they are, before or
// after their handshake.
func (s *Server) Serve(l net.Listener, config *tls.Config) error {
	if config == nil {
		l = strictListener{l}
	} else {
		config = config.Clone()
		if len(config.NextProtos) == 0 {
			config.NextProtos = []string{"h2", "http/1.1"}
		}
		if config.MinVersion == 0 {
			config.MinVersion = tls.VersionTLS12
		}
		l = s.newTLSListener(l, config)
	}
	if !s.track(l) {
		return errors.Join(http.ErrServerClosed, l.Close())
	}
	err := s.http.Serve(l)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.listeners, l)
	if s.closing {
		return http.ErrServerClosed
	}
	return err
}

func (s *Server) track(l net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closing {
		s.listeners[l] = true
	}
	return !s.closing
}

// count follows connections.
func (s *Server) count(_ net.Conn, state http.ConnState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch state {
	case http.StateNew:
		s.open++
	case http.StateClosed, http.StateHijacked:
		s.open--
		s.checkEmpty()
	}
}

func (s *Server) checkEmpty() {
	if s.closing && s.open == 0 {
		select {
		case <-s.empty:
		default:
			close(s.empty)
		}
	}
}

// Shutdown takes no more connections and waits for requests to end; WebSockets are not waited for. Who
// has come in gets an answer: net/http's own Shutdown drops requests that it is about to read.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.closing = true
	listeners := slices.Collect(maps.Keys(s.listeners))
	s.mu.Unlock()
	for _, l := range listeners {
		l.Close()
	}
	s.http.SetKeepAlivesEnabled(false) // connections end with their next response
	shaken := make(chan struct{})
	go func() {
		s.shaking.Wait()
		close(shaken)
	}()
	grace, cancel := context.WithTimeout(ctx, newcomersWithin)
	defer cancel()
	select {
	case <-shaken:
		s.mu.Lock()
		s.checkEmpty()
		s.mu.Unlock()
		select {
		case <-s.empty:
		case <-grace.Done():
		}
	case <-grace.Done():
	}
	return s.http.Shutdown(ctx)
}

// Close ends all connections but WebSockets.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closing = true
	s.mu.Unlock()
	return s.http.Close()
}

type strictListener struct{ net.Listener }

func (l strictListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return newStrictConn(c), nil
}

// tlsListener does the handshakes, because what to do with a connection depends on their outcome:
// net/http knows HTTP/2 by the type of the connection, and HTTP/1 goes through a strictConn.
type tlsListener struct {
	net.Listener
	server  *Server
	config  *tls.Config
	ready   chan net.Conn
	places  chan struct{} // handshakes under way
	stop    chan struct{}
	once    sync.Once
	failure error // once stop is closed
}

func (s *Server) newTLSListener(l net.Listener, config *tls.Config) *tlsListener {
	t := &tlsListener{Listener: l, server: s, config: config, ready: make(chan net.Conn), places: make(chan struct{}, mostHandshakes), stop: make(chan struct{})}
	s.shaking.Go(t.accept)
	return t
}

func (l *tlsListener) accept() {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ECONNABORTED) {
				if l.rest() {
					continue
				}
			}
			l.end(err)
			return
		}
		select {
		case l.places <- struct{}{}:
			l.server.shaking.Go(func() { l.handshake(c) })
		case <-l.stop:
			c.Close()
			return
		}
	}
}

// rest waits for files to become free; false says that the listener has been closed.
func (l *tlsListener) rest() bool {
	t := time.NewTimer(acceptRest)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-l.stop:
		return false
	}
}

func (l *tlsListener) handshake(c net.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), handshakeWithin)
	defer cancel()
	t, ok := c.(*tls.Conn)
	if !ok {
		t = tls.Server(c, l.config)
	}
	err := t.HandshakeContext(ctx)
	<-l.places
	if err != nil {
		c.Close()
		return
	}
	var ready net.Conn = t
	if t.ConnectionState().NegotiatedProtocol != "h2" {
		ready = newStrictConn(t)
	}
	select {
	case l.ready <- ready:
	case <-l.stop:
		_ = l.server.http.Serve(&oneConn{Conn: ready})
	}
}

// oneConn is a listener of a connection that is already there.
type oneConn struct {
	net.Conn
	given bool
}

func (l *oneConn) Accept() (net.Conn, error) {
	if l.given {
		return nil, net.ErrClosed
	}
	l.given = true
	return l.Conn, nil
}

func (l *oneConn) Addr() net.Addr { return l.LocalAddr() }

// Close leaves the connection to the server.
func (l *oneConn) Close() error { return nil }

func (l *tlsListener) end(err error) {
	l.once.Do(func() {
		l.failure = err
		close(l.stop)
	})
}

func (l *tlsListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.ready:
		return c, nil
	case <-l.stop:
		return nil, l.failure
	}
}

func (l *tlsListener) Close() error {
	err := l.Listener.Close()
	l.end(net.ErrClosed)
	return err
}
