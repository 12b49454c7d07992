package webdoor

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"strconv"
)

// strictConn lets an HTTP/1 server read only requests whose heads everybody reads alike: net/http
// forgives bare line feeds, folded lines and a length beside chunks, which other servers may take for
// the beginning of another request (request smuggling, RFC 9112 section 11.2). In place of any other
// head the server gets one that it refuses itself, in the order of the requests.
//
// It follows the requests of a connection by their lengths. After one in chunks, whose end only the
// server finds, the connection is closed.
type strictConn struct {
	net.Conn
	tcp *net.TCPConn // of a plain connection

	base    []byte // where buf begins when nothing is left over
	buf     []byte // read, and not yet given to the server
	ready   int    // bytes of buf that the server may have
	body    int64  // bytes of a body that are still to come past buf
	scanned int    // bytes of buf that have no end of a head
	chunked bool   // all that comes is the server's
	pending bool   // a switch to another protocol is asked for: what comes now may be no head
	last    bool   // nothing more is read
}

// refusedHead makes the server answer 400.
const refusedHead = "REFUSED\r\n\r\n"

// mostRequestHead bounds what the head of a request takes here; the server has a limit of its own.
const mostRequestHead = 128 << 10

func newStrictConn(c net.Conn) *strictConn {
	s := &strictConn{Conn: c}
	s.tcp, _ = c.(*net.TCPConn)
	return s
}

// Read gives the server what is checked.
func (s *strictConn) Read(p []byte) (int, error) {
	for {
		switch {
		case s.ready > 0:
			n := copy(p, s.buf[:s.ready])
			s.buf, s.ready = s.buf[n:], s.ready-n
			return n, nil
		case s.last:
			return 0, io.EOF
		case s.pending:
			return 0, s.hold()
		case s.chunked && len(s.buf) > 0:
			s.ready = len(s.buf)
			continue
		case s.chunked:
			return s.Conn.Read(p)
		case s.body > 0 && len(s.buf) > 0:
			s.ready = int(min(s.body, int64(len(s.buf))))
			s.body -= int64(s.ready)
			continue
		case s.body > 0:
			n, err := s.Conn.Read(p[:min(int64(len(p)), s.body)])
			s.body -= int64(n)
			return n, err
		}
		if s.head() {
			continue
		}
		if err := s.fill(); err != nil {
			return 0, err
		}
	}
}

// mostEarly is what a client may send before it has heard whether the protocol is switched.
const mostEarly = 64 << 10

// hold reads on behalf of a server that wants to know whether the client is still there, and gives it
// nothing: either the connection is released, with what has come, or the server ends this Read with a
// deadline when it has answered, and what has come is a head after all.
func (s *strictConn) hold() error {
	for len(s.buf) < mostEarly {
		if err := s.fill(); err != nil {
			s.pending = false
			return err
		}
		if s.last { // the client has gone
			return io.EOF
		}
	}
	return errTooEarly
}

var errTooEarly = errors.New("the client does not wait for the protocol to switch")

// fill reads more of a head.
func (s *strictConn) fill() error {
	const least, usual = 1 << 10, 4 << 10
	if len(s.buf) == 0 {
		s.buf = s.base[:0]
	}
	if cap(s.buf)-len(s.buf) < least {
		s.buf = append(make([]byte, 0, max(usual, 2*len(s.buf))), s.buf...)
		if cap(s.buf) == usual {
			s.base = s.buf
		}
	}
	n, err := s.Conn.Read(s.buf[len(s.buf):cap(s.buf)])
	s.buf = s.buf[:len(s.buf)+n]
	if n > 0 {
		return nil
	}
	if errors.Is(err, os.ErrDeadlineExceeded) || len(s.buf) == 0 {
		return err
	}
	// What ends in the middle of a head is the server's to refuse.
	s.ready, s.last = len(s.buf), true
	return nil
}

