package webdoor_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/dspool/dspool/internal/webdoor"
)

const (
	upgrade  = "Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
	switched = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\nSec-WebSocket-Protocol: v1.kernel\r\n\r\n"
)

// socket starts an upstream that switches to WebSocket and then talks.
func (w *world) socket(name string, talk func(net.Conn, *bufio.Reader)) {
	w.raw(name, func(c net.Conn, r *bufio.Reader) {
		req, err := http.ReadRequest(r)
		if err != nil || !strings.EqualFold(req.Header.Get("Upgrade"), "websocket") || !strings.EqualFold(req.Header.Get("Connection"), "upgrade") {
			io.WriteString(c, "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
			return
		}
		io.WriteString(c, switched)
		talk(c, r)
	})
}

// open opens a WebSocket, with bytes that come right behind.
func (w *world) open(path, early string) (net.Conn, *bufio.Reader) {
	w.t.Helper()
	c := w.dial()
	fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\n%s\r\n%s", path, upgrade, early)
	in := bufio.NewReader(c)
	resp, err := http.ReadResponse(in, &http.Request{Method: "GET"})
	if err != nil {
		w.t.Fatal(err)
	}
	if resp.StatusCode != 101 || resp.Header.Get("Sec-Websocket-Accept") != "x" || resp.Header.Get("Sec-Websocket-Protocol") != "v1.kernel" ||
		!strings.EqualFold(resp.Header.Get("Upgrade"), "websocket") || !strings.EqualFold(resp.Header.Get("Connection"), "upgrade") {
		w.t.Fatalf("%d %q", resp.StatusCode, resp.Header)
	}
	return c, in
}

func echoBytes(c net.Conn, r *bufio.Reader) { io.Copy(c, r) }

func TestAWebSocketCarriesBytesBothWays(t *testing.T) {
	t.Parallel()
	w := newWorld(t, webdoor.Options{})
	w.socket("up", func(c net.Conn, r *bufio.Reader) {
		io.WriteString(c, "connected")
		echoBytes(c, r)
	})
	w.route("/", "http://up")
	c, in := w.open("/api/kernels/1/channels", "early\r\n\r\nbird")
	expect := func(want string) {
		t.Helper()
		got := make([]byte, len(want))
		if _, err := io.ReadFull(in, got); err != nil || string(got) != want {
			t.Fatalf("%q, want %q: %v", got, want, err)
		}
	}
	expect("connectedearly\r\n\r\nbird")
	before := w.meter("/").LastActivity()
	for _, frame := range []string{"hi", "\x81\x00\n\nGET / HTTP/1.1\r\n\r\n", strings.Repeat("x", 4<<10), strings.Repeat("y", 300<<10), "small again"} {
		go io.WriteString(c, frame)
		expect(frame)
	}
	m := w.meter("/")
	if m.WebSockets() != 1 || w.door.WebSockets() != 1 {
		t.Error(m.WebSockets(), w.door.WebSockets())
	}
	if m.LastActivity().Before(before) || m.Sent() < 300<<10 || m.Received() < 300<<10 {
		t.Error(m.LastActivity(), m.Sent(), m.Received())
	}
	c.Close()
	wait(t, "the end", func() bool { return m.WebSockets() == 0 && w.door.WebSockets() == 0 })
}

func TestAWebSocketNotesActivityBothWays(t *testing.T) {
	t.Parallel()
	w := newWorld(t, webdoor.Options{})
	say := make(chan string)
	w.socket("up", func(c net.Conn, r *bufio.Reader) {
		for s := range say {
			io.WriteString(c, s)
		}
	})
	w.route("/", "http://up")
	c, in := w.open("/", "")
	m := w.meter("/")
	for _, act := range []func(){
		func() { say <- "x"; in.ReadByte() },
		func() { io.WriteString(c, "y") },
	} {
		before := m.LastActivity()
		wait(t, "another moment", func() bool { act(); return m.LastActivity().After(before) })
	}
	close(say)
}

func TestEitherEndClosesAWebSocket(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(upstream, client net.Conn){
		"the upstream ends":      func(u, c net.Conn) { u.Close() },
		"the client ends":        func(u, c net.Conn) { c.Close() },
		"the upstream resets":    func(u, c net.Conn) { u.(*net.TCPConn).SetLinger(0); u.Close() },
		"the client resets":      func(u, c net.Conn) { c.(*net.TCPConn).SetLinger(0); c.Close() },
		"both say goodbye":       func(u, c net.Conn) { u.(*net.TCPConn).CloseWrite(); c.(*net.TCPConn).CloseWrite() },
		"the door itself closes": nil,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, webdoor.Options{})
			upstream, left := make(chan net.Conn, 1), make(chan error, 1)
			w.socket("up", func(c net.Conn, r *bufio.Reader) {
				upstream <- c
				_, err := io.Copy(io.Discard, r)
				left <- err
			})
			w.route("/", "http://up")
			c, in := w.open("/", "")
			u := within(t, "the upstream", upstream)
			if end == nil {
				w.door.Close()
			} else {
				end(u, c)
			}
			within(t, "the upstream's end", left)
			gone := make(chan error, 1)
			go func() { _, err := io.Copy(io.Discard, in); gone <- err }()
			within(t, "the client's end", gone)
			wait(t, "the tunnel's end", func() bool { return w.door.WebSockets() == 0 })
		})
	}
}

