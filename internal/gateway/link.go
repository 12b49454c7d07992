package gateway

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
)

// server is what the gateway asks of dspool's server.
type server interface {
	// Directives waits until there are some beyond revision after, or for a while.
	Directives(ctx context.Context, after int64) (api.GatewayDirectives, error)
	// Authenticate returns an error with code Unauthenticated for every wrong proof alike.
	Authenticate(ctx context.Context, p api.Proof) (api.Identity, error)
	// OpenSession hands every step to step and returns the last one, ready or failed.
	OpenSession(ctx context.Context, o api.OpenSession, step func(api.SessionStep)) (api.SessionStep, error)
	Certificate(ctx context.Context, l api.MachineLogin) (api.MachineCertificate, error)
	Report(ctx context.Context, list []api.ConnectionReport) error
	// Killed says whether the kernel has just killed something of a session for memory.
	Killed(ctx context.Context, k api.Killed) (api.KilledAnswer, error)

	WebLogin(ctx context.Context, w api.WebLogin) (api.Identity, error)
	WebCertificate(ctx context.Context, w api.WebCertificate) (api.EnrolResponse, error)
	WebConnections(ctx context.Context, list []api.WebConnection) error
}

// errAway says that the server did not answer; asking again may help.
var errAway = errors.New("the server does not answer")

const (
	directivesWait = 25 * time.Second
	quickAnswer    = 10 * time.Second // no answer but a stream or a long poll takes longer
	mostAnswer     = 8 << 20          // bytes
)

// link speaks to the server over its unix socket.
type link struct{ http *http.Client }

func newLink(socket string) *link {
	var d net.Dialer
	return &link{http: &http.Client{Transport: &http.Transport{
		DialContext:         func(ctx context.Context, _, _ string) (net.Conn, error) { return d.DialContext(ctx, "unix", socket) },
		MaxIdleConnsPerHost: 64,
		IdleConnTimeout:     time.Minute,
		DisableCompression:  true,
	}}}
}

func (l *link) Directives(ctx context.Context, after int64) (d api.GatewayDirectives, err error) {
	ctx, cancel := context.WithTimeout(ctx, directivesWait+quickAnswer)
	defer cancel()
	err = l.call(ctx, http.MethodGet, fmt.Sprintf("directives?after=%d&wait=%s", after, directivesWait), nil, &d)
	return d, err
}

func (l *link) Authenticate(ctx context.Context, p api.Proof) (id api.Identity, err error) {
	err = l.post(ctx, "authenticate", p, &id)
	return id, err
}

func (l *link) Certificate(ctx context.Context, m api.MachineLogin) (c api.MachineCertificate, err error) {
	err = l.post(ctx, "certificate", m, &c)
	return c, err
}

func (l *link) Report(ctx context.Context, list []api.ConnectionReport) error {
	return l.post(ctx, "connections", list, nil)
}

func (l *link) Killed(ctx context.Context, k api.Killed) (a api.KilledAnswer, err error) {
	err = l.post(ctx, "killed", k, &a)
	return a, err
}

func (l *link) OpenSession(ctx context.Context, o api.OpenSession, step func(api.SessionStep)) (last api.SessionStep, err error) {
	resp, err := l.send(ctx, http.MethodPost, "sessions", o)
	if err != nil {
		return last, err
	}
	defer resp.Body.Close()
	for dec := json.NewDecoder(resp.Body); ; {
		var s api.SessionStep
		if err := dec.Decode(&s); err != nil {
			return last, fmt.Errorf("read how the session comes along: %w: %w", errAway, err)
		}
		if last = s; s.Ready != nil || s.Failed != nil {
			return last, nil
		}
		step(s)
	}
}

// post asks for what the server answers quickly.
func (l *link) post(ctx context.Context, path string, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, quickAnswer)
	defer cancel()
	return l.call(ctx, http.MethodPost, path, in, out)
}

func (l *link) call(ctx context.Context, method, path string, in, out any) error {
	resp, err := l.send(ctx, method, path, in)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, mostAnswer))
		return err
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, mostAnswer)).Decode(out); err != nil {
		return fmt.Errorf("read the server's answer: %w: %w", errAway, err)
	}
	// The end must be read too, or the connection is not used again.
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 4<<10))
	return nil
}

func (l *link) send(ctx context.Context, method, path string, in any) (*http.Response, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, fmt.Errorf("write the request: %w", err)
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://server/gateway/v1/"+path, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := l.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errAway, err)
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, refusal(resp)
}

// refusal makes an error for people of an answer that is none.
func refusal(resp *http.Response) error {
	var e struct {
		dspool.Error
		Detail string `json:"detail"`
	}
	_ = json.NewDecoder(io.LimitReader(resp.Body, 64<<10)).Decode(&e)
	code := e.Code
	switch {
	case resp.StatusCode == http.StatusUnauthorized:
		code = dspool.Unauthenticated
	case resp.StatusCode == http.StatusBadGateway || resp.StatusCode == http.StatusServiceUnavailable && e.Code == "":
		return fmt.Errorf("%w: %s", errAway, resp.Status)
	case code == "":
		code = dspool.Internal
	}
	err := dspool.Errorf(code, "%s", cmp.Or(e.Message, e.Detail, "the server answered "+resp.Status))
	if e.Hint != "" {
		err = err.WithHint("%s", e.Hint)
	}
	return err
}

// patiently repeats ask while the server is away, until ctx ends.
func patiently[T any](ctx context.Context, ask func() (T, error)) (T, error) {
	rest := newRest(50*time.Millisecond, time.Second)
	for {
		v, err := ask()
		if !errors.Is(err, errAway) || !rest.wait(ctx) {
			return v, err
		}
	}
}

// WebLogin says who the holder of a portal cookie is; an error with code Unauthenticated for every wrong one.
func (l *link) WebLogin(ctx context.Context, w api.WebLogin) (id api.Identity, err error) {
	err = l.post(ctx, "web/login", w, &id)
	return id, err
}

// WebCertificate gets a certificate of the server's authority for a web door.
func (l *link) WebCertificate(ctx context.Context, w api.WebCertificate) (out api.EnrolResponse, err error) {
	err = l.post(ctx, "web/certificate", w, &out)
	return out, err
}

// WebConnections records that browsers have WebSockets to apps.
func (l *link) WebConnections(ctx context.Context, list []api.WebConnection) error {
	return l.post(ctx, "web/connections", list, nil)
}
