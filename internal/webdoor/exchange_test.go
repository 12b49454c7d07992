package webdoor_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dspool/dspool/internal/webdoor"
)

// answering is an upstream that answers every request alike.
func answering(text string) func(net.Conn, *bufio.Reader) {
	return func(c net.Conn, r *bufio.Reader) {
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			io.Copy(io.Discard, req.Body)
			io.WriteString(c, text)
		}
	}
}

func TestBodiesComeAsTheyAreSent(t *testing.T) {
	t.Parallel()
	w := newWorld(t, webdoor.Options{})
	long := strings.Repeat("0123456789abcdef", 20<<10)
	for name, c := range map[string]struct{ answer, body string }{
		"of a length":                     {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "hello"},
		"of no length":                    {"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", ""},
		"of a great length":               {fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(long), long), long},
		"in chunks":                       {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\n\r\n", "hello"},
		"in great chunks":                 {fmt.Sprintf("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(long), long), long},
		"to the end":                      {"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello", "hello"},
		"by HTTP 1.0":                     {"HTTP/1.0 200 OK\r\n\r\nhello", "hello"},
		"without content":                 {"HTTP/1.1 204 No Content\r\n\r\n", ""},
		"not modified, of a great length": {"HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\nEtag: x\r\n\r\n", ""},
		"compressed":                      {"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\n\x1f\x8bz", "\x1f\x8bz"},
	} {
		t.Run(name, func(t *testing.T) {
			up := strings.NewReplacer(" ", "-", ",", "").Replace(name)
			w.raw(up, func(conn net.Conn, r *bufio.Reader) {
				for {
					if _, err := http.ReadRequest(r); err != nil {
						return
					}
					io.WriteString(conn, c.answer)
					if strings.Contains(c.answer, "close") || strings.Contains(c.answer, "HTTP/1.0") {
						return
					}
				}
			})
			w.route("/"+up, "http://"+up)
			for range 2 {
				a := w.get("/" + up)
				if a.body != c.body {
					t.Errorf("%d %q: %d bytes", a.StatusCode, a.Header, len(a.body))
				}
				if strings.Contains(c.answer, "Content-Length") && a.ContentLength < 0 {
					t.Errorf("the length became %d", a.ContentLength)
				}
			}
		})
	}
}

func TestAHeadHasTheLengthAndNoBody(t *testing.T) {
	t.Parallel()
	w := newWorld(t, webdoor.Options{})
	w.raw("up", answering("HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n"))
	w.raw("chunks", answering("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"))
	w.route("/", "http://up")
	w.route("/chunks", "http://chunks")
	for range 2 {
		if a := w.do(w.request("HEAD", "/", "")); a.ContentLength != 12345 || a.body != "" {
			t.Error(a.ContentLength, a.body)
		}
		if a := w.do(w.request("HEAD", "/chunks", "")); a.StatusCode != 200 || a.body != "" {
			t.Error(a.Response)
		}
	}
}

func TestConnectionsAreUsedAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, webdoor.Options{})
	var conns, requests atomic.Int32
	w.raw("up", func(c net.Conn, r *bufio.Reader) {
		conns.Add(1)
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			io.Copy(io.Discard, req.Body)
			requests.Add(1)
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
	})
	w.route("/", "http://up")
	for i := range 20 {
		body := ""
		if i%2 == 1 {
			body = "a body"
		}
		if a := w.do(w.request("POST", "/", body)); a.StatusCode != 200 {
			t.Fatal(a.StatusCode)
		}
	}
	if conns.Load() != 1 || requests.Load() != 20 {
		t.Errorf("%d requests took %d connections", requests.Load(), conns.Load())
	}
}

func TestAConnectionThatHasEndedIsReplaced(t *testing.T) {
	t.Parallel()
	for _, method := range []string{"GET", "POST"} {
		w := newWorld(t, webdoor.Options{})
		ended := make(chan struct{}, 8)
		w.raw("up", func(c net.Conn, r *bufio.Reader) {
			defer func() { c.Close(); ended <- struct{}{} }()
			if _, err := http.ReadRequest(r); err == nil { // one request, without saying so
				io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
			}
		})
		w.route("/", "http://up")
		for range 4 {
			if a := w.do(w.request(method, "/", "")); a.StatusCode != 200 {
				t.Errorf("%s: %d", method, a.StatusCode)
			}
			within(t, "the connection's end", ended)
		}
	}
}

