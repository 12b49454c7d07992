package webdoor_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
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
// watchMemory tells by how much the heap has been greater than now.
