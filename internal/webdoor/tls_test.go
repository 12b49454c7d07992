package webdoor_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/dspool/dspool/internal/webdoor"
)

// certificate makes one for 127.0.0.1, and the pool that trusts it.
func certificate(t *testing.T) (*tls.Config, *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}, &tls.Config{RootCAs: pool, ServerName: "127.0.0.1"}
}

// secure opens the door's public side once more, with TLS.
func (w *world) secure() (trust *tls.Config) {
	server, trust := certificate(w.t)
	w.addr = serve(w.t, w.door.Handler(), server)
	return trust
}

func clients(t *testing.T, trust *tls.Config) map[string]*http.Client {
	t.Helper()
	all := map[string]*http.Client{}
	for name, two := range map[string]bool{"HTTP/1.1": false, "HTTP/2.0": true} {
		var p http.Protocols
		p.SetHTTP1(!two)
		p.SetHTTP2(two)
		tr := &http.Transport{TLSClientConfig: trust.Clone(), Protocols: &p, DisableCompression: true}
		t.Cleanup(tr.CloseIdleConnections)
		all[name] = &http.Client{Transport: tr}
	}
	return all
}

func TestTLS(t *testing.T) {
	t.Parallel()
	w := newWorld(t, webdoor.Options{})
	w.echoing("up")
	w.upstream("dies", func(rw http.ResponseWriter, r *http.Request) {
		io.WriteString(rw, "half")
		rw.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})
	w.upstream("trailers", func(rw http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		rw.Write(body)
		rw.Header().Set(http.TrailerPrefix+"X-Sum", r.Trailer.Get("X-Sum"))
	})
	for _, name := range []string{"up", "dies", "trailers"} {
		w.route("/"+name, "http://"+name)
	}
	trust := w.secure()
	for proto, c := range clients(t, trust) {
		t.Run(proto, func(t *testing.T) {
			ask := func(method, path string, body io.Reader) (*http.Response, string, error) {
				r, err := http.NewRequestWithContext(t.Context(), method, "https://"+w.addr+path, body)
				if err != nil {
					t.Fatal(err)
				}
				if body != nil {
					r.ContentLength = -1
					r.Trailer = http.Header{"X-Sum": {"42"}}
				}
				r.Header.Set("X-Forwarded-Proto", "http")
				r.Header.Add("Cookie", "a=b; c=d")
				resp, err := c.Do(r)
				if err != nil {
					return nil, "", err
				}
				defer resp.Body.Close()
				all, err := io.ReadAll(resp.Body)
				return resp, string(all), err
			}
			for range 3 {
				resp, body, err := ask("GET", "/up/x?y=z", nil)
				if err != nil || resp.Proto != proto {
					t.Fatal(resp, err)
				}
				got := answer{resp, body}.echo(t)
				if got.Target != "/up/x?y=z" || got.Host != w.addr || got.Header.Get("X-Forwarded-Proto") != "https" || got.Header.Get("Cookie") != "a=b; c=d" || got.Header.Get("X-Forwarded-For") != "127.0.0.1" {
					t.Error(got)
				}
			}
			if _, body, err := ask("GET", "/dies", nil); err == nil {
				t.Errorf("a broken body seems whole: %q", body)
			}
			long := strings.Repeat("long body ", 1<<18)
			if resp, body, err := ask("POST", "/trailers", strings.NewReader(long)); err != nil || body != long || resp.Trailer.Get("X-Sum") != "42" {
				t.Error(len(body), resp, err)
			}
			if resp, _, err := ask("GET", "/up/../trailers", nil); err != nil || resp.StatusCode != 400 {
				t.Error(resp, err)
			}
		})
	}
}

