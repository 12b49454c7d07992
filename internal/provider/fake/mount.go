package fake

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/provider"
)

// Mount records what is mounted; it refuses what would not lie below what the machine sees as empty.
func (p *Provider) Mount(ctx context.Context, name string, mounts []provider.Mount) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mountErr != nil {
		p.mountFails++
		return p.mountErr
	}
	m := p.machines[name]
	if m == nil || !m.running {
		return dspool.Errorf(dspool.Unavailable, "nothing can be mounted in machine %s: it does not run", name)
	}
	for _, wanted := range mounts {
		if err := errors.Join(ctx.Err(), wanted.Check()); err != nil {
			return err
		}
		if !slices.ContainsFunc(m.spec.Mounts, func(made provider.Mount) bool { return covers(made, wanted.Target) }) {
			return dspool.Errorf(dspool.Conflict, "%s lies below nothing that is empty in machine %s", wanted.Target, name)
		}
	}
	m.mounts = slices.Clone(mounts)
	return nil
}

func covers(m provider.Mount, target string) bool {
	if m.Empty {
		return strings.HasPrefix(target, m.Target+"/")
	}
	return slices.ContainsFunc(m.Cover, func(folder string) bool { return strings.HasPrefix(target, m.Target+"/"+folder+"/") })
}

// FailMount makes Mount fail with err until called with nil.
func (p *Provider) FailMount(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mountErr = err
}

// MountsFailed counts the calls of Mount that FailMount made fail.
func (p *Provider) MountsFailed() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mountFails
}

// Mounted returns what Mount last made of a machine's mounts.
func (p *Provider) Mounted(name string) []provider.Mount {
	p.mu.Lock()
	defer p.mu.Unlock()
	if m := p.machines[name]; m != nil {
		return slices.Clone(m.mounts)
	}
	return nil
}

// Spec returns what a machine was made of; the zero value if there is none.
func (p *Provider) Spec(name string) provider.MachineSpec {
	p.mu.Lock()
	defer p.mu.Unlock()
	if m := p.machines[name]; m != nil {
		return m.spec
	}
	return provider.MachineSpec{}
}
