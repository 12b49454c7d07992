package webdoor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"
)

// Proxy carries requests to upstreams and answers back. Its zero value is ready.
type Proxy struct {
	// Trusts says which addresses are proxies in front of this one: what they say in X-Forwarded-* is
	// passed on. nil trusts none.
	Trusts func(netip.Addr) bool

	pool    pool
	tunnels tunnels
}

// Call is one request's way.
type Call struct {
	To     Upstream
	Scope  string // whose the upstream is: connections of one scope never serve another's requests
	Target string // path and query to ask for; "" asks for what the client did
	Meter  *Meter // may be nil
	// Tunnel, if any, hears of a WebSocket that is open and may end it; what it returns is called at its end.
	Tunnel func(end func()) (closed func(sent, received int64))
}

// ErrUpstream is in the errors of Forward that are the upstream's fault.
var ErrUpstream = errors.New("the upstream does not answer")

const (
	copySize      = 32 << 10
	spliceFrom    = 64 << 10        // bodies with as many bytes to come go past user space where they can
	spliceSize    = 512 << 10       // of these, as many at a time
	expectWithin  = time.Second     // for an upstream to say 100 Continue; then the body is sent anyway (RFC 9110 section 10.1.1)
	mostInforming = 16              // 1xx responses before the real one
	lingerUpload  = 3 * time.Second // for the client to send on of an upload whose response is complete
	lingerSize    = 64 << 20
)

var buffers = sync.Pool{New: func() any { return new([copySize]byte) }}

// Close ends idle connections and WebSockets. Exchanges that are under way go on.
func (p *Proxy) Close() {
	p.tunnels.close()
	p.pool.close()
}

// exchange is one request and its response.
type exchange struct {
	*Proxy
	Call
	w      http.ResponseWriter
	r      *http.Request
	c      *conn
	socket bool    // a WebSocket is asked for
	up     *upload // nil where nothing goes up, or not yet
}

// Forward sends a request on and the response back. An error says that w is untouched, for the caller
// to answer. What breaks later panics with http.ErrAbortHandler, for the client to see it break.
func (p *Proxy) Forward(w http.ResponseWriter, r *http.Request, call Call) error {
	if call.Meter == nil {
		call.Meter = &Meter{}
	}
	if call.Target == "" {
		call.Target = joinTarget(nil, safeTarget(r.URL.EscapedPath()), safeTarget(r.URL.RawQuery))
	}
	x := &exchange{Proxy: p, Call: call, w: w, r: r, socket: isWebSocket(r)}
	for {
		again, err := x.try()
		if !again {
			return err
		}
	}
}

// repeatable says that a request may be sent a second time where its connection was found closed.
func (x *exchange) repeatable() bool {
	switch x.r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return x.r.Body == http.NoBody
	}
	return false
}

// try does the exchange on one connection; again says that it was an idle one that had ended.
func (x *exchange) try() (again bool, err error) {
	at := place{x.Scope, x.To.Network, x.To.Address, x.To.TLS}
	if x.c, err = x.pool.get(x.r.Context(), at, x.To.Check, !x.repeatable()); err != nil {
		return false, fmt.Errorf("%w: %w", ErrUpstream, err)
	}
	c := x.c
	stop := context.AfterFunc(x.r.Context(), func() { c.Close() })
	keep := false
	defer func() {
		if stop() && keep {
			x.pool.put(c)
		} else {
			c.Close()
		}
	}()
	resp, err := x.ask()
	if err != nil {
		c.Close()
		if x.up != nil && x.up.broken.Load() || x.r.Context().Err() != nil {
			panic(http.ErrAbortHandler)
		}
		if c.reused && x.repeatable() && errors.Is(err, errNothing) {
			return true, nil
		}
		return false, fmt.Errorf("%w: %w", ErrUpstream, err)
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		if !stop() {
			panic(http.ErrAbortHandler)
		}
		return false, x.tunnel(resp)
	}
	if keep = x.answer(resp); !x.uploaded() {
		keep = false
		c.Close()
		linger(x.w, x.r)
	}
	return false, nil
}

// errNothing is the error of a connection that ended before any byte of a response.
var errNothing = errors.New("the connection ended before a response")

// ask sends the request and reads the response's head.
func (x *exchange) ask() (*http.Response, error) {
	c, r := x.c, x.r
	c.budget = mostHead
	body := r.Body != nil && r.Body != http.NoBody
	wait := body && r.Header.Get("Expect") != ""
	x.writeHead(body, wait)
	if !body || wait {
		if err := c.bw.Flush(); err != nil {
			return nil, errNothing
		}
	}
	if body {
		// What comes early must be able to pass what is still going up.
		_ = http.NewResponseController(x.w).EnableFullDuplex()
		if !wait {
			x.startUpload()
		} else if err := x.await(); err != nil {
			return nil, err
		}
	}
	for range mostInforming {
		if _, err := c.br.Peek(1); err != nil {
			return nil, fmt.Errorf("%w: %w", errNothing, err)
		}
		resp, err := http.ReadResponse(c.br, r)
		if err != nil {
			return nil, err
		}
		switch code := resp.StatusCode; {
		case code == http.StatusSwitchingProtocols:
			if !x.socket || !isSwitch(resp.Header) {
				return nil, errors.New("it switches to a protocol that nobody asked for")
			}
		case code < 100:
			return nil, fmt.Errorf("its status is %d", code)
		case code == http.StatusContinue:
			if wait && x.up == nil {
				x.startUpload()
			}
			continue
		case code < 200:
			x.inform(resp)
			continue
		}
		c.budget = -1
		return resp, nil
	}
	return nil, errors.New("it informs without end")
}

