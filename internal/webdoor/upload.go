package webdoor

import (
	"bufio"
	"errors"
	"io"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"
)

// upload copies a request's body up, beside what comes down.
type upload struct {
	read   atomic.Bool // all of the body has come from the client
	broken atomic.Bool // the client has broken it off
	done   chan struct{}
	err    error // once done is closed: why the upstream has not got all
}

var errClient = errors.New("the client has broken its upload off")

// startUpload begins to copy up; from now on nothing else writes to the connection.
func (x *exchange) startUpload() {
	u := &upload{done: make(chan struct{})}
	x.up = u
	go func() {
		defer close(u.done)
		if u.err = x.send(u); u.err == nil {
			return
		}
		if u.err == errClient {
			u.broken.Store(true)
			x.c.Close()
			return
		}
		// What the upstream does not want is taken all the same: a client may look for the answer only when
		// it has sent all. The server ends this, or linger.
		_, _ = io.CopyN(io.Discard, x.r.Body, lingerSize)
	}()
}

func (x *exchange) send(u *upload) error {
	bw, r := x.c.bw, x.r
	chunked := r.ContentLength <= 0
	buf := buffers.Get().(*[copySize]byte)
	defer buffers.Put(buf)
	for {
		n, err := r.Body.Read(buf[:])
		if n > 0 {
			x.Meter.received.Add(int64(n))
			x.Meter.Note()
			if chunked {
				writeChunk(bw, buf[:n])
			} else {
				bw.Write(buf[:n])
			}
		}
		if err == io.EOF {
			u.read.Store(true)
			if chunked {
				writeTrailer(bw, r.Trailer)
			}
			return bw.Flush()
		}
		if err != nil {
			return errClient
		}
		if err := bw.Flush(); err != nil {
			return err
		}
	}
}

func writeChunk(bw *bufio.Writer, b []byte) {
	var size [16]byte
	bw.Write(strconv.AppendInt(size[:0], int64(len(b)), 16))
	bw.WriteString("\r\n")
	bw.Write(b)
	bw.WriteString("\r\n")
}

// writeTrailer ends a chunked body.
func writeTrailer(bw *bufio.Writer, trailer http.Header) {
	bw.WriteString("0\r\n")
	for name, values := range trailer {
		if hopByHop(name) || name == "Host" || whereFrom(name) {
			continue
		}
		for _, v := range values {
			writeField(bw, name, v)
		}
	}
	bw.WriteString("\r\n")
}

// uploaded says that the upstream has got all of the request, and so can take another.
func (x *exchange) uploaded() bool {
	if x.up == nil {
		return x.r.Body == nil || x.r.Body == http.NoBody
	}
	if x.up.read.Load() { // the response can be here before the other goroutine knows that it is through
		select {
		case <-x.up.done:
		case <-time.After(lingerUpload):
		}
	}
	select {
	case <-x.up.done:
		return x.up.err == nil
	default:
		return false
	}
}

// linger takes what a client still sends of its request, for a moment, once it has been answered in
// full: the client of a connection that is closed before may never get to read the answer.
func linger(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor != 1 || r.Body == nil || r.Body == http.NoBody {
		return
	}
	rc := http.NewResponseController(w)
	if rc.SetReadDeadline(time.Now().Add(lingerUpload)) != nil {
		return
	}
	// A response in chunks ends only with the handler, and a body that the client has kept back will not come.
	if w.Header().Get("Content-Length") == "" || r.Header.Get("Expect") != "" || rc.Flush() != nil {
		return
	}
	_, _ = io.CopyN(io.Discard, r.Body, lingerSize)
}
