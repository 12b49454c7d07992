package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/dspool/dspool/internal/agent/activity"
	"github.com/dspool/dspool/internal/agent/initd"
)

const (
	// askTimeout is for one question to a Jupyter server.
	askTimeout = 2 * time.Second
	// mostAnswer is what is read of an answer, in bytes.
	mostAnswer = 1 << 20
	// silenceTrusted is how long kernels of a server that does not answer may still be busy. A server
	// that was stopped in a debugger or hangs keeps its user's machine no longer than that.
	silenceTrusted = 10 * time.Minute
)

// jupyterApps returns the apps of every session as activity judges them. Jupyter servers are asked
// how their kernels are, all at once.
func (h *Host) jupyterApps(ctx context.Context, list []initd.AppStatus) map[int64][]activity.App {
	busy := make([]bool, len(list))
	errs := make([]error, len(list))
	var asked sync.WaitGroup
	for i, s := range list {
		if s.State == initd.Running && s.Kernels != "" {
			asked.Go(func() { busy[i], errs[i] = askKernels(ctx, s) })
		}
	}
	asked.Wait()
	now := time.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	out := map[int64][]activity.App{}
	for i, s := range list {
		if s.State != initd.Running {
			continue
		}
		a := activity.App{Name: s.Name, PID: s.PID, PIDs: s.PIDs, Jupyter: s.Kernels != ""}
		if a.Jupyter {
			l := h.lookAt(s, now)
			switch {
			case errs[i] != nil:
				a.Silent = now.Sub(l.answered) < silenceTrusted
				h.log.Debug("a Jupyter server does not say how its kernels are", "app", s.ID, "error", errs[i])
				if !a.Silent {
					l.busy = time.Time{}
				}
			case busy[i]:
				l.answered = now
				if l.busy.IsZero() {
					l.busy = now
				}
				a.Busy, a.Since = true, l.busy
			default:
				l.answered, l.busy = now, time.Time{}
			}
		}
		out[s.Session] = append(out[s.Session], a)
	}
	return out
}

// askKernels asks a Jupyter server whether a kernel is busy, without counting as its activity. See
// GET /api/kernels of Jupyter Server's REST API.
func askKernels(ctx context.Context, s initd.AppStatus) (busy bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	base := url.URL{Scheme: "http", Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(s.Port))}
	at := base.JoinPath(s.Kernels, "kernels")
	at.RawQuery = "no_track_activity=1"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return false, err
	}
	req.Header.Set("Authorization", "token "+s.Token)
	transport := &http.Transport{
		DisableKeepAlives: true, MaxResponseHeaderBytes: 64 << 10,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return dialOwn(ctx, s.Port, s.UID) },
	}
	defer transport.CloseIdleConnections()
	resp, err := transport.RoundTrip(req) // which follows no redirect
	if err != nil {
		return false, errors.New("the server cannot be asked") // what it would say more names the address only
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return false, fmt.Errorf("the server answers %d", resp.StatusCode)
	}
	var kernels []struct {
		State string `json:"execution_state"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, mostAnswer)).Decode(&kernels); err != nil {
		return false, errors.New("the server's answer is no list of kernels")
	}
	for _, k := range kernels {
		busy = busy || k.State == "busy"
	}
	return busy, nil
}

// dialOwn connects to a port that is the user's before and after: a token goes to nobody else.
func dialOwn(ctx context.Context, port, uid int) (net.Conn, error) {
	check := func() (netip.Addr, error) {
		byPort, err := listeners()
		if err != nil {
			return netip.Addr{}, err
		}
		o, dial, _ := whose(byPort[port], uid)
		if o != own && o != inside {
			return dial, errors.New("the port is not the user's")
		}
		return dial, nil
	}
	at, err := check()
	if err != nil {
		return nil, err
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", netip.AddrPortFrom(at, uint16(port)).String())
	if err != nil {
		return nil, err
	}
	if _, err := check(); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}
