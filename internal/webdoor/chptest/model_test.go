package main_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	startTimeout = 30 * time.Second
	answerWithin = 20 * time.Second
	secret       = "a-token"
)

// proxy is a running door, or the model.
type proxy struct {
	name, public, api string // sockets
}

// start runs a proxy on sockets in a folder of its own.
func start(t *testing.T, name, binary string, args ...string) *proxy {
	t.Helper()
	dir, err := os.MkdirTemp("", "door") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{name, filepath.Join(dir, "public"), filepath.Join(dir, "api")}
	cmd := exec.Command(binary, append([]string{"--socket", p.public, "--api-socket", p.api, "--log-level", "warn"}, args...)...)
	var log bytes.Buffer
	cmd.Env, cmd.Stdout, cmd.Stderr = append(os.Environ(), "CONFIGPROXY_AUTH_TOKEN="+secret), &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
		os.RemoveAll(dir)
		if t.Failed() {
			t.Logf("%s said:\n%s", name, log.Bytes())
		}
	})
	end := time.Now().Add(startTimeout)
	for _, socket := range []string{p.public, p.api} {
		for {
			c, err := net.Dial("unix", socket)
			if err == nil {
				c.Close()
				break
			}
			if time.Now().After(end) {
				t.Fatalf("%s does not open %s: %v", name, socket, err)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	return p
}

// says sends a request with its exact path and returns what matters of the response.
func (p *proxy) says(t *testing.T, socket, method, target, host, body string, fields ...string) *http.Response {
	t.Helper()
	c, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(answerWithin))
	var out strings.Builder
	fmt.Fprintf(&out, "%s %s HTTP/1.1\r\nHost: %s\r\n", method, target, host)
	for i := 0; i < len(fields); i += 2 {
		fmt.Fprintf(&out, "%s: %s\r\n", fields[i], fields[i+1])
	}
	if body != "" {
		fmt.Fprintf(&out, "Content-Length: %d\r\n", len(body))
	}
	io.WriteString(c, out.String()+"\r\n"+body)
	resp, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
	if err != nil {
		return &http.Response{Status: "none: the connection ends", Header: http.Header{}, Body: http.NoBody}
	}
	return resp
}

// summary is what both must agree on. Times are not compared, nor the order of names, nor the words of
// pages.
func summary(resp *http.Response) string {
	body, err := io.ReadAll(resp.Body)
	text := string(body)
	var value any
	if json.Unmarshal(body, &value) == nil {
		forget(value)
		sorted, _ := json.Marshal(value)
		text = string(sorted)
	}
	if strings.HasPrefix(text, "<!doctype html>") {
		text = "a page"
	}
	if err != nil {
		text += " (broken off)"
	}
	code, _, _ := strings.Cut(resp.Status, " ")
	return fmt.Sprintf("%s %q %q %q %s", code, resp.Header.Get("Content-Type"), resp.Header["Set-Cookie"], resp.Header.Get("Location"), text)
}

// forget leaves out what depends on when and where a test runs.
func forget(value any) {
	m, ok := value.(map[string]any)
	if !ok {
		return
	}
	for name := range m {
		switch name {
		case "last_activity", "X-Forwarded-For", "Connection":
			delete(m, name)
		default:
			forget(m[name])
		}
	}
}

// step is a request to both; why says in what they are meant to differ.
type step struct {
	claim, socket, method, target string
	host, body                    string
	fields                        []string
	why                           string
}

func api(claim, method, target, body string) step {
	return step{claim: claim, socket: "api", method: method, target: target, body: body, fields: []string{"Authorization", "token " + secret}}
}

func ask(claim, target string) step {
	return step{claim: claim, method: "GET", target: target}
}

func (s step) to(host string) step         { s.host = host; return s }
func (s step) by(method, body string) step { s.method, s.body = method, body; return s }
func (s step) with(fields ...string) step  { s.fields = fields; return s }
func (s step) differs(because string) step { s.why = because; return s }
func route(path, target string) step {
	return api("route "+path, "POST", "/api/routes"+path, fmt.Sprintf(`{"target":%q,"user":"ada"}`, target))
}
func (s step) run(t *testing.T, p *proxy) string {
	socket, host := p.public, s.host
	if s.socket == "api" {
		socket = p.api
	}
	if host == "" {
		host = "x"
	}
	return summary(p.says(t, socket, s.method, s.target, host, s.body, s.fields...))
}

// upstream tells what it sees, and does what paths ask for.
func upstream(t *testing.T) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		switch {
		case strings.HasSuffix(r.URL.Path, "/redirect"):
			http.Redirect(w, r, "http://elsewhere.example/x", http.StatusFound)
		case strings.HasSuffix(r.URL.Path, "/cookies"):
			w.Header().Add("Set-Cookie", "a=1")
			w.Header().Add("Set-Cookie", "b=2")
		case strings.HasSuffix(r.URL.Path, "/unchanged"):
			w.WriteHeader(http.StatusNotModified)
		case strings.HasSuffix(r.URL.Path, "/empty"):
			w.WriteHeader(http.StatusNoContent)
		case strings.HasSuffix(r.URL.Path, "/resets"):
			panic(http.ErrAbortHandler)
		case strings.HasPrefix(r.URL.Path, "/hub/error/"):
			w.Header().Set("Content-Type", "text/plain")
			io.WriteString(w, r.Method+" "+r.URL.Path+" "+r.URL.Query().Get("url"))
		default:
			w.Header().Set("Content-Type", "application/json")
			json.NewEncoder(w).Encode(map[string]any{"method": r.Method, "target": r.RequestURI, "host": r.Host, "body": string(body), "header": r.Header, "length": r.ContentLength})
		}
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// socket is an upstream that switches to WebSocket and echoes.
func socket(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() { cancel(); l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				defer context.AfterFunc(ctx, func() { c.Close() })()
				in := bufio.NewReader(c)
				if _, err := http.ReadRequest(in); err != nil {
					return
				}
				io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\nconnected")
				io.Copy(c, in)
			}()
		}
	}()
	return "http://" + l.Addr().String()
}