func TestWhatIsSaidUnaskedIsNobodysAnswer(t *testing.T) {
	t.Parallel()
	w := newWorld(t, webdoor.Options{})
	w.raw("up", answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"))
	w.route("/", "http://up")
	for range 3 {
		if a := w.get("/"); a.body != "ok" {
			t.Fatal(a.body)
		}
	}
}

func TestAStreamIsNotGathered(t *testing.T) {
	t.Parallel()
	w := newWorld(t, webdoor.Options{})
	next := make(chan string)
	w.upstream("chunks", func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Content-Type", "text/event-stream")
		rw.(http.Flusher).Flush()
		for text := range next {
			io.WriteString(rw, text)
			rw.(http.Flusher).Flush()
		}
	})
	w.upstream("length", func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Content-Length", "9")
		rw.(http.Flusher).Flush()
		for text := range next {
			io.WriteString(rw, text)
			rw.(http.Flusher).Flush()
		}
	})
	for _, up := range []string{"chunks", "length"} {
		w.route("/"+up, "http://"+up)
		resp, err := client.Do(w.request("GET", "/"+up, "")) // the head is here before any of the body
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		buf := make([]byte, 3)
		for _, text := range []string{"one", "two", "six"} {
			next <- text
			if _, err := io.ReadFull(resp.Body, buf); err != nil || string(buf) != text {
				t.Fatalf("%s: %q %v", up, buf, err)
			}
		}
		if up == "chunks" {
			close(next)
			next = make(chan string)
		}
		if up == "length" {
			close(next)
		}
	}
}

func TestAnUploadIsNotGathered(t *testing.T) {
	t.Parallel()
	w := newWorld(t, webdoor.Options{})
	got := make(chan string)
	w.upstream("up", func(rw http.ResponseWriter, r *http.Request) {
		buf := make([]byte, 3)
		for {
			if _, err := io.ReadFull(r.Body, buf); err != nil {
				break
			}
			got <- string(buf)
		}
		fmt.Fprint(rw, r.ContentLength, r.Trailer.Get("X-Sum"))
	})
	w.route("/", "http://up")
	for _, length := range []int64{9, -1} {
		pr, pw := io.Pipe()
		r := w.request("PUT", "/", "")
		r.Body, r.ContentLength = pr, length
		if length < 0 {
			r.Trailer = http.Header{"X-Sum": nil}
		}
		answered := make(chan answer, 1)
		go func() { answered <- w.do(r) }()
		for _, text := range []string{"one", "two", "six"} {
			io.WriteString(pw, text)
			if s := within(t, "a part", got); s != text {
				t.Fatal(s)
			}
		}
		if length < 0 {
			r.Trailer.Set("X-Sum", "42")
		}
		pw.Close()
		want := "9"
		if length < 0 {
			want = "-142"
		}
		if a := within(t, "the answer", answered); a.body != want {
			t.Errorf("%q", a.body)
		}
	}
}

func TestTrailersPass(t *testing.T) {
	t.Parallel()
	w := newWorld(t, webdoor.Options{})
	w.upstream("up", func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Trailer", "X-Announced")
		io.WriteString(rw, "body")
		rw.Header().Set("X-Announced", "a")
		rw.Header().Set(http.TrailerPrefix+"X-Sudden", "s")
	})
	w.route("/", "http://up")
	a := w.get("/")
	if a.body != "body" || a.Trailer.Get("X-Announced") != "a" || a.Trailer.Get("X-Sudden") != "s" {
		t.Errorf("%q %q", a.body, a.Trailer)
	}
}

func TestInformationPassesEarly(t *testing.T) {
	t.Parallel()
	w := newWorld(t, webdoor.Options{})
	w.upstream("up", func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Link", "</style.css>; rel=preload")
		rw.WriteHeader(http.StatusEarlyHints)
		rw.Header().Del("Link")
		io.WriteString(rw, "ok")
	})
	w.route("/", "http://up")
	r := w.request("GET", "/", "")
	var hint string
	a := w.do(r.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
			hint = fmt.Sprint(code, h.Get("Link"))
			return nil
		},
	})))
	if hint != "103</style.css>; rel=preload" || a.body != "ok" || a.Header.Get("Link") != "" {
		t.Errorf("%q %q %q", hint, a.body, a.Header)
	}
}

