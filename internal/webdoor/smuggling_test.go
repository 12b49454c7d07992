package webdoor_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/dspool/dspool/internal/webdoor"
)

// A request that two programs could cut differently is refused, and nothing of it goes on.
func TestRequestsThatHideOthersAreRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, webdoor.Options{})
	seen := make(chan string, 100)
	w.raw("up", func(c net.Conn, r *bufio.Reader) {
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			body, _ := io.ReadAll(req.Body)
			seen <- req.Method + " " + req.RequestURI + " " + string(body)
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
	})
	w.route("/", "http://up")
	const hidden = "GET /hidden HTTP/1.1\r\nHost: x\r\n\r\n"
	post := func(fields, body string) string { return "POST / HTTP/1.1\r\nHost: x\r\n" + fields + "\r\n" + body }
	for name, text := range map[string]string{
		"a length and chunks":                post(fmt.Sprintf("Content-Length: %d\r\nTransfer-Encoding: chunked\r\n", 5+len(hidden)), "0\r\n\r\n"+hidden),
		"chunks and a length":                post("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", "5c\r\n"+hidden),
		"chunks, not quite":                  post("Content-Length: 4\r\nTransfer-Encoding: xchunked\r\n", "0\r\n\r\n"+hidden),
		"chunks with a tab":                  post("Transfer-Encoding:\tchunked\r\nContent-Length: 3\r\n", "0\r\n\r\n"+hidden),
		"chunks by a spaced name":            post("Transfer-Encoding : chunked\r\n", "0\r\n\r\n"+hidden),
		"chunks twice":                       post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"+hidden),
		"chunks, then nothing":               post("Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n"+hidden),
		"identity":                           post("Transfer-Encoding: identity\r\n", hidden),
		"a vertical tab before chunks":       post("Transfer-Encoding: \x0bchunked\r\n", "0\r\n\r\n"+hidden),
		"quoted chunks":                      post("Transfer-Encoding: \"chunked\"\r\n", "0\r\n\r\n"+hidden),
		"chunks in HTTP 1.0":                 "POST / HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden,
		"two lengths":                        post("Content-Length: 0\r\nContent-Length: 35\r\n", hidden),
		"two lengths that agree":             post("Content-Length: 3\r\nContent-Length: 3\r\n", "abc"),
		"a list of lengths":                  post("Content-Length: 0, 35\r\n", hidden),
		"a signed length":                    post("Content-Length: +0\r\n", hidden),
		"a negative length":                  post("Content-Length: -1\r\n", hidden),
		"a length in hexadecimal":            post("Content-Length: 0x23\r\n", hidden),
		"a length with an underscore":        post("Content-Length: 3_5\r\n", hidden),
		"an empty length":                    post("Content-Length: \r\n", hidden),
		"a length too great":                 post("Content-Length: 99999999999999999999\r\n", hidden),
		"a length by an odd name":            post("Content-Length\x00: 35\r\n", hidden),
		"a length with a space in its name":  post("Content Length: 35\r\n", hidden),
		"bare line feeds":                    "GET / HTTP/1.1\nHost: x\n\n" + hidden,
		"a bare line feed in the head":       "GET / HTTP/1.1\r\nHost: x\r\nX: y\nContent-Length: 35\r\n\r\n" + hidden,
		"a bare line feed at the head's end": "GET / HTTP/1.1\r\nHost: x\r\n\n" + hidden,
		"a bare carriage return":             "GET / HTTP/1.1\r\nHost: x\r\nX: y\rContent-Length: 35\r\n\r\n" + hidden,
		"a folded field":                     post("X: y\r\n Content-Length: 35\r\n", hidden),
		"a folded coding":                    post("Transfer-Encoding:\r\n chunked\r\n", "0\r\n\r\n"+hidden),
		"a folded first field":               "GET / HTTP/1.1\r\n Host: x\r\nHost: x\r\n\r\n",
		"a field without a colon":            post("Content-Length 35\r\n", hidden),
		"a field without a name":             post(": 35\r\n", hidden),
		"a zero byte":                        post("X: a\x00b\r\n", ""),
		"two hosts":                          "GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
		"no host":                            "GET / HTTP/1.1\r\n\r\n",
		"a third version":                    "GET / HTTP/1.2\r\nHost: x\r\n\r\n",
		"no version":                         "GET /\r\n\r\n",
		"a space in the target":              "GET /a b HTTP/1.1\r\nHost: x\r\n\r\n",
		"two spaces":                         "GET  / HTTP/1.1\r\nHost: x\r\n\r\n",
		"a tab for a space":                  "GET\t/\tHTTP/1.1\r\nHost: x\r\n\r\n",
		"HTTP/2 in clear text":               "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"a method with a bracket":            "GE[T / HTTP/1.1\r\nHost: x\r\n\r\n",
		"a chunk's size with a sign":         post("Transfer-Encoding: chunked\r\n", "+3\r\nabc\r\n0\r\n\r\n"),
		"a chunk's line ended by a feed":     post("Transfer-Encoding: chunked\r\n", "3;x\nabc\r\n0\r\n\r\n"),
	} {
		t.Run(name, func(t *testing.T) {
			got := w.says(text)
			if strings.Count(got, "HTTP/1.1 ") > 1 || strings.HasPrefix(got, "HTTP/1.1 2") {
				t.Errorf("%q", got)
			}
			for len(seen) > 0 {
				if s := <-seen; strings.Contains(s, "hidden") || strings.HasPrefix(s, "GET") {
					t.Errorf("the upstream saw %q", s)
				}
			}
		})
	}
}

