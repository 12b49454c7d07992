package gateway_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/gateway"
)

// browsers is a world with a web door, a machine door, a portal, JupyterHub and one app of alice.
type browsers struct {
	*world
	web, machines string // addresses of the doors
	app           *httptest.Server

	mu     sync.Mutex
	portal []*http.Request // what the portal was asked
}

const (
	proxyToken = "proxy-token"
	cookie     = "dspool=alice-is-logged-in"
)

func newBrowsers(t *testing.T) *browsers {
	t.Helper()
	b := &browsers{world: newWorld(t)}
	socket, err := net.Listen("unix", filepath.Join(b.state, "portal.sock"))
	ok(t, err)
	portal := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b.mu.Lock()
		b.portal = append(b.portal, r)
		b.mu.Unlock()
		fmt.Fprintf(w, "portal %s", r.URL.Path)
	})}
	go portal.Serve(socket)
	hub := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "hub %s", r.URL.Path) }))
	b.app = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			fmt.Fprintf(w, "app %s", r.URL.Path)
			return
		}
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
		if err != nil {
			return
		}
		defer c.CloseNow()
		for {
			kind, p, err := c.Read(r.Context())
			if err != nil || c.Write(r.Context(), kind, p) != nil {
				return
			}
		}
	}))
	t.Cleanup(func() { portal.Close(); hub.Close(); b.app.Close() })
	b.server.direct(func(d *api.GatewayDirectives) {
		d.Doors = append(d.Doors, dspool.Door{Listen: "127.0.0.2:0", Protocol: dspool.ProtocolWeb, Pool: "lab"})
		d.Web = api.Web{
			Domain: "localhost", Portal: "http://localhost:8000", Hubs: "http://hub.localhost:8000", MachineDoor: "127.0.0.3:0",
			Hub: hub.Listener.Addr().String(), HubMachine: "127.0.0.1", ProxyToken: proxyToken,
			Apps: []api.AppTarget{{ID: 5, User: "alice", Session: 7, Address: b.app.Listener.Addr().String()}},
		}
	})
	b.findDoors()
	return b
}

func (b *browsers) findDoors() {
	b.Helper()
	b.eventually("the doors are open", func() bool {
		s, err := gateway.ReadStatus(context.Background(), b.state)
		if err != nil || len(s.Doors) != 3 {
			return false
		}
		for _, d := range s.Doors {
			switch {
			case strings.HasPrefix(d.Listen, "127.0.0.2"):
				b.web = d.Address
			case strings.HasPrefix(d.Listen, "127.0.0.3"):
				b.machines = d.Address
			}
		}
		return b.web != "" && b.machines != ""
	})
}

// ask sends a request to a door, for a name, from an address of loopback, on a connection of its own.
func (b *browsers) ask(door, from, method, url, body string, header ...string) (status int, text string, h http.Header) {
	b.Helper()
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	ok(b, err)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return dialer.DialContext(ctx, "tcp", door) }}
	resp, err := transport.RoundTrip(req)
	ok(b, err)
	defer resp.Body.Close()
	all, err := io.ReadAll(resp.Body)
	ok(b, err)
	return resp.StatusCode, string(all), resp.Header
}

// route adds the route of alice's notebooks, as JupyterHub does.
func (b *browsers) route(target string) int {
	status, _, _ := b.ask(b.machines, "127.0.0.1", "POST", "http://proxy.dspool.internal/api/routes/alice.hub.localhost/user/alice", `{"target":"`+target+`"}`, "Authorization", "token "+proxyToken)
	return status
}