func TestOneWayMayEndBeforeTheOther(t *testing.T) {
	t.Parallel()
	w := newWorld(t, webdoor.Options{})
	w.socket("up", func(c net.Conn, r *bufio.Reader) {
		all, _ := io.ReadAll(r) // until the client has said goodbye
		fmt.Fprintf(c, "got %d", len(all))
	})
	w.route("/", "http://up")
	c, in := w.open("/", "")
	io.WriteString(c, strings.Repeat("x", 100<<10))
	c.(*net.TCPConn).CloseWrite()
	if got, err := io.ReadAll(in); err != nil || string(got) != "got 102400" {
		t.Errorf("%q %v", got, err)
	}
}

func TestAWebSocketThatIsRefusedGetsTheAnswer(t *testing.T) {
	t.Parallel()
	w := newWorld(t, webdoor.Options{})
	w.upstream("up", func(rw http.ResponseWriter, r *http.Request) {
		http.Error(rw, "log in first", http.StatusForbidden)
	})
	w.route("/", "http://up")
	c := w.dial()
	// What follows a refused switch is the next request, and no tunnel.
	fmt.Fprintf(c, "GET /ws HTTP/1.1\r\nHost: x\r\n%s\r\nGET /next HTTP/1.1\r\nHost: x\r\n\r\n", upgrade)
	in := bufio.NewReader(c)
	for range 2 {
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		if body, _ := io.ReadAll(resp.Body); resp.StatusCode != 403 || string(body) != "log in first\n" {
			t.Errorf("%d %q", resp.StatusCode, body)
		}
	}
}

func TestOnlyAWebSocketIsATunnel(t *testing.T) {
	t.Parallel()
	w := newWorld(t, webdoor.Options{})
	seen := make(chan http.Header, 1)
	w.upstream("up", func(rw http.ResponseWriter, r *http.Request) {
		seen <- r.Header
		io.WriteString(rw, "a page")
	})
	w.route("/", "http://up")
	for name, head := range map[string]string{
		"HTTP/2":                         "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
		"HTTP/2 beside":                  "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c, websocket\r\n",
		"a POST":                         "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n" + upgrade,
		"HTTP/1.0":                       "GET / HTTP/1.0\r\nHost: x\r\n" + upgrade,
		"a hop that does not mention it": "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n",
	} {
		got := w.says(strings.Replace(head, "Host: x\r\n", "Host: x\r\nConnection: close\r\n", 1) + "\r\n")
		if !strings.Contains(got, "a page") {
			t.Errorf("%s: %q", name, got)
		}
		if h := within(t, "the request", seen); h.Get("Upgrade") != "" || h.Get("Http2-Settings") != "" && name == "HTTP/2" {
			t.Errorf("%s: %q", name, h)
		}
	}
	if got := w.says("CONNECT up:80 HTTP/1.1\r\nHost: up:80\r\nConnection: close\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 405 ") {
		t.Errorf("CONNECT: %q", got)
	}
}

func TestWebSocketsAreToldOf(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var told []webdoor.Traffic
	w := newWorld(t, webdoor.Options{Watch: func(x webdoor.Traffic) {
		mu.Lock()
		defer mu.Unlock()
		told = append(told, x)
	}})
	w.socket("up", echoBytes)
	if err := w.door.Add("/user/ada", []byte(`{"target":"http://up","user":"ada"}`)); err != nil {
		t.Fatal(err)
	}
	c, in := w.open("/user/ada/terminals/1?token=secret", "")
	io.WriteString(c, "12345")
	io.ReadFull(in, make([]byte, 5))
	c.Close()
	count := func() int { mu.Lock(); defer mu.Unlock(); return len(told) }
	wait(t, "both reports", func() bool { return count() == 2 })
	mu.Lock()
	defer mu.Unlock()
	opened, closed := told[0], told[1]
	if opened.Path != "/user/ada/terminals/1" || opened.Client != c.LocalAddr().String() || opened.Route.Path != "/user/ada" ||
		!bytes.Contains(opened.Route.Data, []byte(`"user":"ada"`)) || !opened.Closed.IsZero() {
		t.Errorf("%+v", opened)
	}
	if closed.Sent != 5 || closed.Received != 5 || closed.Closed.Before(closed.Opened) || closed.Opened != opened.Opened {
		t.Errorf("%+v", closed)
	}
}

func TestManySilentWebSocketsLive(t *testing.T) {
	t.Parallel()
	w := newWorld(t, webdoor.Options{})
	w.socket("up", echoBytes)
	w.route("/", "http://up")
	const many = 200
	conns := make([]net.Conn, many)
	readers := make([]*bufio.Reader, many)
	for i := range many {
		conns[i], readers[i] = w.open("/", "")
	}
	if n := w.door.WebSockets(); n != many {
		t.Fatal(n)
	}
	for i, c := range conns {
		fmt.Fprintf(c, "%04d", i)
		got := make([]byte, 4)
		if _, err := io.ReadFull(readers[i], got); err != nil || string(got) != fmt.Sprintf("%04d", i) {
			t.Fatal(i, string(got), err)
		}
	}
}