func TestAnUploadWaitsToBeWanted(t *testing.T) {
	t.Parallel()
	w := newWorld(t, webdoor.Options{})
	w.upstream("wants", func(rw http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		rw.Write(body)
	})
	w.upstream("refuses", func(rw http.ResponseWriter, r *http.Request) {
		rw.WriteHeader(http.StatusRequestEntityTooLarge)
	})
	w.raw("silent", answering("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsilent"))
	for up, want := range map[string]string{"wants": "200 12345", "refuses": "413 ", "silent": "200 silent"} {
		w.route("/"+up, "http://"+up)
		c := w.dial()
		fmt.Fprintf(c, "PUT /%s HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n", up)
		in := bufio.NewReader(c)
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(up, err)
		}
		if resp.StatusCode == http.StatusContinue {
			if up == "refuses" {
				t.Error("the body was asked for in vain")
			}
			io.WriteString(c, "12345")
			if resp, err = http.ReadResponse(in, nil); err != nil {
				t.Fatal(up, err)
			}
		} else if up != "refuses" {
			t.Errorf("%s: %d at once", up, resp.StatusCode)
		}
		body, _ := io.ReadAll(resp.Body)
		if got := fmt.Sprint(resp.StatusCode, " ", string(body)); got != want {
			t.Errorf("%s: %s", up, got)
		}
	}
}

func TestAnEarlyAnswerPassesTheUpload(t *testing.T) {
	t.Parallel()
	w := newWorld(t, webdoor.Options{})
	w.raw("up", func(c net.Conn, r *bufio.Reader) {
		if _, err := http.ReadRequest(r); err == nil {
			io.WriteString(c, "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
			io.Copy(io.Discard, r)
		}
	})
	w.echoing("next")
	w.route("/up", "http://up")
	w.route("/next", "http://next")
	c := w.dial()
	fmt.Fprintf(c, "PUT /up HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\nbegin", 1<<30)
	in := bufio.NewReader(c)
	resp, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	if body, _ := io.ReadAll(resp.Body); resp.StatusCode != 403 || string(body) != "no" {
		t.Errorf("%d %q", resp.StatusCode, body)
	}
	// The connection is of no more use, and is not kept for long.
	if _, err := in.ReadByte(); err == nil {
		t.Error("the door said more")
	} else if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		t.Error("the door keeps the connection")
	}
}

func TestAnUploadToNobodyIsAnswered(t *testing.T) {
	t.Parallel()
	w := newWorld(t, webdoor.Options{})
	w.raw("leaves", func(c net.Conn, r *bufio.Reader) { r.ReadString('\n') })
	w.raw("leaves-later", func(c net.Conn, r *bufio.Reader) { io.CopyN(io.Discard, r, 300<<10) })
	w.move("nobody", nobody(t))
	for _, up := range []string{"leaves", "leaves-later", "nobody"} {
		w.route("/"+up, "http://"+up)
		for _, head := range []string{"Content-Length: 1048576\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n100000\r\n"} {
			c := w.dial()
			sent := make(chan error, 1)
			go func() {
				_, err := io.WriteString(c, "PUT /"+up+" HTTP/1.1\r\nHost: x\r\n"+head+strings.Repeat("x", 1<<20))
				sent <- err
			}()
			// A client that sends all before it looks finds the answer, too.
			if err := within(t, "the upload", sent); err != nil {
				t.Errorf("%s: %v", up, err)
			}
			resp, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				t.Errorf("%s, %.20q: %v", up, head, err)
				continue
			}
			if body, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != http.StatusServiceUnavailable || !strings.Contains(string(body), "503") {
				t.Errorf("%s: %d %q %v", up, resp.StatusCode, body, err)
			}
			c.Close()
		}
	}
}

func TestAClientThatLeavesEndsTheRequest(t *testing.T) {
	t.Parallel()
	w := newWorld(t, webdoor.Options{})
	begun, ended := make(chan struct{}), make(chan struct{})
	w.upstream("up", func(rw http.ResponseWriter, r *http.Request) {
		if r.Method == "GET" {
			rw.(http.Flusher).Flush()
		}
		if r.Method == "PUT" {
			r.Body.Read(make([]byte, 1))
		}
		begun <- struct{}{}
		if r.Method == "PUT" {
			io.Copy(io.Discard, r.Body)
		} else {
			<-r.Context().Done()
		}
		ended <- struct{}{}
	})
	w.route("/", "http://up")
	for _, text := range []string{
		"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", "PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc",
	} {
		c := w.dial()
		io.WriteString(c, text)
		within(t, "the request", begun)
		c.Close()
		within(t, "the request's end", ended)
	}
}

