package webdoor_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dspool/dspool/internal/webdoor"
)

// notebooks is an upstream with WebSockets, and a page that knows who is logged in.
type notebooks struct {
	mu     sync.Mutex
	status string             // of the page, by a cookie
	asked  chan *http.Request // for the page
}

func (n *notebooks) become(status string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.status = status
}

func (w *world) notebooks(name string) *notebooks {
	n := &notebooks{status: "200 OK", asked: make(chan *http.Request, 1000)}
	w.raw(name, func(c net.Conn, r *bufio.Reader) {
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			if req.Header.Get("Upgrade") != "" {
				io.WriteString(c, switched)
				io.Copy(c, r)
				return
			}
			n.mu.Lock()
			status := n.status
			n.mu.Unlock()
			if strings.Contains(req.Header.Get("Cookie"), "other") {
				status = "200 OK"
			}
			n.asked <- req
			fmt.Fprintf(c, "HTTP/1.1 %s\r\nContent-Length: 2\r\n\r\nhi", status)
		}
	})
	return n
}

func TestAWebSocketEndsWithItsLogin(t *testing.T) {
	t.Parallel()
	for name, status := range map[string]string{
		"403": "403 Forbidden",
		"401": "401 Unauthorized",
		"302": "302 Found\r\nLocation: /hub/api/oauth2/authorize?client_id=jupyterhub-user-ada",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, webdoor.Options{HostRouting: true, RecheckEvery: 5 * time.Millisecond, RecheckPath: "/api/me"})
			n := w.notebooks("up")
			w.route("/x/user/ada/", "http://up")
			mine, in := w.open("/user/ada/api/kernels/1/channels?token=T&session_id=1", "")
			other := w.dial()
			fmt.Fprintf(other, "GET /user/ada/terminals/1 HTTP/1.1\r\nHost: x\r\nCookie: other\r\nOrigin: http://x\r\n%s\r\n", upgrade)
			otherIn := bufio.NewReader(other)
			if resp, err := http.ReadResponse(otherIn, nil); err != nil || resp.StatusCode != 101 {
				t.Fatal(err)
			}
			echoed := func(c net.Conn, in *bufio.Reader) error {
				io.WriteString(c, "12345")
				_, err := io.ReadFull(in, make([]byte, 5))
				return err
			}
			for _, s := range []string{"200 OK", "404 Not Found", "500 Oh", "302 Found\r\nLocation: /user/ada/elsewhere"} {
				n.become(s)
				for len(n.asked) > 0 {
					<-n.asked
				}
				for range 6 { // each has been asked for
					within(t, "the page", n.asked)
				}
				if err := echoed(mine, in); err != nil {
					t.Fatalf("%s ended it: %v", s, err)
				}
			}
			before := w.meter("/x/user/ada").LastActivity()
			for range 6 {
				r := within(t, "the page", n.asked)
				if r.Method != "GET" || r.URL.Path != "/user/ada/api/me" || r.Host != "x" || r.URL.Query().Get("no_track_activity") != "1" ||
					r.Header.Get("Sec-Websocket-Key") != "" || r.Header.Get("X-Forwarded-Proto") != "http" || r.Header.Get("X-Forwarded-For") != "127.0.0.1" {
					t.Fatalf("%s %s %s %q", r.Method, r.Host, r.URL, r.Header)
				}
				if o := r.Header.Get("Cookie") != ""; o == (r.URL.Query().Get("token") == "T") || o != (r.Header.Get("Referer") == "http://x/") {
					t.Fatalf("%s %q", r.URL, r.Header)
				}
			}
			if after := w.meter("/x/user/ada").LastActivity(); after != before {
				t.Error("asking counts as activity")
			}
			n.become(status)
			if b, err := io.ReadAll(in); len(b) > 0 {
				t.Errorf("%q %v", b, err)
			}
			if err := echoed(other, otherIn); err != nil {
				t.Errorf("another browser lost its own: %v", err)
			}
		})
	}
}