// await gives the upstream time to say that it wants the body, or not.
func (x *exchange) await() error {
	if err := x.c.SetReadDeadline(time.Now().Add(expectWithin)); err != nil {
		return err
	}
	_, err := x.c.br.Peek(1)
	if timeout, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](err); ok && timeout.Timeout() {
		x.startUpload()
	} else if err != nil {
		return fmt.Errorf("%w: %w", errNothing, err)
	}
	return x.c.SetReadDeadline(time.Time{})
}

func (x *exchange) writeHead(body, wait bool) {
	bw, r := x.c.bw, x.r
	bw.WriteString(r.Method)
	bw.WriteByte(' ')
	bw.WriteString(x.Target)
	bw.WriteString(" HTTP/1.1\r\n")
	host := r.Host
	if x.To.Host != "" {
		host = x.To.Host
	}
	writeField(bw, "Host", host)
	x.writeFields(bw, r)
	if x.socket {
		bw.WriteString("Connection: Upgrade\r\nUpgrade: websocket\r\n")
	}
	switch {
	case body && r.ContentLength > 0:
		writeField(bw, "Content-Length", strconv.FormatInt(r.ContentLength, 10))
	case body:
		bw.WriteString("Transfer-Encoding: chunked\r\n")
		for name := range r.Trailer {
			writeField(bw, "Trailer", name)
		}
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		bw.WriteString("Content-Length: 0\r\n")
	}
	if wait {
		bw.WriteString("Expect: 100-continue\r\n")
	}
	bw.WriteString("\r\n")
}

// inform passes a 1xx response on.
func (x *exchange) inform(resp *http.Response) {
	if x.r.ProtoMajor == 1 && x.r.ProtoMinor == 0 {
		return
	}
	h := x.w.Header()
	before := maps.Clone(h)
	for name, values := range resp.Header {
		if !hopByHop(name) {
			h[name] = values
		}
	}
	x.w.WriteHeader(resp.StatusCode)
	clear(h)
	maps.Copy(h, before)
}

// answer writes the response; keep says that the connection can take another request.
func (x *exchange) answer(resp *http.Response) (keep bool) {
	h := x.w.Header()
	drop := listed(resp.Header)
	for name, values := range resp.Header {
		if !hopByHop(name) {
			h[name] = values
		}
	}
	for _, name := range drop {
		delete(h, name)
	}
	if h["Content-Type"] == nil {
		h["Content-Type"] = nil // or the server would guess one
	}
	announced := make([]string, 0, len(resp.Trailer))
	for name := range resp.Trailer {
		announced = append(announced, name)
		h.Add("Trailer", name)
	}
	head := x.r.Method == http.MethodHead
	if length := resp.ContentLength; length >= 0 && (head || length > 0 || resp.StatusCode != http.StatusNoContent) {
		if cl := resp.Header["Content-Length"]; cl != nil || length > 0 {
			h["Content-Length"] = []string{strconv.FormatInt(length, 10)}
		}
	}
	active := resp.StatusCode < 300 // as configurable-http-proxy: failures and redirects are no work
	x.w.WriteHeader(resp.StatusCode)
	var err error
	switch {
	case head || resp.Body == http.NoBody:
	case resp.ContentLength >= 0:
		err = x.copyKnown(resp.ContentLength, active)
	default:
		err = x.copyStream(resp, active)
	}
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	for name, values := range resp.Trailer {
		if !slices.Contains(announced, name) {
			name = http.TrailerPrefix + name
		}
		h[name] = values
	}
	if active {
		x.Meter.Note()
	}
	return !resp.Close && x.c.br.Buffered() == 0
}

// copyKnown copies a body of n bytes.
func (x *exchange) copyKnown(n int64, active bool) error {
	if ready := min(int64(x.c.br.Buffered()), n); ready > 0 {
		b, _ := x.c.br.Peek(int(ready))
		if err := x.write(b, active); err != nil {
			return err
		}
		_, _ = x.c.br.Discard(int(ready))
		n -= ready
	}
	tcp := x.c.tcp()
	if to, ok := x.w.(io.ReaderFrom); ok && tcp != nil && n >= spliceFrom {
		for n > 0 {
			size := min(n, spliceSize)
			done, err := to.ReadFrom(io.LimitReader(tcp, size))
			x.note(done, active)
			n -= done
			if err != nil {
				return err
			}
			if done < size {
				return io.ErrUnexpectedEOF
			}
		}
		return nil
	}
	buf := buffers.Get().(*[copySize]byte)
	defer buffers.Put(buf)
	for n > 0 {
		if err := x.flush(); err != nil {
			return err
		}
		got, err := x.c.br.Read(buf[:min(n, copySize)])
		if got > 0 {
			if err := x.write(buf[:got], active); err != nil {
				return err
			}
			n -= int64(got)
		}
		if err != nil && n > 0 {
			return err
		}
	}
	return nil
}

// copyStream copies a body whose end is not known, as it comes.
func (x *exchange) copyStream(resp *http.Response, active bool) error {
	buf := buffers.Get().(*[copySize]byte)
	defer buffers.Put(buf)
	if x.c.br.Buffered() == 0 { // the head is here, and the body may take its time
		if err := x.flush(); err != nil {
			return err
		}
	}
	for {
		n, err := resp.Body.Read(buf[:])
		if n > 0 {
			if err := x.write(buf[:n], active); err != nil {
				return err
			}
			if x.c.br.Buffered() == 0 && err == nil {
				if err := x.flush(); err != nil {
					return err
				}
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (x *exchange) write(b []byte, active bool) error {
	n, err := x.w.Write(b)
	x.note(int64(n), active)
	return err
}

func (x *exchange) note(n int64, active bool) {
	x.Meter.sent.Add(n)
	if active {
		x.Meter.Note()
	}
}

func (x *exchange) flush() error { return http.NewResponseController(x.w).Flush() }
