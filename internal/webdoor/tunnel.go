package webdoor

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A tunnel is an open WebSocket: bytes both ways, whatever they mean.
const (
	tunnelSmall = 4 << 10 // most frames of kernels and terminals fit
	tunnelBig   = 64 << 10
	// halfOpen is how long one way stays open after the other has ended. Neither end of a WebSocket
	// has anything to say then but its own goodbye.
	halfOpen = 3 * time.Second
)

var bigBuffers = sync.Pool{New: func() any { return new([tunnelBig]byte) }}

// tunnels are those that are open.
type tunnels struct {
	mu     sync.Mutex
	open   map[net.Conn]net.Conn // client to upstream
	closed bool
}

func (t *tunnels) add(client, upstream net.Conn) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	if t.open == nil {
		t.open = map[net.Conn]net.Conn{}
	}
	t.open[client] = upstream
	return true
}

func (t *tunnels) remove(client net.Conn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.open, client)
}

func (t *tunnels) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	for client, upstream := range t.open {
		client.Close()
		upstream.Close()
	}
}

func (t *tunnels) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.open)
}

// isSwitch says that a 101 response switches to WebSocket.
func isSwitch(h http.Header) bool {
	return strings.EqualFold(strings.TrimSpace(h.Get("Upgrade")), "websocket") && slices.Contains(listed(h), "Upgrade")
}

// tunnel takes the client's connection over and carries bytes until either end closes.
func (x *exchange) tunnel(resp *http.Response) error {
	client, early, err := hijack(x.w)
	if err != nil {
		return err
	}
	defer client.Close()
	if !x.tunnels.add(client, x.c.Conn) {
		return nil
	}
	defer x.tunnels.remove(client)
	x.Meter.webSockets.Add(1)
	defer x.Meter.webSockets.Add(-1)
	var sent, received atomic.Int64
	if x.Tunnel != nil {
		closed := x.Tunnel(func() { client.Close() })
		defer func() { closed(sent.Load(), received.Load()) }()
	}
	if err := writeSwitch(client, resp); err != nil {
		return nil
	}
	x.Meter.Note()
	ended := make(chan error, 2)
	go func() {
		err := pump(client, x.c.Conn, x.leftovers(), &sent, &x.Meter.sent, x.Meter)
		ended <- errors.Join(err, closeWrite(client))
	}()
	go func() {
		err := pump(x.c.Conn, client, early, &received, &x.Meter.received, x.Meter)
		ended <- errors.Join(err, closeWrite(x.c.Conn))
	}()
	if err := <-ended; err == nil {
		t := time.NewTimer(halfOpen)
		defer t.Stop()
		select {
		case <-ended:
			return nil
		case <-t.C:
		}
	}
	client.Close()
	x.c.Close()
	<-ended
	return nil
}

// leftovers is what the upstream sent right behind its response.
func (x *exchange) leftovers() []byte {
	b, _ := x.c.br.Peek(x.c.br.Buffered())
	return b
}

// Hijackable returns w for programs that take its connection over by themselves: a [Server]'s connections
// look at every request's head, and must not look at what is none.
func Hijackable(w http.ResponseWriter) http.ResponseWriter { return hijackable{w} }

type hijackable struct{ http.ResponseWriter }

func (h hijackable) Unwrap() http.ResponseWriter { return h.ResponseWriter }

func (h hijackable) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, early, err := hijack(h.ResponseWriter)
	if err != nil {
		return nil, nil, err
	}
	in := bufio.NewReaderSize(io.MultiReader(bytes.NewReader(early), c), max(len(early), upstreamReading))
	if _, err := in.Peek(len(early)); err != nil {
		c.Close()
		return nil, nil, err
	}
	return c, bufio.NewReadWriter(in, bufio.NewWriter(c)), nil
}

// hijack returns the client's own connection and what has already been read of it.
func hijack(w http.ResponseWriter) (net.Conn, []byte, error) {
	c, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, nil, err
	}
	early, _ := rw.Reader.Peek(rw.Reader.Buffered())
	early = slices.Clone(early)
	if s, ok := c.(*strictConn); ok {
		inner, rest := s.release()
		return inner, append(early, rest...), nil
	}
	return c, early, nil
}

func writeSwitch(to net.Conn, resp *http.Response) error {
	var b strings.Builder
	b.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n")
	drop := listed(resp.Header)
	for name, values := range resp.Header {
		if hopByHop(name) || slices.Contains(drop, name) {
			continue
		}
		for _, v := range values {
			b.WriteString(name + ": " + v + "\r\n")
		}
	}
	b.WriteString("\r\n")
	_, err := io.WriteString(to, b.String())
	return err
}

// pump copies from one connection to the other until the first ends, early bytes before. A buffer
// grows with what comes, because most WebSockets are silent most of the time.
func pump(to, from net.Conn, early []byte, own, all *atomic.Int64, m *Meter) error {
	write := func(b []byte) error {
		n, err := to.Write(b)
		own.Add(int64(n))
		all.Add(int64(n))
		m.Note()
		return err
	}
	if len(early) > 0 {
		if err := write(early); err != nil {
			return err
		}
	}
	small := make([]byte, tunnelSmall)
	buf := small
	var big *[tunnelBig]byte
	defer func() {
		if big != nil {
			bigBuffers.Put(big)
		}
	}()
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if err := write(buf[:n]); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		switch {
		case big == nil && n == len(small):
			big = bigBuffers.Get().(*[tunnelBig]byte)
			buf = big[:]
		case big != nil && n <= len(small):
			bigBuffers.Put(big)
			big, buf = nil, small
		}
	}
}

// closeWrite tells the other end that nothing more comes.
func closeWrite(c net.Conn) error {
	if h, ok := c.(interface{ CloseWrite() error }); ok {
		return h.CloseWrite()
	}
	return c.Close()
}
