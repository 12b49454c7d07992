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
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/dspool/dspool/internal/webdoor"
)

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