// nobody is a target where nobody listens: a port that this process holds, and does not listen on.
func nobody(t *testing.T) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	at, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("http://127.0.0.1:%d", at.(*syscall.SockaddrInet4).Port)
}

// The same requests to both, in the same order.
func TestTheDoorAnswersAsItsModel(t *testing.T) {
	t.Parallel()
	door := program(t)
	theirs := model(t)
	up, ws, down := upstream(t), socket(t), nobody(t)
	upgrade := []string{"Connection", "Upgrade", "Upgrade", "websocket", "Sec-WebSocket-Version", "13", "Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA=="}
	for name, c := range map[string]struct {
		args  []string
		steps []step
	}{
		"the API": {nil, []step{
			api("no routes", "GET", "/api/routes", ""), api("no routes, with a slash", "GET", "/api/routes/", ""),
			route("/user/ada", up), route("/user/ada/", up), route("/b%40r/b%20r", up), route("/user/%E7%A7%80", up), route("", up),
			api("a route", "GET", "/api/routes/user/ada", ""), api("a route, with a slash", "GET", "/api/routes/user/ada/", ""),
			api("an escaped route", "GET", "/api/routes/b@r/b%20r", ""), api("what is above a route", "GET", "/api/routes/user", ""),
			api("all", "GET", "/api/routes", ""), api("all, whatever else is asked", "GET", "/api/routes?x=y", ""),
			api("none inactive since long ago", "GET", "/api/routes?inactiveSince=1970-01-02T00:00:00Z", ""),
			api("all inactive in the future", "GET", "/api/routes?inactive_since=2100-01-01T00:00:00.000Z", ""),
			api("all inactive at a date", "GET", "/api/routes?inactive_since=2100-01-01", ""),
			api("a bad date", "GET", "/api/routes?inactive_since=endoftheuniverse", ""),
			api("no target", "POST", "/api/routes/x", "{}"), api("null", "POST", "/api/routes/x", "null"), api("a number", "POST", "/api/routes/x", "1"),
			api("a list", "POST", "/api/routes/x", `["target"]`), api("a target that is none", "POST", "/api/routes/x", `{"target":["http://x"]}`),
			api("a bad body", "POST", "/api/routes/x", "{target}").differs("the parsers of two languages name the error"),
			api("a target without a host", "POST", "/api/routes/x", `{"target":"nothing"}`).differs("the model takes it, and fails every request"),
			api("a path with dots", "POST", "/api/routes/user/bob%2f..%2fada", fmt.Sprintf(`{"target":%q}`, up)).differs("the model takes paths that can be read in two ways"),
			api("another method", "PUT", "/api/routes/x", "{}"), api("a head", "HEAD", "/api/routes", ""), api("another path", "GET", "/api", ""),
			api("the root", "GET", "/", ""), api("a longer path", "GET", "/api/routesx", ""),
			api("no token", "GET", "/api/routes", "").with(), api("a wrong token", "DELETE", "/api/routes/user/ada", "").with("Authorization", "token x"),
			api("the word in capitals", "GET", "/api/routes", "").with("Authorization", "TOKEN "+secret),
			api("another word", "GET", "/api/routes", "").with("Authorization", "Bearer "+secret),
			api("delete", "DELETE", "/api/routes/user/ada", ""), api("delete again", "DELETE", "/api/routes/user/ada", ""),
			api("delete what the door has refused", "DELETE", "/api/routes/x", "").differs("the model has it"),
			api("delete what the door has refused", "DELETE", "/api/routes/user/bob%2f..%2fada", "").differs("the model has it"),
			api("delete the root", "DELETE", "/api/routes/", ""), api("what is left", "GET", "/api/routes", ""),
		}},
		"routes by path": {nil, []step{
			ask("nothing", "/nope"), route("", up), route("/bar", up+"/foo"), route("/bar/deep", up+"/deep?a=1"), route("/b%40r/b%20r", up), route("/down", down), route("/ws", ws),
			ask("the root", "/"), ask("below the root", "/any/random?url=x&y"), ask("a prefix", "/bar/rest/of/it"), ask("a prefix alone", "/bar"), ask("a prefix with a query", "/bar?query=foo"),
			ask("a prefix with a slash", "/bar/"), ask("no prefix", "/barn"), ask("a deeper prefix", "/bar/deep/x?b=2"), ask("escapes", "/b%40r/b%20r/x"), ask("half escaped", "/b@r/b%20r/x"),
			ask("an escaped slash", "/bar/a%2Fb"), ask("Unicode", "/bar/%E7%A7%80"), ask("a semicolon", "/bar/a;b"), ask("plus", "/bar/a+b?c+d=e%20f"),
			ask("the health", "/_chp_healthz"), ask("the health, almost", "/_chp_healthz?x"),
			ask("a post", "/bar").by("POST", "some body"), ask("a put", "/bar").by("PUT", "x"), ask("a patch", "/bar").by("PATCH", "{}"),
			ask("a delete", "/bar").by("DELETE", ""), ask("options", "/bar").by("OPTIONS", ""), ask("a head", "/bar").by("HEAD", ""),
			ask("a redirect", "/bar/redirect"), ask("cookies", "/bar/cookies"), ask("unchanged", "/bar/unchanged"), ask("empty", "/bar/empty"),
			ask("no answer", "/bar/resets"), ask("nobody", "/down/x"),
			ask("fields", "/bar").with("X-Custom", "1", "Cookie", "a=b", "Authorization", "token t", "Accept-Encoding", "gzip"),
			ask("what a client says of itself", "/bar").with("X-Forwarded-For", "6.6.6.6", "X-Forwarded-Proto", "https").differs("the model adds to it"),
			ask("a hop's fields", "/bar").with("Connection", "X-Secret", "X-Secret", "1", "Keep-Alive", "x").differs("the model passes them on"),
			ask("dots", "/bar/../down").differs("the model follows them; the door refuses what leads to two routes"),
			ask("a bad escape", "/%").differs("the model fails with 500"),
			ask("a WebSocket to a page", "/bar/x").with(upgrade...).differs("the model leaves out X-Forwarded-Host"),
			ask("a WebSocket to a missing page", "/bar/empty").with(upgrade...), ask("a WebSocket to nobody", "/down").with(upgrade...),
			ask("another upgrade", "/bar").with("Connection", "Upgrade", "Upgrade", "h2c").differs("the model breaks off; the door answers without switching"),
			api("delete", "DELETE", "/api/routes/bar", ""), ask("what is left", "/bar/x"), ask("what is left, deeper", "/bar/deep/x"),
		}},
		"routes by host": {[]string{"--host-routing"}, []step{
			route("/hub.localhost", up), route("/ada.hub.localhost/user/ada", up+"/ada"), route("", up+"/else"), api("all", "GET", "/api/routes", ""),
			ask("the hub", "/hub/login").to("hub.localhost"), ask("the hub with a port", "/hub/login").to("hub.localhost:8000"), ask("a user", "/user/ada/lab").to("ada.hub.localhost"),
			ask("a user's host alone", "/hub/").to("ada.hub.localhost"), ask("another host", "/user/ada").to("evil.example"), ask("a host in the path", "/hub.localhost/x").to("evil.example"),
			api("delete", "DELETE", "/api/routes/hub.localhost", ""), ask("the hub is gone", "/").to("hub.localhost"),
		}},
		"without the target's path":                      {[]string{"--no-prepend-path"}, []step{route("/bar", up+"/foo"), ask("a prefix", "/bar/rest/of/it?x"), ask("alone", "/bar")}},
		"without the route's path":                       {[]string{"--no-include-prefix"}, []step{route("/bar", up+"/foo"), ask("a prefix", "/bar/rest/of/it?x")}},
		"without either path":                            {[]string{"--no-include-prefix", "--no-prepend-path"}, []step{route("/bar", up+"/foo"), ask("a prefix", "/bar/rest/of/it?x")}},
		"a default target":                               {[]string{"--default-target", up}, []step{api("all", "GET", "/api/routes", ""), ask("anything", "/x/y")}},
		"an error target":                                {[]string{"--error-target", up + "/hub/error"}, []step{ask("nothing", "/nope?x=y&z"), route("/down", down), ask("nobody", "/down/a%20b"), ask("nobody for a post", "/down").by("POST", "x"), ask("a WebSocket to nothing", "/nope").with(upgrade...)}},
		"an error target that does not answer":           {[]string{"--error-target", down}, []step{ask("nothing", "/nope"), ask("a head of nothing", "/nope").by("HEAD", "")}},
		"a folder of error pages":                        {[]string{"--error-path", "testdata/pages"}, []step{ask("nothing", "/nope"), route("/down", down), ask("nobody", "/down")}},
		"a folder of error pages where there is no page": {[]string{"--error-path", "testdata"}, []step{ask("nothing", "/nope")}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b := start(t, "the door", door, c.args...), start(t, "the model", theirs, c.args...)
			for _, s := range c.steps {
				ours, want := s.run(t, a), s.run(t, b)
				switch {
				case s.why != "" && ours == want:
					t.Errorf("%s: no difference any more: %s\n%s", s.claim, s.why, ours)
				case s.why == "" && ours != want:
					t.Errorf("%s:\nthe door  %s\nthe model %s", s.claim, ours, want)
				}
			}
		})
	}
}

