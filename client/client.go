package client

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/dspool/dspool"
)

const (
	maxAnswer = 256 << 20 // of one JSON document
	// callTimeout ends a call whose server accepts it and then says nothing.
	callTimeout = 2 * time.Minute
	// DefaultPatience is how long a stream that once worked tries to come back.
	DefaultPatience = 2 * time.Minute
)

// Options say which server to talk to and how. Either URL or Socket must be set.
type Options struct {
	URL    string // https://HOST:PORT; http only to this host itself
	Token  string // sent as bearer; "" relies on the socket's peer credentials
	CA     []byte // PEM of the authorities to trust; nil is the system's
	Socket string // path of the server's unix socket, used when URL is ""

	Patience  time.Duration // DefaultPatience unless set
	UserAgent string        // "dspool-client" unless set
}

// Client talks to one server. It is safe for concurrent use.
type Client struct {
	base     *url.URL
	where    string // the server's address as people know it
	token    string
	agent    string
	patience time.Duration
	http     *http.Client
}

// New makes a Client. It does not talk to the server yet.
func New(o Options) (*Client, error) {
	c := &Client{token: o.Token, patience: cmp.Or(o.Patience, DefaultPatience), agent: cmp.Or(o.UserAgent, "dspool-client")}
	transport := &http.Transport{
		ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 8, IdleConnTimeout: time.Minute,
		TLSHandshakeTimeout: 10 * time.Second,
		DialContext:         (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
	}
	// The server's redirects are never followed: the token goes to it and nobody else.
	c.http = &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	switch {
	case o.URL != "":
		u, err := parseURL(o.URL, o.Token != "")
		if err != nil {
			return nil, err
		}
		c.base, c.where = u, u.Scheme+"://"+u.Host
		transport.Proxy = http.ProxyFromEnvironment
		transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
		if o.CA != nil {
			pool := x509.NewCertPool()
			if !pool.AppendCertsFromPEM(o.CA) {
				return nil, dspool.Errorf(dspool.Invalid, "the authority to trust is not a PEM certificate").WithHint("DSPOOL_CA names a file with what `dspool ca` prints")
			}
			transport.TLSClientConfig.RootCAs = pool
		}
	case o.Socket != "":
		c.base, c.where = &url.URL{Scheme: "http", Host: "dspool"}, o.Socket
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", o.Socket)
		}
	default:
		return nil, dspool.Errorf(dspool.Invalid, "no server is named").WithHint("set DSPOOL_URL, or run on the server's host")
	}
	return c, nil
}

func parseURL(s string, secret bool) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, dspool.Errorf(dspool.Invalid, "%s is not the address of a dspool server", dspool.Quote(s)).WithHint("for example https://pool.example.org:8443")
	}
	ip := net.ParseIP(u.Hostname())
	if u.Scheme == "http" && secret && u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return nil, dspool.Errorf(dspool.Invalid, "%s would send the token in the clear", dspool.Quote(s)).WithHint("use https://")
	}
	u.Path = strings.TrimSuffix(strings.TrimSuffix(u.Path, "/"), "/api/v1")
	return u, nil
}

// Where returns the server's address as people know it: a URL's beginning or a socket's path.
func (c *Client) Where() string { return c.where }

// Host returns the host name or address of the server's URL, "" for a socket.
func (c *Client) Host() string {
	if !strings.Contains(c.where, "://") {
		return ""
	}
	return c.base.Hostname()
}

// call is one request with a JSON answer. Calls marked repeat are made again when nobody
// knows whether they arrived.
type call struct {
	method string
	path   []string // elements, escaped by request
	query  url.Values
	in     any
	repeat bool
	wait   time.Duration // the server may take this much longer
}

// do makes the call and decodes its answer into out, unless that is nil.
func (c *Client) do(ctx context.Context, k call, out any) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout+k.wait)
	defer cancel()
	for try := 0; ; try++ {
		err := c.once(ctx, k, out)
		if err == nil || !k.repeat || try == 2 || !mayWork(err) || nobodyHome(err) {
			return err
		}
		if pause(ctx, try) != nil {
			return err
		}
	}
}

func (c *Client) once(ctx context.Context, k call, out any) error {
	resp, err := c.open(ctx, k, "application/json")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body := io.LimitReader(resp.Body, maxAnswer)
	switch out := out.(type) {
	case nil:
		_, err = io.Copy(io.Discard, body)
	case *[]byte:
		*out, err = io.ReadAll(body)
	default:
		err = json.NewDecoder(body).Decode(out)
		var syntax *json.SyntaxError
		var kind *json.UnmarshalTypeError
		if errors.As(err, &syntax) || errors.As(err, &kind) {
			return dspool.Errorf(dspool.Internal, "%s does not answer as a dspool server of this version: %w", c.where, err).WithHint("compare `dspool version` here and there")
		}
	}
	if err != nil {
		return c.unreachable(ctx, err)
	}
	return nil
}

// open sends the request and returns its successful answer.
func (c *Client) open(ctx context.Context, k call, accept string) (*http.Response, error) {
	req, err := c.request(ctx, k, accept)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.unreachable(ctx, err)
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		defer resp.Body.Close()
		return nil, c.refused(resp)
	}
	return resp, nil
}

func (c *Client) request(ctx context.Context, k call, accept string) (*http.Request, error) {
	u := *c.base
	u.Path += "/api/v1"
	u.RawPath = u.EscapedPath()
	for _, p := range k.path {
		if p == "" || p == "." || p == ".." || len(p) > 1024 {
			return nil, dspool.Errorf(dspool.Invalid, "%s cannot be a name or number of anything", dspool.Quote(p))
		}
		u.Path += "/" + p
		u.RawPath += "/" + url.PathEscape(p)
	}
	u.RawQuery = k.query.Encode()
	var body io.Reader
	if k.in != nil {
		b, err := json.Marshal(k.in)
		if err != nil {
			return nil, fmt.Errorf("encode request: %w", err)
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, k.method, u.String(), body)
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	req.Header.Set("Accept", accept+", application/problem+json")
	req.Header.Set("User-Agent", c.agent)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	return req, nil
}

func isJSON(h http.Header) bool {
	t, _, _ := mime.ParseMediaType(h.Get("Content-Type"))
	return t == "application/json" || strings.HasSuffix(t, "+json")
}

// pause waits a little longer after every try, from 0.1 s to 2 s, never in step with others.
func pause(ctx context.Context, try int) error {
	d := min(100*time.Millisecond<<min(try, 5), 2*time.Second)
	t := time.NewTimer(d/2 + rand.N(d/2))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