func TestEveryNameIsAnOriginOfItsOwn(t *testing.T) {
	t.Parallel()
	b := newBrowsers(t)
	if s := b.route("http://5.app.dspool.internal:8445"); s != http.StatusCreated {
		t.Fatalf("route: %d", s)
	}
	for _, c := range []struct {
		url    string
		status int
		text   string
	}{
		{"http://localhost:8000/x", 200, "portal /x"},
		{"http://LOCALHOST/x", 200, "portal /x"},
		{"http://alice.hub.localhost:8000/user/alice/lab", 200, "app /user/alice/lab"},
		{"http://hub.localhost:8000/user/alice/lab", 404, ""}, // her notebooks are not on the hub's origin
		{"http://bob.hub.localhost:8000/user/alice/lab", 404, ""},
		{"http://127.0.0.1:8000/x", http.StatusMisdirectedRequest, ""},
		{"http://evil.example/", http.StatusMisdirectedRequest, ""},
		{"http://notlocalhost/", http.StatusMisdirectedRequest, ""},
	} {
		status, text, _ := b.ask(b.web, "127.0.0.1", "GET", c.url, "")
		if status != c.status || c.text != "" && text != c.text {
			t.Errorf("%s: %d %q, want %d %q", c.url, status, text, c.status, c.text)
		}
	}
	t.Run("the bare address leads to JupyterHub", func(t *testing.T) {
		if status, _, h := b.ask(b.web, "127.0.0.1", "GET", "http://127.0.0.1:8000/", ""); status != http.StatusFound || h.Get("Location") != "http://hub.localhost:8000/" {
			t.Errorf("%d, %s", status, h.Get("Location"))
		}
	})
	t.Run("what people say about where they come from goes no further", func(t *testing.T) {
		b.ask(b.web, "127.0.0.9", "GET", "http://localhost/who", "", "X-Forwarded-For", "6.6.6.6", "X-Forwarded-Proto", "https", "X-Forwarded-Host", "evil.example", "Forwarded", "for=6.6.6.6", "X-Real-Ip", "6.6.6.6")
		b.mu.Lock()
		defer b.mu.Unlock()
		h := b.portal[len(b.portal)-1].Header
		if h.Get("X-Forwarded-For") != "127.0.0.9" || h.Get("X-Forwarded-Proto") != "http" || h.Get("X-Forwarded-Host")+h.Get("Forwarded")+h.Get("X-Real-Ip") != "" {
			t.Errorf("%v", h)
		}
	})
	t.Run("what a trusted proxy says counts", func(t *testing.T) {
		b.server.direct(func(d *api.GatewayDirectives) { d.Web.TrustedProxies = []string{"127.0.0.8/32"} })
		b.eventually("its word is taken", func() bool {
			b.ask(b.web, "127.0.0.8", "GET", "http://localhost/who", "", "X-Forwarded-For", "6.6.6.6, 9.9.9.9", "X-Forwarded-Proto", "https")
			b.mu.Lock()
			defer b.mu.Unlock()
			h := b.portal[len(b.portal)-1].Header
			return h.Get("X-Forwarded-For") == "9.9.9.9" && h.Get("X-Forwarded-Proto") == "https" // who stands before it said the rest
		})
	})
}

func TestMachineDoor(t *testing.T) {
	t.Parallel()
	b := newBrowsers(t)
	const hub, other = "127.0.0.1", "127.0.0.9"
	for _, c := range []struct {
		from, url string
		status    int
		text      string
	}{
		{other, "http://api.dspool.internal/api/v1/apps", 200, "portal /api/v1/apps"},
		{other, "http://api.dspool.internal/oauth/userinfo", 200, "portal /oauth/userinfo"},
		{other, "http://api.dspool.internal/login", 404, ""},
		{other, "http://hub.dspool.internal/hub/api", 200, "hub /hub/api"},
		{other, "http://hub.dspool.internal/", 404, ""},
		{hub, "http://5.app.dspool.internal/user/alice/api", 200, "app /user/alice/api"},
		{other, "http://5.app.dspool.internal/user/alice/api", 403, ""},
		{other, "http://proxy.dspool.internal/api/routes", 403, ""},
		{hub, "http://proxy.dspool.internal/api/routes", 403, ""}, // without the token
		{hub, "http://05.app.dspool.internal/", 404, ""},
		{hub, "http://localhost/", 404, ""},
		{hub, "http://169.254.169.254/", 404, ""},
	} {
		status, text, _ := b.ask(b.machines, c.from, "GET", c.url, "")
		if status != c.status || c.text != "" && text != c.text {
			t.Errorf("%s from %s: %d %q, want %d %q", c.url, c.from, status, text, c.status, c.text)
		}
	}
	t.Run("what machines say about where they come from counts nowhere", func(t *testing.T) {
		b.server.direct(func(d *api.GatewayDirectives) { d.Web.TrustedProxies = []string{"127.0.0.0/8"} })
		said := []string{"X-Forwarded-For", "6.6.6.6", "X-Forwarded-Proto", "https"}
		last := func() http.Header {
			b.mu.Lock()
			defer b.mu.Unlock()
			return b.portal[len(b.portal)-1].Header
		}
		b.eventually("the proxies are known", func() bool {
			b.ask(b.web, "127.0.0.8", "GET", "http://localhost/who", "", said...)
			return last().Get("X-Forwarded-For") == "6.6.6.6"
		})
		b.ask(b.machines, other, "GET", "http://api.dspool.internal/api/v1/apps", "", said...)
		if h := last(); h.Get("X-Forwarded-For") != other || h.Get("X-Forwarded-Proto") != "http" {
			t.Errorf("%v", h)
		}
	})
}

