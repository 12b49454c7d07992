package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	webRounds      = 5
	smallSeconds   = 3
	smallClients   = 32
	leastSmall     = 3.0 // of configurable-http-proxy
	roundTrips     = 2000
	roundTripBytes = 64
	routesThere    = 1000
	routeChanges   = 300
)

// measureWeb compares the web door with other proxies, in front of the same upstream, in turns.
func measureWeb(ctx context.Context, o options, dir string, r *report) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	w, err := startWeb(ctx, o, dir)
	if err != nil {
		return err
	}
	defer w.stop()
	for _, measure := range []func(context.Context, *report) error{w.small, w.sockets, w.downloads, w.routes} {
		if err := measure(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

// inTurns measures each way in each round, beginning with another one every time.
func inTurns[T any](ctx context.Context, ways []*webProxy, rounds int, measure func(context.Context, *webProxy) (T, error)) (map[string][]T, error) {
	seen := map[string][]T{}
	for i := range rounds {
		for k := range ways {
			p := ways[(i+k)%len(ways)]
			v, err := measure(ctx, p)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", p.name, err)
			}
			seen[p.name] = append(seen[p.name], v)
		}
	}
	return seen, nil
}

func middle(samples []float64) float64 {
	s := slices.Sorted(slices.Values(samples))
	n := len(s)
	return (s[(n-1)/2] + s[n/2]) / 2
}

// small asks for a small page again and again.
func (w *web) small(ctx context.Context, r *report) error {
	progress("web: %d × %d s of small requests through each proxy", webRounds, smallSeconds)
	seen, err := inTurns(ctx, w.proxies, webRounds, w.load)
	if err != nil {
		return err
	}
	told := func(name string) string { return fmt.Sprintf("%.0f/s", middle(seen[name])) }
	ratio := func(name string) float64 { return middle(seen[webDoor]) / middle(seen[name]) }
	what := fmt.Sprintf("small requests, %d connections, median of %d", smallClients, webRounds)
	r.add(row{what: what, dspool: told(webDoor), peer: told(webModel) + " configurable-http-proxy",
		ratio: times(ratio(webModel)), aim: fmt.Sprintf("≥ %.0f×", leastSmall), met: ratio(webModel) >= leastSmall})
	r.add(row{what: what, dspool: told(webDoor), peer: told(webHAProxy) + " HAProxy", ratio: times(ratio(webHAProxy))})
	for _, p := range w.proxies {
		r.note("small requests: %s %.0f to %.0f/s", p.name, slices.Min(seen[p.name]), slices.Max(seen[p.name]))
	}
	r.note("  bytes passed on after a connection's first request, without a look at the next ones: %s of the door's %s (%s); straight to the upstream %s",
		told(webBytes), told(webDoor), times(1/ratio(webBytes)), told(webStraight))
	return nil
}

var (
	perSecond = regexp.MustCompile(`Requests/sec:\s+([\d.]+)`)
	failures  = regexp.MustCompile(`(?m)^\s*(Non-2xx.*|Socket errors.*)$`)
)

// load is how many requests a second wrk gets answered.
func (w *web) load(ctx context.Context, p *webProxy) (float64, error) {
	out, err := commandOutput(ctx, "wrk", "-t1", "-c"+strconv.Itoa(smallClients), "-d"+strconv.Itoa(smallSeconds), "http://"+p.addr+webPath+"small")
	if err != nil {
		return 0, err
	}
	if m := failures.FindStringSubmatch(out); m != nil {
		return 0, fmt.Errorf("wrk: %s", m[1])
	}
	m := perSecond.FindStringSubmatch(out)
	if m == nil {
		return 0, fmt.Errorf("wrk says %q", out)
	}
	return strconv.ParseFloat(m[1], 64)
}

// sockets sends a message to an echo and waits for it.
func (w *web) sockets(ctx context.Context, r *report) error {
	progress("web: %d × %d round trips of a WebSocket through each proxy", webRounds, roundTrips)
	seen, err := inTurns(ctx, w.proxies, webRounds, roundTrip)
	if err != nil {
		return err
	}
	told := func(name string) string { return fmt.Sprintf("%.1f µs", float64(median(seen[name]))/1e3) }
	for _, name := range []string{webModel, webHAProxy} {
		r.add(row{what: fmt.Sprintf("WebSocket round trip, %d bytes, median of %d × %d", roundTripBytes, webRounds, roundTrips),
			dspool: told(webDoor), peer: told(name) + " " + name, ratio: times(float64(median(seen[webDoor])) / float64(median(seen[name])))})
	}
	r.note("WebSocket round trip: straight to the upstream %s", told(webStraight))
	return nil
}

// downloads takes a GiB.
func (w *web) downloads(ctx context.Context, r *report) error {
	progress("web: %d × 1 GiB through each proxy", webRounds)
	seen, err := inTurns(ctx, w.proxies, webRounds, download)
	if err != nil {
		return err
	}
	speed := func(name string) float64 { return (gib >> 20) / median(seen[name]).Seconds() }
	told := func(name string) string { return fmt.Sprintf("%.0f MiB/s", speed(name)) }
	for _, name := range []string{webModel, webHAProxy} {
		r.add(row{what: "1 GiB through the web door, median of " + strconv.Itoa(webRounds), dspool: told(webDoor), peer: told(name) + " " + name, ratio: times(speed(webDoor) / speed(name))})
	}
	r.note("1 GiB: straight from the upstream %s", told(webStraight))
	return nil
}

// routes adds and deletes a route while there are many.
func (w *web) routes(ctx context.Context, r *report) error {
	progress("web: %d routes, and %d added and deleted", routesThere, routeChanges)
	var with []*webProxy
	for _, p := range w.proxies {
		if p.api != "" {
			with = append(with, p)
		}
	}
	for _, p := range with {
		for i := range routesThere {
			if err := p.route(ctx, fmt.Sprintf("/user/u%04d", i)); err != nil {
				return err
			}
		}
	}
	type change struct{ add, drop time.Duration }
	seen, err := inTurns(ctx, with, webRounds, func(ctx context.Context, p *webProxy) (c change, err error) {
		adds, drops := make([]time.Duration, routeChanges), make([]time.Duration, routeChanges)
		for i := range routeChanges {
			begun := time.Now()
			if err := p.route(ctx, "/user/new"); err != nil {
				return c, err
			}
			adds[i] = time.Since(begun)
			begun = time.Now()
			if err := p.unroute(ctx, "/user/new"); err != nil {
				return c, err
			}
			drops[i] = time.Since(begun)
		}
		return change{median(adds), median(drops)}, nil
	})
	if err != nil {
		return err
	}
	for _, n := range []struct {
		what string
		of   func(change) time.Duration
	}{{"add", func(c change) time.Duration { return c.add }}, {"delete", func(c change) time.Duration { return c.drop }}} {
		mid := func(name string) time.Duration {
			var all []time.Duration
			for _, c := range seen[name] {
				all = append(all, n.of(c))
			}
			return median(all)
		}
		r.add(row{what: fmt.Sprintf("%s a route at %d, median of %d × %d", n.what, routesThere, webRounds, routeChanges),
			dspool: fmt.Sprintf("%d µs", mid(webDoor).Microseconds()), peer: fmt.Sprintf("%d µs configurable-http-proxy", mid(webModel).Microseconds()),
			ratio: times(float64(mid(webDoor)) / float64(mid(webModel)))})
	}
	return nil
}

// modelFolder has configurable-http-proxy, from this run or a former one.
func modelFolder(ctx context.Context, o options) (string, error) {
	dir := filepath.Join(o.out, "npm")
	program := filepath.Join(dir, "node_modules", ".bin", "configurable-http-proxy")
	if _, err := os.Stat(program); err == nil {
		return program, nil
	}
	progress("web: installing %s", webModelPackage)
	if out, err := commandOutput(ctx, "npm", "install", "--silent", "--no-fund", "--no-audit", "--prefix", dir, webModelPackage); err != nil {
		return "", fmt.Errorf("install %s: %w: %s", webModelPackage, err, strings.TrimSpace(out))
	}
	return program, nil
}
