package webdoor_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/webdoor"
)

// soon bounds what should happen at once.
const soon = 10 * time.Second

const token = "the-proxy's-token"

// world is a door with its API, and upstreams that have names.
type world struct {
	t    *testing.T
	door *webdoor.Door
	addr string // of the public side
	api  *httptest.Server

	mu        sync.Mutex
	upstreams map[string]string // addresses
}

// newWorld opens a door. Targets are http://NAME with the name of an upstream.
func newWorld(t *testing.T, o webdoor.Options) *world {
	t.Helper()
	w := &world{t: t, upstreams: map[string]string{}}
	if o.Resolve == nil {
		o.Resolve = w.resolve
	}
	if o.Log == nil {
		o.Log = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	var err error
	if w.door, err = webdoor.New(o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.door.Close() })
	w.addr = serve(t, w.door.Handler(), nil)
	w.api = httptest.NewServer(w.door.API(token))
	t.Cleanup(w.api.Close)
	return w
}

// serve serves h as the gateway does, and returns the address.
func serve(t *testing.T, h http.Handler, config *tls.Config) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return serveOn(t, l, h, config)
}

func serveOn(t *testing.T, l net.Listener, h http.Handler, config *tls.Config) string {
	t.Helper()
	s := webdoor.NewServer(h, slog.New(slog.DiscardHandler))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.Serve(l, config)
	}()
	t.Cleanup(func() {
		s.Close()
		<-ended
	})
	return l.Addr().String()
}

func (w *world) resolve(target *url.URL) (webdoor.Upstream, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	address, ok := w.upstreams[target.Hostname()]
	if !ok {
		return webdoor.Upstream{}, dspool.Errorf(dspool.Invalid, "%q is no upstream", target.Hostname())
	}
	return webdoor.Upstream{Network: "tcp", Address: address}, nil
}

func (w *world) move(name, address string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.upstreams[name] = address
}

// upstream starts a server that has a name.
func (w *world) upstream(name string, h http.HandlerFunc) *httptest.Server {
	s := httptest.NewServer(h)
	w.t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	w.move(name, s.Listener.Addr().String())
	return s
}

// raw starts an upstream that says what it likes on each connection.
func (w *world) raw(name string, talk func(net.Conn, *bufio.Reader)) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	var all sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	w.t.Cleanup(func() {
		l.Close()
		cancel()
		all.Wait()
	})
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer c.Close()
				defer context.AfterFunc(ctx, func() { c.Close() })()
				talk(c, bufio.NewReader(c))
			})
		}
	})
	w.move(name, l.Addr().String())
}

// echo is what an upstream made by echoing has seen.
type echo struct {
	Name, Method, Target, Host, Body string
	Header                           http.Header
}

// echoing starts an upstream that tells what it sees.
func (w *world) echoing(name string) *httptest.Server {
	return w.upstream(name, func(rw http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		rw.Header().Set("Content-Type", "application/json")
		json.NewEncoder(rw).Encode(echo{name, r.Method, r.RequestURI, r.Host, string(body), r.Header})
	})
}

// route adds a route.
func (w *world) route(path, target string) {
	w.t.Helper()
	if err := w.door.Add(path, json.RawMessage(fmt.Sprintf(`{"target":%q}`, target))); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) meter(path string) *webdoor.Meter {
	w.t.Helper()
	for _, r := range w.door.Routes() {
		if r.Path == path {
			return r.Meter
		}
	}
	w.t.Fatalf("there is no route %s", path)
	return nil
}

func (w *world) dial() net.Conn {
	w.t.Helper()
	c, err := net.Dial("tcp", w.addr)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(2 * soon))
	return c
}

// request builds a request whose path is sent as it stands.
func (w *world) request(method, target, body string) *http.Request {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 2*soon)
	w.t.Cleanup(cancel)
	r, err := http.NewRequestWithContext(ctx, method, "http://"+w.addr, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	if r.URL.Opaque = target; strings.HasPrefix(target, "//") { // or it would be a host
		r.URL.Opaque, r.URL.Path = "", target
	}
	if body != "" {
		r.Body, r.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
	}
	return r
}

// answer is a response with its body.
type answer struct {
	*http.Response
	body string
}

var client = &http.Client{
	Transport:     &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 8},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

func (w *world) do(r *http.Request) answer {
	w.t.Helper()
	resp, err := client.Do(r)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return answer{resp, string(body)}
}

func (w *world) get(target string) answer {
	w.t.Helper()
	return w.do(w.request("GET", target, ""))
}

// echo reads what an echoing upstream said.
func (a answer) echo(t *testing.T) (e echo) {
	t.Helper()
	if err := json.Unmarshal([]byte(a.body), &e); err != nil {
		t.Fatalf("status %d, %q: %v", a.StatusCode, a.body, err)
	}
	return e
}

// says sends bytes and returns all that comes back until the door closes the connection.
func (w *world) says(text string) string {
	w.t.Helper()
	c := w.dial()
	if _, err := io.WriteString(c, text); err != nil {
		w.t.Fatal(err)
	}
	var got bytes.Buffer
	io.Copy(&got, c)
	return got.String()
}

// call asks the API.
func (w *world) call(method, path, body, auth string) answer {
	w.t.Helper()
	r, err := http.NewRequestWithContext(w.t.Context(), method, w.api.URL, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	r.URL.Opaque = path
	if auth != "" {
		r.Header.Set("Authorization", auth)
	}
	return w.do(r)
}

// wait waits for something that comes about on other goroutines.
func wait(t *testing.T, what string, is func() bool) {
	t.Helper()
	end := time.NewTimer(soon)
	defer end.Stop()
	look := time.NewTicker(time.Millisecond)
	defer look.Stop()
	for !is() {
		select {
		case <-end.C:
			t.Fatalf("waited %s for %s", soon, what)
		case <-look.C:
		}
	}
}

// within receives, or fails.
func within[T any](t *testing.T, what string, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(soon):
		t.Fatalf("waited %s for %s", soon, what)
	}
	return v
}