// head looks for the end of a head and judges it; false asks for more.
func (s *strictConn) head() bool {
	for bytes.HasPrefix(s.buf, []byte("\r\n")) { // before a request line (RFC 9112 section 2.2)
		s.buf, s.scanned = s.buf[2:], 0
	}
	from := max(0, s.scanned-3)
	end := bytes.Index(s.buf[from:], []byte("\r\n\r\n"))
	if end < 0 {
		// A bare line feed will be refused anyway, and may be all that ever comes.
		if lf := bytes.Index(s.buf[from:], []byte("\n")); lf >= 0 && (from+lf == 0 || s.buf[from+lf-1] != '\r') || len(s.buf) > mostRequestHead {
			s.refuse()
			return true
		}
		s.scanned = len(s.buf)
		return false
	}
	end += from + 4
	h, ok := judgeHead(s.buf[:end])
	if !ok {
		s.refuse()
		return true
	}
	s.ready, s.body, s.chunked, s.scanned = end, h.length, h.chunked, 0
	s.pending = h.upgrade && !h.chunked && h.length == 0
	return true
}

func (s *strictConn) refuse() {
	s.buf, s.ready, s.last = []byte(refusedHead), len(refusedHead), true
}

// framing is what a head says of what follows it.
type framing struct {
	length           int64
	chunked, upgrade bool
}

// judgeHead says what follows a head; ok is false for a head that could be read in two ways.
func judgeHead(head []byte) (f framing, ok bool) {
	line, rest, _ := bytes.Cut(head, []byte("\r\n"))
	method, after, _ := bytes.Cut(line, []byte(" "))
	target, version, _ := bytes.Cut(after, []byte(" "))
	if !isToken(method) || !isTarget(target) || string(version) != "HTTP/1.1" && string(version) != "HTTP/1.0" {
		return f, false
	}
	lengths, codings, hosts := 0, 0, 0
	for len(rest) > 2 { // the empty line
		line, rest, _ = bytes.Cut(rest, []byte("\r\n"))
		name, value, found := bytes.Cut(line, []byte(":"))
		if !found || !isToken(name) || !isValue(value) {
			return f, false
		}
		value = bytes.Trim(value, " \t")
		switch {
		case bytes.EqualFold(name, []byte("content-length")):
			n, err := strconv.ParseUint(string(value), 10, 63)
			if err != nil || value[0] == '+' {
				return f, false
			}
			f.length = int64(n)
			lengths++
		case bytes.EqualFold(name, []byte("transfer-encoding")):
			if !bytes.EqualFold(value, []byte("chunked")) {
				return f, false
			}
			codings++
		case bytes.EqualFold(name, []byte("host")):
			hosts++
		case bytes.EqualFold(name, []byte("upgrade")):
			f.upgrade = true
		}
	}
	if lengths+codings > 1 || hosts > 1 || codings > 0 && string(version) == "HTTP/1.0" {
		return f, false
	}
	f.chunked = codings > 0
	return f, true
}

// inToken says which bytes names are made of (RFC 9110 section 5.6.2).
var inToken = func() (in [256]bool) {
	for c := byte('!'); c < 0x7f; c++ {
		in[c] = bytes.IndexByte([]byte(`"(),/:;<=>?@[\]{}`), c) < 0
	}
	return in
}()

func isToken(b []byte) bool {
	for _, c := range b {
		if !inToken[c] {
			return false
		}
	}
	return len(b) > 0
}

func isTarget(b []byte) bool {
	for _, c := range b {
		if c <= ' ' || c == 0x7f {
			return false
		}
	}
	return len(b) > 0
}

// isValue also refuses bare carriage returns and line feeds.
func isValue(b []byte) bool {
	for _, c := range b {
		if c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// release gives the connection up to somebody who reads everything, with what has been read. The server
// must not be reading.
func (s *strictConn) release() (net.Conn, []byte) {
	return s.Conn, s.buf
}

// ReadFrom lets the kernel copy what can be copied so.
func (s *strictConn) ReadFrom(r io.Reader) (int64, error) {
	if s.tcp != nil {
		return s.tcp.ReadFrom(r)
	}
	buf := buffers.Get().(*[copySize]byte)
	defer buffers.Put(buf)
	return io.CopyBuffer(struct{ io.Writer }{s.Conn}, r, buf[:])
}

// CloseWrite tells the client that nothing more comes.
func (s *strictConn) CloseWrite() error { return closeWrite(s.Conn) }
