package webdoor

import (
	"bufio"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// hopByHop says that a header field is for this connection only (RFC 9110 section 7.6.1), or that its
// place is taken by what this proxy says itself. Names are canonical.
func hopByHop(name string) bool {
	switch name {
	case "Connection", "Keep-Alive", "Proxy-Connection", "Proxy-Authorization", "Proxy-Authenticate",
		"Te", "Trailer", "Transfer-Encoding", "Upgrade", "Content-Length":
		return true
	}
	return false
}

// whereFrom says that programs take a header field for the word of a proxy on who asks, for what
// host, or by what protocol. A dash may be an underscore: to some programs they are the same.
func whereFrom(name string) bool {
	if len(name) < len("Via") || name[0] != 'X' && name[0] != 'F' {
		return false
	}
	if strings.IndexByte(name, '_') >= 0 {
		name = http.CanonicalHeaderKey(strings.ReplaceAll(name, "_", "-"))
	}
	switch name {
	case "Forwarded", "X-Real-Ip", "X-Scheme", "X-Original-Host", "X-Original-Url", "X-Rewrite-Url", "X-Host":
		return true
	}
	return strings.HasPrefix(name, "X-Forwarded")
}

// listed are the names in Connection fields, canonical.
func listed(h http.Header) (names []string) {
	for _, v := range h["Connection"] {
		for name := range strings.SplitSeq(v, ",") {
			if name = strings.TrimSpace(name); name != "" && !strings.EqualFold(name, "close") && !strings.EqualFold(name, "keep-alive") {
				names = append(names, http.CanonicalHeaderKey(name))
			}
		}
	}
	return names
}

// isWebSocket says that a request asks for the only protocol that the door switches to: any other
// could be spoken past it, such as HTTP/2 in clear text.
func isWebSocket(r *http.Request) bool {
	return r.ProtoMajor == 1 && r.ProtoMinor == 1 && r.Method == http.MethodGet &&
		strings.EqualFold(strings.TrimSpace(r.Header.Get("Upgrade")), "websocket") &&
		slices.Contains(listed(r.Header), "Upgrade")
}

// origin is what an upstream is told of a client.
type origin struct {
	client, proto, host, port string
}

// origin says where a request comes from: what the peer's address and the connection show, or what a
// trusted proxy says.
func (p *Proxy) origin(r *http.Request) origin {
	o := origin{proto: "http", host: r.Host, port: portOf(r.Host)}
	if r.TLS != nil {
		o.proto = "https"
	}
	if isWebSocket(r) { // as configurable-http-proxy calls it
		o.proto = "ws" + strings.TrimPrefix(o.proto, "http")
	}
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err == nil {
		o.client = peer.Addr().Unmap().WithZone("").String()
	}
	if err == nil && p.trusts(peer.Addr()) {
		set := func(to *string, name string) {
			if v := strings.Join(r.Header[name], ", "); v != "" {
				*to = v
			}
		}
		if before := strings.Join(r.Header["X-Forwarded-For"], ", "); before != "" {
			o.client = before + ", " + o.client
		}
		set(&o.proto, "X-Forwarded-Proto")
		set(&o.host, "X-Forwarded-Host")
		o.port = portOf(o.host)
		set(&o.port, "X-Forwarded-Port")
	}
	if o.port == "" {
		o.port = "80"
		if strings.HasSuffix(o.proto, "s") {
			o.port = "443"
		}
	}
	return o
}

func (p *Proxy) trusts(a netip.Addr) bool {
	return p.Trusts != nil && p.Trusts(a.Unmap().WithZone(""))
}

// portOf is the port in a Host header, or "".
func portOf(host string) string {
	if i := strings.LastIndexByte(host, ':'); i >= 0 && strings.IndexByte(host[i:], ']') < 0 {
		return host[i+1:]
	}
	return ""
}

// writeField writes one field of a head. Values come from parsers that let no line end through.
func writeField(bw *bufio.Writer, name, value string) {
	bw.WriteString(name)
	bw.WriteString(": ")
	bw.WriteString(value)
	bw.WriteString("\r\n")
}

// writeFields writes what of a request's head goes on, and where the request comes from.
func (p *Proxy) writeFields(bw *bufio.Writer, r *http.Request) {
	drop := listed(r.Header)
	for name, values := range r.Header {
		if hopByHop(name) || name == "Host" || name == "Expect" || whereFrom(name) || slices.Contains(drop, name) {
			continue
		}
		for _, v := range values {
			writeField(bw, name, v)
		}
	}
	if slices.ContainsFunc(r.Header["Te"], func(v string) bool { return strings.Contains(v, "trailers") }) {
		writeField(bw, "Te", "trailers")
	}
	o := p.origin(r)
	if o.client != "" {
		writeField(bw, "X-Forwarded-For", o.client)
	}
	writeField(bw, "X-Forwarded-Proto", o.proto)
	writeField(bw, "X-Forwarded-Host", o.host)
	writeField(bw, "X-Forwarded-Port", o.port)
}