// Case: to a port of somebody else's, to a cloud's metadata, to the host itself, to a socket.
func TestRoutesLeadToAppsOnly(t *testing.T) {
	t.Parallel()
	b := newBrowsers(t)
	for _, target := range []string{
		"http://169.254.169.254/", "http://127.0.0.1:8443", "http://" + b.app.Listener.Addr().String(), "http+unix://%2Fvar%2Flib%2Fdspool%2Fdspool.sock",
		"https://5.app.dspool.internal", "http://5.app.dspool.internal.evil.example", "http://0.app.dspool.internal", "http://api.dspool.internal", "http://hub-1:22",
		"http://evil@5.app.dspool.internal@127.0.0.1/",
	} {
		if status := b.route(target); status != http.StatusBadRequest {
			t.Errorf("a route to %s: %d", target, status)
		}
	}
	if status := b.route("http://6.app.dspool.internal:8445"); status != http.StatusCreated {
		t.Fatalf("a route to an app that may yet begin to run: %d", status)
	}
	if status, _, _ := b.ask(b.web, "127.0.0.1", "GET", "http://alice.hub.localhost/user/alice/", ""); status != http.StatusServiceUnavailable {
		t.Errorf("an app that does not run: %d", status)
	}
}

func TestRoutesAndWebSocketsOutliveAGateway(t *testing.T) {
	t.Parallel()
	b := newBrowsers(t)
	b.route("http://5.app.dspool.internal:8445")
	socket := b.socket("http://alice.hub.localhost/user/alice/channels", "http://alice.hub.localhost")
	echo := func(word string) {
		t.Helper()
		ctx := deadline(t)
		ok(t, socket.Write(ctx, websocket.MessageText, []byte(word)))
		if _, p, err := socket.Read(ctx); err != nil || string(p) != word {
			t.Fatalf("%q, %v", p, err)
		}
	}
	echo("before")
	t.Run("a browser that is there is a connection of the session", func(t *testing.T) {
		b.server.until("it is told", func() bool { return len(b.server.viewers) == 1 && b.server.viewers[0].App == 5 })
	})
	stopOld := b.stop
	stopNew := b.run(gateway.Limits{})
	b.stop = func() error { stopNew(); return stopOld() }
	b.eventually("the doors are the new one's", func() bool { return b.logged("doors handed over") })
	echo("after")
	b.findDoors()
	if status, text, _ := b.ask(b.web, "127.0.0.1", "GET", "http://alice.hub.localhost/user/alice/lab", ""); status != 200 || text != "app /user/alice/lab" {
		t.Errorf("the new gateway: %d %q", status, text)
	}
	socket.CloseNow()
	b.server.until("the end is told", func() bool { return b.server.reports[b.server.viewers[0].ID].Ended })
	ok(t, stopOld())
	t.Run("and one that has died", func(t *testing.T) {
		ok(t, stopNew())
		b.stop = b.run(gateway.Limits{})
		b.findDoors()
		if status, text, _ := b.ask(b.web, "127.0.0.1", "GET", "http://alice.hub.localhost/user/alice/lab", ""); status != 200 || text != "app /user/alice/lab" {
			t.Errorf("the next gateway: %d %q", status, text)
		}
	})
}

// socket opens a WebSocket through the web door.
func (b *browsers) socket(url, origin string, header ...string) *websocket.Conn {
	b.Helper()
	c, resp, err := b.trySocket(url, origin, header...)
	if err != nil {
		b.Fatalf("%v: %v", err, resp)
	}
	b.Cleanup(func() { c.CloseNow() })
	return c
}

func (b *browsers) trySocket(url, origin string, header ...string) (*websocket.Conn, *http.Response, error) {
	var d net.Dialer
	h := http.Header{}
	if origin != "" {
		h.Set("Origin", origin)
	}
	for i := 0; i < len(header); i += 2 {
		h.Set(header[i], header[i+1])
	}
	return websocket.Dial(deadline(b), url, &websocket.DialOptions{HTTPHeader: h, HTTPClient: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return d.DialContext(ctx, "tcp", b.web) },
	}}})
}

