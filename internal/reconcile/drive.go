package reconcile

import (
	"context"
	"errors"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/provider"
	"github.com/dspool/dspool/internal/store"
)

// drive does what one machine's state asks for next. It returns when to look again, if time
// alone will ask for more.
func (l *Loop) drive(ctx context.Context, m store.MachineRow, v *view) (again time.Time) {
	now := time.Now()
	if now.Before(m.RetryAt) {
		return m.RetryAt
	}
	switch m.State {
	case dspool.Creating:
		l.act(m.Name, func() { l.create(ctx, m, v) })
	case dspool.Starting:
		limit := m.Created.Add(time.Duration(v.pools[m.Pool].Policy.StartTimeout))
		if now.Before(limit) {
			return limit
		}
		why := "it did not join within " + v.pools[m.Pool].Policy.StartTimeout.String()
		l.failed(m.Pool, why)
		l.lost(ctx, m.Name, why)
	case dspool.Destroying:
		l.act(m.Name, func() { l.destroy(ctx, m) })
	}
	return time.Time{}
}

func (l *Loop) create(ctx context.Context, m store.MachineRow, v *view) {
	ctx, cancel := context.WithTimeout(ctx, l.CreateWithin)
	defer cancel()
	handle, err := l.make(ctx, m, v)
	if err != nil {
		if errors.Is(context.Cause(ctx), context.Canceled) {
			return // the server stops; the next one tries again
		}
		why := explain("it could not be created", err)
		l.failed(m.Pool, why)
		l.lost(context.WithoutCancel(ctx), m.Name, why)
		return
	}
	address := ""
	if handle.Address.IsValid() {
		address = handle.Address.String()
	}
	if err := l.Control.MachineCreated(ctx, m.Name, address); err != nil {
		l.Log.Error("record created machine", "machine", m.Name, "err", err)
	}
}

func (l *Loop) make(ctx context.Context, m store.MachineRow, v *view) (provider.Handle, error) {
	boot, err := l.Boot(m.Name)
	if err != nil {
		return provider.Handle{}, err
	}
	pool := v.pools[m.Pool]
	spec := provider.MachineSpec{
		Name: m.Name, Resources: m.Resources, Disk: m.Disk, Image: l.ImageDir(v.images[m.Image].Key),
		UIDs: v.uids, Internet: pool.Internet, Agent: boot,
	}
	spec.Agent.Machine, spec.Agent.Resources = m.Name, m.Resources
	for _, name := range pool.Shares {
		s := v.shares[name]
		spec.Mounts = append(spec.Mounts, provider.Mount{Source: s.Path, Target: s.Mount})
	}
	return l.Provider.Create(ctx, spec)
}

const (
	destroyWithin = 2 * time.Minute
	retryMost     = 30 * time.Second
)

func (l *Loop) destroy(ctx context.Context, m store.MachineRow) {
	ctx, cancel := context.WithTimeout(ctx, destroyWithin)
	defer cancel()
	if err := l.Provider.Destroy(ctx, m.Name); err != nil {
		if errors.Is(context.Cause(ctx), context.Canceled) {
			return
		}
		l.Log.Error("destroy machine", "machine", m.Name, "try", m.Tries+1, "err", err)
		wait := min(time.Second<<min(m.Tries, 5), retryMost)
		if err := l.Control.DestroyFailed(context.WithoutCancel(ctx), m.Name, err, wait); err != nil {
			l.Log.Error("record failed destroy", "machine", m.Name, "err", err)
		}
		return
	}
	if err := l.Control.MachineEnded(context.WithoutCancel(ctx), m.Name); err != nil {
		l.Log.Error("record end of machine", "machine", m.Name, "err", err)
	}
}

func (l *Loop) lost(ctx context.Context, name, why string) {
	if err := l.Control.MachineLost(ctx, name, why); err != nil {
		l.Log.Error("record fault of machine", "machine", name, "err", err)
	}
}

// observe holds the provider's whole list against the store: a machine that should be there
// and is not, or is dead, has a fault; a thing of ours that the store does not know is swept.
func (l *Loop) observe(ctx context.Context) {
	// A machine may be recorded while the list is made. Only one that was known before the
	// list and is not in it has vanished; only one unknown after it is to be swept.
	before, err := l.live(ctx)
	if err != nil {
		l.Log.Error("read machines", "err", err)
		return
	}
	list, err := l.Provider.List(ctx)
	if err != nil {
		if ctx.Err() == nil {
			l.Log.Error("list machines of the provider", "err", err)
		}
		return
	}
	after, err := l.live(ctx)
	if err != nil {
		l.Log.Error("read machines", "err", err)
		return
	}
	seen := map[string]provider.Observed{}
	for _, o := range list {
		seen[o.Name] = o
		if _, known := after[o.Name]; !known {
			l.act(o.Name, func() {
				l.Log.Warn("sweep machine that the store does not know", "machine", o.Name)
				if err := l.Provider.Destroy(ctx, o.Name); err != nil {
					l.Log.Error("sweep machine", "machine", o.Name, "err", err)
				}
			})
		}
	}
	for name, m := range before {
		if s := after[name].State; (m.State != dspool.Starting && m.State != dspool.Ready) || (s != dspool.Starting && s != dspool.Ready) {
			continue
		}
		o, there := seen[name]
		switch {
		case !there:
			l.lost(ctx, name, "it vanished from its host")
		case !o.Running:
			if m.State == dspool.Starting {
				l.failed(m.Pool, "it ended while starting: "+o.Detail)
			}
			l.lost(ctx, name, "it ended: "+o.Detail)
		case m.State == dspool.Ready && m.Health == dspool.Healthy && time.Since(m.Seen) > l.SilentAfter:
			if err := l.Control.MachineSilent(ctx, name, l.SilentAfter); err != nil {
				l.Log.Error("record silent machine", "machine", name, "err", err)
			}
		}
	}
	l.observed = true
}

func (l *Loop) live(ctx context.Context) (map[string]store.MachineRow, error) {
	out := map[string]store.MachineRow{}
	return out, l.Store.Read(ctx, func(tx *store.Tx) error {
		rows, err := tx.LiveMachines()
		for _, r := range rows {
			out[r.Name] = r
		}
		return err
	})
}