func TestAWebSocketWithTLS(t *testing.T) {
	t.Parallel()
	w := newWorld(t, webdoor.Options{})
	protos := make(chan string, 1)
	w.raw("up", func(c net.Conn, r *bufio.Reader) {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		protos <- req.Header.Get("X-Forwarded-Proto") + " " + req.Header.Get("X-Forwarded-Port")
		io.WriteString(c, switched)
		io.Copy(c, r)
	})
	w.route("/", "http://up")
	trust := w.secure()
	trust.NextProtos = []string{"http/1.1"}
	c, err := tls.Dial("tcp", w.addr, trust)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(soon))
	fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: hub.localhost\r\n%s\r\nearly", upgrade)
	in := bufio.NewReader(c)
	if resp, err := http.ReadResponse(in, nil); err != nil || resp.StatusCode != 101 {
		t.Fatal(resp, err)
	}
	want := "early" + strings.Repeat("x", 100<<10)
	go io.WriteString(c, want[5:])
	got := make([]byte, len(want))
	if _, err := io.ReadFull(in, got); err != nil || string(got) != want {
		t.Fatal(len(got), err)
	}
	if p := within(t, "the request", protos); p != "wss 443" {
		t.Error(p)
	}
	c.CloseWrite()
	if rest, err := io.ReadAll(in); err != nil || len(rest) > 0 {
		t.Error(rest, err)
	}
}

// framer speaks HTTP/2 frame by frame.
type framer struct {
	*http2.Framer
	t    *testing.T
	conn net.Conn
}

func (w *world) framer(trust *tls.Config) (*framer, map[http2.SettingID]uint32) {
	w.t.Helper()
	trust = trust.Clone()
	trust.NextProtos = []string{"h2", "http/1.1"}
	c, err := tls.Dial("tcp", w.addr, trust)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(soon))
	if p := c.ConnectionState().NegotiatedProtocol; p != "h2" {
		w.t.Fatal(p)
	}
	io.WriteString(c, http2.ClientPreface)
	f := &framer{http2.NewFramer(c, c), w.t, c}
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	f.WriteSettings()
	settings := map[http2.SettingID]uint32{}
	frame, err := f.ReadFrame()
	if err != nil {
		w.t.Fatal(err)
	}
	frame.(*http2.SettingsFrame).ForeachSetting(func(s http2.Setting) error { settings[s.ID] = s.Val; return nil })
	f.WriteSettingsAck()
	return f, settings
}

// ask sends a request of pairs, and returns the status, or what the stream or connection ended with.
func (f *framer) ask(body string, pairs ...string) string {
	f.t.Helper()
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for i := 0; i < len(pairs); i += 2 {
		enc.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]})
	}
	f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: body == ""})
	if body != "" {
		f.WriteData(1, true, []byte(body))
	}
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			return "closed"
		}
		switch x := frame.(type) {
		case *http2.MetaHeadersFrame:
			return x.PseudoValue("status")
		case *http2.RSTStreamFrame:
			return "reset"
		case *http2.GoAwayFrame:
			return "gone"
		}
	}
}

func TestHTTP2OffersNoWebSockets(t *testing.T) {
	t.Parallel()
	w := newWorld(t, webdoor.Options{})
	w.echoing("up")
	w.route("/", "http://up")
	trust := w.secure()
	f, settings := w.framer(trust)
	if settings[http2.SettingEnableConnectProtocol] != 0 {
		t.Error("SETTINGS_ENABLE_CONNECT_PROTOCOL is offered")
	}
	if got := f.ask("", ":method", "CONNECT", ":protocol", "websocket", ":scheme", "https", ":path", "/", ":authority", "x"); got == "200" {
		t.Error(got)
	}
}

