package runc

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/dspool/dspool/internal/provider"
)

// List reads the state directory and what carries the owner tag on the host: control
// groups and runc's own state. It starts no process.
func (p *Provider) List(ctx context.Context) ([]provider.Observed, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	found := map[string]provider.Observed{}
	names, err := subdirectories(machinesDir(p.cfg))
	if err != nil {
		return nil, fmt.Errorf("list machines: %w", err)
	}
	for _, name := range names {
		r, ok, err := load(p.cfg, name)
		if err != nil {
			return nil, fmt.Errorf("list machines: %w", err)
		}
		if !ok {
			found[name] = provider.Observed{Name: name, Detail: "half made"}
			continue
		}
		running, detail := r.state(p.cfg)
		if !running {
			if last := p.watcher.lastWords(name); last != "" {
				detail += ": " + last
			}
		}
		found[name] = provider.Observed{Name: name, Running: running, Handle: r.handle(), Detail: detail}
	}
	containers, err := subdirectories(runcRoot(p.cfg))
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	grouped, err := p.groups.list()
	if err != nil {
		return nil, fmt.Errorf("list control groups: %w", err)
	}
	for _, name := range slices.Concat(containers, grouped) {
		if _, ok := found[name]; !ok {
			found[name] = provider.Observed{Name: name, Detail: "left over: its directory is missing"}
		}
	}
	return slices.SortedFunc(maps.Values(found), func(a, b provider.Observed) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	}), nil
}