func TestTerminalInABrowser(t *testing.T) {
	t.Parallel()
	b := newBrowsers(t)
	t.Run("opens for nobody but the portal's own pages and a login", func(t *testing.T) {
		for _, c := range []struct {
			name, origin, cookie string
			status               int
		}{
			{"no origin", "", cookie, 403},
			{"a notebook's page", "http://alice.hub.localhost:8000", cookie, 403},
			{"the hub's page", "http://hub.localhost:8000", cookie, 403},
			{"null", "null", cookie, 403},
			{"no cookie", "http://localhost:8000", "", 401},
			{"a wrong cookie", "http://localhost:8000", "dspool=other", 401},
			{"another cookie's name", "http://localhost:8000", strings.Replace(cookie, "dspool", "__Host-dspool", 1), 401},
		} {
			_, resp, err := b.trySocket("http://localhost:8000/terminal", c.origin, "Cookie", c.cookie)
			if err == nil || resp == nil || resp.StatusCode != c.status {
				t.Errorf("%s: %v, %v", c.name, resp, err)
			}
		}
	})
	c := b.socket("http://localhost:8000/terminal?pool=gpu&size=big", "http://localhost:8000", "Cookie", cookie)
	screen, write := io.Pipe()
	notes := make(chan map[string]any, 16)
	go func() {
		for {
			kind, p, err := c.Read(context.Background())
			if err != nil {
				write.CloseWithError(err)
				close(notes)
				return
			}
			if kind == websocket.MessageText {
				var n map[string]any
				json.Unmarshal(p, &n)
				notes <- n
				continue
			}
			write.Write(p)
		}
	}()
	lines := bufio.NewScanner(screen)
	seeUntil := func(word string) {
		t.Helper()
		for lines.Scan() {
			if strings.Contains(lines.Text(), word) {
				return
			}
		}
		t.Fatalf("never saw %q", word)
	}
	send := func(kind websocket.MessageType, text string) { ok(t, c.Write(deadline(t), kind, []byte(text))) }
	send(websocket.MessageText, `{"resize":[123,45]}`)
	send(websocket.MessageBinary, "echo I-am-$(id -un); stty size\r")
	seeUntil("I-am-alice")
	seeUntil("45 123")
	t.Run("is a connection by web, in the pool and on the size that were asked for", func(t *testing.T) {
		b.server.mu.Lock()
		defer b.server.mu.Unlock()
		if o := b.server.opened[0]; o.Protocol != dspool.ProtocolWeb || o.Pool != "gpu" || o.Size != "big" || o.User != "alice" || !strings.HasPrefix(o.From, "127.0.0.") {
			t.Errorf("%+v", o)
		}
	})
	send(websocket.MessageBinary, "exit\r")
	go func() { // the rest of the screen
		for lines.Scan() {
		}
	}()
	for n := range notes {
		if n["ended"] == true {
			return
		}
	}
	t.Error("its end is not told")
}

func TestWhoComesToADoorBeforeItsGatewayKnowsAnythingWaits(t *testing.T) {
	t.Parallel()
	b := newBrowsers(t)
	b.route("http://5.app.dspool.internal:8445")
	holding := make(chan gateway.Held, 1)
	go func() {
		held, err := gateway.Hold(context.Background(), b.state)
		ok(t, err)
		holding <- held
	}()
	b.eventually("the sockets are held", func() bool {
		s, err := gateway.ReadStatus(context.Background(), b.state)
		return err == nil && s.Held == 1
	})
	ok(t, b.stop())
	b.held = <-holding
	b.server.stop()
	b.stop = b.run(gateway.Limits{})
	b.eventually("the next gateway has the doors", func() bool {
		s, err := gateway.ReadStatus(context.Background(), b.state)
		return err == nil && len(s.Doors) == 3
	})
	answered := make(chan string, 1)
	go func() {
		status, text, _ := b.ask(b.web, "127.0.0.1", "GET", "http://alice.hub.localhost/user/alice/lab", "")
		answered <- fmt.Sprint(status, " ", text)
	}()
	select {
	case got := <-answered:
		t.Fatalf("without a word of the server the answer is %s", got)
	case <-time.After(100 * time.Millisecond): // a wrong answer would be there at once
	}
	b.server.start()
	select {
	case got := <-answered:
		if got != "200 app /user/alice/lab" {
			t.Error(got)
		}
	case <-time.After(waitForIt):
		t.Error("no answer")
	}
}