func TestABodyThatBreaksOffBreaksOff(t *testing.T) {
	t.Parallel()
	w := newWorld(t, webdoor.Options{})
	big := strings.Repeat("x", 200<<10)
	for name, answer := range map[string]string{
		"length": "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
		"big":    "HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n" + big,
		"chunks": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
		"chunk":  "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n40\r\nhalf",
	} {
		w.raw(name, func(c net.Conn, r *bufio.Reader) {
			if _, err := http.ReadRequest(r); err == nil {
				io.WriteString(c, answer)
			}
		})
		w.route("/"+name, "http://"+name)
		for _, version := range []string{"1.1", "1.0"} {
			got := w.says("GET /" + name + " HTTP/" + version + "\r\nHost: x\r\nConnection: close\r\n\r\n")
			if strings.HasSuffix(got, "0\r\n\r\n") {
				t.Errorf("%s: the body seems whole: %q", name, got)
			}
		}
		resp, err := client.Do(w.request("GET", "/"+name, ""))
		if err != nil { // before the head was on its way
			continue
		}
		if n, err := io.Copy(io.Discard, resp.Body); err == nil {
			t.Errorf("%s: %d bytes seem whole", name, n)
		}
		resp.Body.Close()
	}
}

func TestActivityIsWhatSucceeds(t *testing.T) {
	t.Parallel()
	old := fmt.Sprintf(`[{"path":"/","data":{"target":"http://up"},"active":%d}]`, time.Now().Add(-time.Hour).UnixMilli())
	for _, c := range []struct {
		claim, method, body string
		code                int
		active              bool
	}{
		{"a page", "GET", "", 200, true}, {"a redirect", "GET", "", 302, false}, {"a missing page", "GET", "", 404, false},
		{"a failure", "GET", "", 500, false}, {"nothing new", "GET", "", 304, false}, {"an upload", "PUT", "x", 204, true},
	} {
		t.Run(c.claim, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, webdoor.Options{Inherit: []byte(old)})
			w.upstream("up", func(rw http.ResponseWriter, r *http.Request) { rw.WriteHeader(c.code) })
			m := w.meter("/")
			before := m.LastActivity()
			w.do(w.request(c.method, "/", c.body))
			if c.active {
				wait(t, "activity", func() bool { return m.LastActivity().After(before) })
			} else if m.LastActivity().After(before) {
				t.Error("noted")
			}
		})
	}
}

// pattern is an endless reader whose bytes depend on their place.
type pattern struct{ at int64 }

func (p *pattern) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = byte((p.at + int64(i)) * 31 >> 3)
	}
	p.at += int64(len(b))
	return len(b), nil
}

func TestGreatBodiesTakeNoMemory(t *testing.T) {
	size, limit := int64(1<<30), uint64(64<<20)
	if testing.Short() {
		size, limit = 32<<20, 16<<20
	}
	w := newWorld(t, webdoor.Options{})
	counted := func(r io.Reader) int64 {
		want, n, a, b := &pattern{}, int64(0), make([]byte, 64<<10), make([]byte, 64<<10)
		for {
			k, err := io.ReadFull(r, a)
			want.Read(b[:k])
			if !bytes.Equal(a[:k], b[:k]) {
				return -1
			}
			if n += int64(k); err != nil {
				return n
			}
		}
	}
	w.upstream("up", func(rw http.ResponseWriter, r *http.Request) {
		if r.Method == "PUT" {
			fmt.Fprint(rw, counted(r.Body))
			return
		}
		if r.URL.Path != "/chunks" {
			rw.Header().Set("Content-Length", fmt.Sprint(size))
		}
		io.Copy(rw, io.LimitReader(&pattern{}, size))
	})
	w.route("/", "http://up")
	most := watchMemory(t)
	for _, path := range []string{"/length", "/chunks"} {
		r := w.request("PUT", path, "")
		r.Body, r.ContentLength = io.NopCloser(io.LimitReader(&pattern{}, size)), size
		if path == "/chunks" {
			r.ContentLength = -1
		}
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
		defer cancel()
		if a := w.do(r.WithContext(ctx)); a.body != fmt.Sprint(size) {
			t.Errorf("up, %s: %s", path, a.body)
		}
		resp, err := client.Do(w.request("GET", path, "").WithContext(ctx))
		if err != nil {
			t.Fatal(err)
		}
		if n := counted(resp.Body); n != size {
			t.Errorf("down, %s: %d", path, n)
		}
		resp.Body.Close()
	}
	if m := most(); m > limit {
		t.Errorf("memory grew by %d MiB", m>>20)
	}
	if m := w.meter("/"); m.Sent() < 2*size || m.Received() != 2*size {
		t.Errorf("counted %d down, %d up", m.Sent(), m.Received())
	}
}

// watchMemory tells by how much the heap has been greater than now.
func watchMemory(t *testing.T) (most func() uint64) {
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapInuse
	}
	runtime.GC()
	before := heap()
	stop, done := make(chan struct{}), make(chan uint64)
	go func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		top := before
		for {
			select {
			case <-stop:
				done <- top
				return
			case <-tick.C:
				top = max(top, heap())
			}
		}
	}()
	return func() uint64 { close(stop); return <-done - before }
}
