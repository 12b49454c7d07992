package webdoor

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// recheckWithin is how long the answer to whether a WebSocket's login still holds may take.
const recheckWithin = 20 * time.Second

// recheck ends a WebSocket once the upstream would refuse a page to the same browser: by themselves
// programs look at a login only where a WebSocket begins. What it returns ends the looking.
func (d *Door) recheck(to *route, r *http.Request, end func()) (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.Context()))
	again := time.NewTicker(d.RecheckEvery)
	go func() {
		defer again.Stop()
		for {
			select {
			case <-again.C:
			case <-ctx.Done():
				return
			}
			if d.refused(ctx, to, r) {
				d.Log.Info("a WebSocket's login has ended", "route", to.Path, "client", r.RemoteAddr)
				end()
				return
			}
		}
	}()
	return cancel
}

// refused asks for the page by which logins are known. Only the upstream's clear word counts: nobody loses
// a WebSocket because a program is slow, or has no such page.
func (d *Door) refused(ctx context.Context, to *route, r *http.Request) bool {
	ctx, cancel := context.WithTimeout(ctx, recheckWithin)
	defer cancel()
	path := trimSlashes(to.Path)
	if d.HostRouting {
		_, path = cutElement(path)
	}
	query := url.Values{"no_track_activity": {"1"}} // to Jupyter's servers, it is no work
	if token := r.URL.Query().Get("token"); token != "" {
		query.Set("token", token)
	}
	ask := r.Clone(ctx)
	ask.Body, ask.ContentLength = http.NoBody, 0
	ask.URL = &url.URL{Path: strings.TrimSuffix("/"+path, "/") + d.RecheckPath, RawQuery: query.Encode()}
	for name := range ask.Header {
		if hopByHop(name) || strings.HasPrefix(name, "Sec-") {
			delete(ask.Header, name)
		}
	}
	// As a page of the same origin asks for a picture, for which JupyterHub wants no token against forged
	// requests; the WebSocket's own origin was looked at when it began.
	ask.Header.Set("Sec-Fetch-Site", "same-origin")
	ask.Header.Set("Sec-Fetch-Mode", "no-cors")
	if o := ask.Header.Get("Origin"); o != "" {
		ask.Header.Set("Referer", o+"/")
	}
	call, err := d.call(to, ask, ask.URL.EscapedPath())
	if err != nil {
		return false
	}
	call.Meter, call.Tunnel = nil, nil // nor is it activity of the route's
	answer := verdict{header: http.Header{}}
	func() {
		defer func() {
			if v := recover(); v != nil && v != http.ErrAbortHandler {
				panic(v)
			}
		}()
		if d.proxy.Forward(&answer, ask, call) != nil {
			answer.code = 0
		}
	}()
	switch answer.code {
	case http.StatusUnauthorized, http.StatusForbidden:
		return true
	case http.StatusFound, http.StatusSeeOther:
		return strings.Contains(answer.header.Get("Location"), "/oauth2/authorize?") // JupyterHub's login
	}
	return false
}

// verdict is a response of which only the head counts.
type verdict struct {
	header http.Header
	code   int
}

func (v *verdict) Header() http.Header         { return v.header }
func (v *verdict) Write(b []byte) (int, error) { return len(b), nil }
func (v *verdict) FlushError() error           { return nil }
func (v *verdict) WriteHeader(code int) {
	if code >= 200 && v.code == 0 {
		v.code = code
	}
}