func TestTheDoorCarriesWebSocketsAsItsModel(t *testing.T) {
	t.Parallel()
	door := program(t)
	theirs := model(t)
	ws := socket(t)
	for _, p := range []*proxy{start(t, "the door", door, "--default-target", ws), start(t, "the model", theirs, "--default-target", ws)} {
		before := p.activity(t)
		c, err := net.Dial("unix", p.public)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(answerWithin))
		io.WriteString(c, "GET /x HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n")
		in := bufio.NewReader(c)
		resp, err := http.ReadResponse(in, nil)
		if err != nil || resp.StatusCode != 101 || resp.Header.Get("Sec-WebSocket-Accept") != "x" {
			t.Fatal(p.name, resp, err)
		}
		for _, want := range []string{"connected", "hi", strings.Repeat("x", 100<<10)} {
			if want != "connected" {
				go io.WriteString(c, want)
			}
			got := make([]byte, len(want))
			if _, err := io.ReadFull(in, got); err != nil || string(got) != want {
				t.Fatal(p.name, len(got), err)
			}
		}
		for p.activity(t) == before { // a WebSocket is activity, in both
			io.WriteString(c, "x")
		}
	}
}

func (p *proxy) activity(t *testing.T) string {
	t.Helper()
	resp := p.says(t, p.api, "GET", "/api/routes", "x", "", "Authorization", "token "+secret)
	var routes map[string]map[string]any
	if err := json.NewDecoder(resp.Body).Decode(&routes); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(routes["/"]["last_activity"])
}