// What is legal or half legal in HTTP/2 must not become two requests in HTTP/1.1.
func TestHTTP2RequestsThatHideOthersAreRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, webdoor.Options{})
	seen := make(chan string, 100)
	w.raw("up", func(c net.Conn, r *bufio.Reader) {
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			seen <- req.RequestURI + " " + req.Host
			if _, err := io.Copy(io.Discard, req.Body); err != nil {
				return
			}
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
	})
	w.route("/", "http://up")
	trust := w.secure()
	usual := []string{":method", "POST", ":scheme", "https", ":path", "/", ":authority", "x"}
	with := func(pairs ...string) []string { return append(usual[:8:8], pairs...) }
	instead := func(i int, value string) []string {
		p := append([]string(nil), usual...)
		p[i] = value
		return p
	}
	const hidden = "GET /hidden HTTP/1.1\r\nHost: x\r\n\r\n"
	for name, c := range map[string]struct {
		body  string
		pairs []string
		fine  bool
	}{
		"a usual request":             {"abc", usual, true},
		"a usual length":              {"abc", with("content-length", "3"), true},
		"chunks":                      {"0\r\n\r\n" + hidden, with("transfer-encoding", "chunked"), false},
		"a length too small":          {hidden, with("content-length", "0"), false},
		"a length too great":          {"abc", with("content-length", "40"), false},
		"two lengths":                 {"abc", with("content-length", "0", "content-length", "3"), false},
		"a line end in a value":       {"", with("x", "y\r\n\r\n"+hidden), false},
		"a line end in a name":        {"", with("x: y\r\nz", "w"), false},
		"a line end in the path":      {"", instead(5, "/ HTTP/1.1\r\nHost: x\r\n\r\nGET /hidden"), false},
		"a space in the path":         {"", instead(5, "/ HTTP/1.1"), true}, // escaped
		"a line end in the method":    {"", instead(1, "GET /hidden HTTP/1.1\r\nHost: x\r\n\r\nGET"), false},
		"a line end in the authority": {"", instead(7, "x\r\nX: y"), false},
		"a connection field":          {"", with("connection", "close"), false},
		"an upgrade":                  {"", with("upgrade", "websocket"), false},
		"capitals":                    {"", with("Content-Length", "0"), false},
		"another host beside":         {"", with("host", "evil.example"), true},
	} {
		t.Run(name, func(t *testing.T) {
			f, _ := w.framer(trust)
			got := f.ask(c.body, c.pairs...)
			if c.fine != (got == "200") {
				t.Errorf("it answers %s", got)
			}
			f.conn.Close()
			for len(seen) > 0 {
				if s := <-seen; s != "/ x" && s != "/%20HTTP/1.1 x" {
					t.Errorf("the upstream saw %q", s)
				}
			}
		})
	}
}

func TestWhoHasComeInIsServedWhenTheDoorCloses(t *testing.T) {
	t.Parallel()
	config, trust := certificate(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := webdoor.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { io.WriteString(rw, r.Proto) }), slog.New(slog.DiscardHandler))
	// Somebody has connected, and says nothing until the listener is closed.
	accepted := make(chan struct{}, 1)
	served := make(chan error, 1)
	go func() { served <- s.Serve(acceptTeller{l, accepted}, config) }()
	trust.NextProtos = []string{"http/1.1"} // who speaks HTTP/2 is told at once to come again
	raw, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	raw.SetDeadline(time.Now().Add(soon))
	within(t, "the connection", accepted)
	l.Close()
	within(t, "the end of Serve", served)
	over := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), soon)
		defer cancel()
		over <- s.Shutdown(ctx)
	}()
	tr := &http.Transport{DialTLSContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		c := tls.Client(raw, trust)
		return c, c.HandshakeContext(ctx)
	}}
	r, err := http.NewRequestWithContext(t.Context(), "GET", "https://127.0.0.1/", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := tr.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	if body, _ := io.ReadAll(resp.Body); string(body) != "HTTP/1.1" {
		t.Errorf("%q", body)
	}
	if err := within(t, "the end of Shutdown", over); err != nil {
		t.Error(err)
	}
}

type acceptTeller struct {
	net.Listener
	accepted chan struct{}
}

func (l acceptTeller) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.accepted <- struct{}{}
	}
	return c, err
}
