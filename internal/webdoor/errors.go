package webdoor

import (
	"context"
	"crypto/tls"
	"embed"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

//go:embed pages
var embedded embed.FS

var ownPages = func() fs.FS {
	sub, err := fs.Sub(embedded, "pages")
	if err != nil {
		panic(err)
	}
	return sub
}()

var plainTLS tls.Config

func hostPort(host, port string) string { return net.JoinHostPort(host, port) }

// Of an error target's answer no more is taken, and no longer waited for.
const (
	errorPageWithin = 5 * time.Second
	errorPageSize   = 1 << 20
)

// refuse answers what no error target should be bothered with.
func (d *Door) refuse(w http.ResponseWriter, code int, sentence string) {
	http.Error(w, sentence, code)
}

// fail answers with an error page: the error target's, or one that the door has. A failed WebSocket
// gets none: nobody would see it.
func (d *Door) fail(w http.ResponseWriter, r *http.Request, code int, cause error) {
	if isWebSocket(r) {
		w.Header().Set("Connection", "close")
		w.Header().Set("Content-Length", "0")
		w.WriteHeader(code)
		return
	}
	if d.ErrorTarget != nil {
		err := d.errorTarget(w, r, code)
		if err == nil {
			return
		}
		d.Log.Warn("the error target has no page", "code", code, "error", err)
		bare(w, code)
		return
	}
	for _, name := range []string{strconv.Itoa(code) + ".html", "error.html"} {
		page, err := fs.ReadFile(d.ErrorPages, name)
		if err == nil {
			w.Header().Set("Content-Type", "text/html")
			whole(w, code, page)
			return
		}
	}
	bare(w, code)
}

// bare answers with a status's name, as configurable-http-proxy does where it has no page.
func bare(w http.ResponseWriter, code int) {
	w.Header()["Content-Type"] = nil
	whole(w, code, []byte(http.StatusText(code)))
}

func whole(w http.ResponseWriter, code int, page []byte) {
	w.Header().Set("Content-Length", strconv.Itoa(len(page)))
	w.WriteHeader(code)
	_, _ = w.Write(page)
}

// errorTarget fetches a page; an error says that w is untouched.
func (d *Door) errorTarget(w http.ResponseWriter, r *http.Request, code int) error {
	up, err := d.Resolve(d.ErrorTarget)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), errorPageWithin)
	defer cancel()
	c, err := d.proxy.pool.get(ctx, place{"error target", up.Network, up.Address, up.TLS}, up.Check, true)
	if err != nil {
		return err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	target := joinTarget(d.ErrorTarget, "/"+strconv.Itoa(code), url.Values{"url": {r.URL.RequestURI()}}.Encode())
	host := up.Host
	if host == "" {
		host = d.ErrorTarget.Host
	}
	if up.Network == "unix" && up.Host == "" {
		host = "localhost"
	}
	c.budget = mostHead
	fmt.Fprintf(c.bw, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n", target, host)
	if lang := r.Header.Get("Accept-Language"); lang != "" {
		writeField(c.bw, "Accept-Language", lang)
	}
	c.bw.WriteString("\r\n")
	if err := c.bw.Flush(); err != nil {
		return err
	}
	resp, err := http.ReadResponse(c.br, &http.Request{Method: http.MethodGet})
	if err != nil {
		return err
	}
	c.budget = -1
	page, err := io.ReadAll(io.LimitReader(resp.Body, errorPageSize+1))
	if err != nil {
		return err
	}
	if len(page) > errorPageSize {
		return fmt.Errorf("its page is longer than %d bytes", errorPageSize)
	}
	for _, name := range []string{"Content-Type", "Content-Encoding"} {
		if v := resp.Header.Get(name); v != "" {
			w.Header().Set(name, v)
		} else {
			w.Header()[name] = nil
		}
	}
	whole(w, code, page)
	return nil
}
