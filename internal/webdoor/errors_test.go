package webdoor_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/dspool/dspool/internal/webdoor"
)

// nobody is an address where nobody listens.
func nobody(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestErrorPages(t *testing.T) {
	t.Parallel()
	target, err := url.Parse("http://errors/hub/error")
	if err != nil {
		t.Fatal(err)
	}
	files := fstest.MapFS{"404.html": {Data: []byte("404'D")}, "error.html": {Data: []byte("UNKNOWN")}}
	for _, c := range []struct {
		claim, path     string
		o               webdoor.Options
		answer          http.HandlerFunc
		code            int
		kind, says, was string
	}{
		{"the door has pages", "/nope", webdoor.Options{}, nil, 404, "text/html", "404: Not found", ""},
		{"the door has a page for upstreams that do not answer", "/down/x", webdoor.Options{}, nil, 503, "text/html", "503: Not available", ""},
		{"pages come from a folder", "/nope", webdoor.Options{ErrorPages: files}, nil, 404, "text/html", "404'D", ""},
		{"a folder has a page for the rest", "/down/x", webdoor.Options{ErrorPages: files}, nil, 503, "text/html", "UNKNOWN", ""},
		{"an empty folder leaves the status's name", "/nope", webdoor.Options{ErrorPages: fstest.MapFS{}}, nil, 404, "", "Not Found", ""},
		{"the error target is asked", "/foo/bar?x=1&y", webdoor.Options{ErrorTarget: target}, func(rw http.ResponseWriter, r *http.Request) {
			rw.Header().Set("Content-Type", "text/plain")
			rw.Header().Set("Set-Cookie", "not=passed")
			rw.WriteHeader(200)
			io.WriteString(rw, r.Method+" "+r.URL.Path+" "+r.URL.Query().Get("url"))
		}, 404, "text/plain", "GET /hub/error/404 /foo/bar?x=1&y", ""},
		{"the error target is asked for 503", "/down/", webdoor.Options{ErrorTarget: target}, func(rw http.ResponseWriter, r *http.Request) {
			rw.WriteHeader(503) // as JupyterHub's page has it
			io.WriteString(rw, r.URL.Path)
		}, 503, "text/plain; charset=utf-8", "/hub/error/503", ""},
		{"an error target that fails leaves the status's name", "/down/", webdoor.Options{ErrorTarget: target}, func(rw http.ResponseWriter, r *http.Request) {
			panic(http.ErrAbortHandler)
		}, 503, "", "Service Unavailable", ""},
	} {
		t.Run(c.claim, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, c.o)
			w.move("down", nobody(t))
			w.route("/down", "http://down")
			if c.answer != nil {
				w.upstream("errors", c.answer)
			}
			before := w.meter("/down").LastActivity()
			a := w.get(c.path)
			if a.StatusCode != c.code || a.Header.Get("Content-Type") != c.kind || !strings.Contains(a.body, c.says) || a.Header.Get("Set-Cookie") != "" {
				t.Errorf("%d %q %q", a.StatusCode, a.Header, a.body)
			}
			if !w.meter("/down").LastActivity().Equal(before) {
				t.Error("a failed request was noted as activity")
			}
		})
	}
}

func TestAWebSocketThatFailsGetsAStatusOnly(t *testing.T) {
	t.Parallel()
	w := newWorld(t, webdoor.Options{})
	w.move("down", nobody(t))
	w.route("/down", "http://down")
	for path, code := range map[string]string{"/down/ws": "503", "/nope": "404"} {
		got := w.says("GET " + path + " HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n")
		head, body, _ := strings.Cut(got, "\r\n\r\n")
		if !strings.HasPrefix(head, "HTTP/1.1 "+code+" ") || body != "" {
			t.Errorf("%s: %q", path, got)
		}
	}
}

func TestAnUpstreamThatTalksNonsenseIsUnavailable(t *testing.T) {
	t.Parallel()
	w := newWorld(t, webdoor.Options{})
	for name, answer := range map[string]string{
		"nothing":             "",
		"no HTTP":             "220 mail ready\r\n",
		"half a head":         "HTTP/1.1 200 OK\r\nContent-Le",
		"no such status":      "HTTP/1.1 042 Odd\r\nContent-Length: 0\r\n\r\n",
		"two lengths":         "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
		"an endless head":     "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 1<<20) + "\r\n\r\n",
		"an unknown coding":   "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
		"an uncalled switch":  "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
		"informs without end": strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 1000),
	} {
		t.Run(name, func(t *testing.T) {
			up := strings.ReplaceAll(name, " ", "-")
			w.raw(up, func(c net.Conn, r *bufio.Reader) {
				if _, err := http.ReadRequest(r); err == nil {
					io.WriteString(c, answer)
				}
			})
			w.route("/"+up, "http://"+up)
			if a := w.get("/" + up); a.StatusCode != http.StatusServiceUnavailable {
				t.Errorf("%d %q", a.StatusCode, a.body)
			}
		})
	}
}

func mustURL(t *testing.T, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}