func TestRequestsInARowAreAllAnswered(t *testing.T) {
	t.Parallel()
	w := newWorld(t, webdoor.Options{})
	w.upstream("up", func(rw http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(rw, "<%s %s>", r.URL.Path, body)
	})
	w.route("/", "http://up")
	long := strings.Repeat("y", 9000)
	for name, cut := range map[string]int{"at once": 1 << 20, "byte by byte": 1, "in parts": 7} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			w := &world{t: t, addr: serveOn(t, drip{l, cut}, w.door.Handler(), nil)}
			text := "GET /a HTTP/1.1\r\nHost: x\r\n\r\n" +
				"POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nGET /" +
				"\r\nPUT /c HTTP/1.1\r\nHost: x\r\nX-Long: " + long + "\r\nContent-Length: 9000\r\n\r\n" + long +
				"GET /d HTTP/1.1\r\nHost: x\r\n\r\n" +
				"POST /e HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n" + // nothing is read after this one
				"GET /f HTTP/1.1\r\nHost: x\r\n\r\n"
			c := w.dial()
			go func() {
				for len(text) > 0 {
					n := min(cut, len(text))
					if _, err := io.WriteString(c, text[:n]); err != nil {
						return
					}
					text = text[n:]
				}
			}()
			in := bufio.NewReader(c)
			for _, want := range []string{"</a >", "</b GET />", "</c " + long + ">", "</d >", "</e abc>"} {
				resp, err := http.ReadResponse(in, nil)
				if err != nil {
					t.Fatalf("%.10s: %v", want, err)
				}
				if body, err := io.ReadAll(resp.Body); err != nil || string(body) != want {
					t.Fatalf("%.10s: %q %v", want, body, err)
				}
			}
			if resp, err := http.ReadResponse(in, nil); err == nil {
				t.Errorf("after chunks: %d", resp.StatusCode)
			}
		})
	}
}

// drip reads of its connections no more at once than that many bytes.
type drip struct {
	net.Listener
	most int
}

func (d drip) Accept() (net.Conn, error) {
	c, err := d.Listener.Accept()
	return drop{c, d.most}, err
}

type drop struct {
	net.Conn
	most int
}

func (d drop) Read(p []byte) (int, error) { return d.Conn.Read(p[:min(len(p), d.most)]) }

func TestAHeadHasALimit(t *testing.T) {
	t.Parallel()
	w := newWorld(t, webdoor.Options{})
	w.echoing("up")
	w.route("/", "http://up")
	for name, text := range map[string]string{
		"fields":      "GET / HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 70<<10) + "\r\nConnection: close\r\n\r\n",
		"many fields": "GET / HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("A: b\r\n", 20<<10) + "\r\n",
		"a target":    "GET /" + strings.Repeat("x", 70<<10) + " HTTP/1.1\r\nHost: x\r\n\r\n",
		"no end":      "GET / HTTP/1.1\r\nX: " + strings.Repeat("x", 200<<10),
	} {
		c := w.dial()
		go io.WriteString(c, text)
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err == nil && resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge && resp.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %d", name, resp.StatusCode)
		}
	}
}
