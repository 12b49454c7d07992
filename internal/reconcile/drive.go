package reconcile

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/control"
	"github.com/dspool/dspool/internal/provider"
	"github.com/dspool/dspool/internal/store"
)

// drive does what one machine's state asks for next. It returns when to look again, if time
// alone will ask for more.
func (l *Loop) drive(ctx context.Context, m store.MachineRow, v *view, now time.Time) (again time.Time) {
	if now.Before(m.RetryAt) {
		return m.RetryAt
	}
	switch m.State {
	case dspool.Creating:
		l.act(m.Name, creating, func() { l.create(ctx, m, v) })
	case dspool.Starting:
		// It could not join while no server ran.
		limit := later(m.Created, l.begunAt(now)).Add(time.Duration(v.pools[m.Pool].Policy.StartTimeout))
		if now.Before(limit) {
			return limit
		}
		why := dspool.Why(dspool.WhyNotJoined, dspool.ReasonParams{Within: v.pools[m.Pool].Policy.StartTimeout})
		l.failed(m.Pool, why)
		l.lost(ctx, m.Name, why)
	case dspool.Destroying:
		l.act(m.Name, destroying, func() { l.destroy(ctx, m) })
	}
	return time.Time{}
}

// begunAt is when the loop began, on the clock of now.
func (l *Loop) begunAt(now time.Time) time.Time { return now.Add(-time.Since(l.begun)) }

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func (l *Loop) create(ctx context.Context, m store.MachineRow, v *view) {
	ctx, cancel := context.WithTimeout(ctx, l.CreateWithin)
	defer cancel()
	handle, err := l.make(ctx, m, v)
	if err != nil {
		if errors.Is(context.Cause(ctx), context.Canceled) {
			return // the server stops; the next one tries again
		}
		why := dspool.Why(dspool.WhyNotCreated, dspool.ReasonParams{Detail: err.Error()})
		l.failed(m.Pool, why)
		l.lost(context.WithoutCancel(ctx), m.Name, why)
		return
	}
	address := ""
	if handle.Address.IsValid() {
		address = handle.Address.String()
	}
	// Also when its time is up: it is there.
	if err := l.Control.MachineCreated(context.WithoutCancel(ctx), m.Name, address); err != nil {
		l.Log.Error("record created machine", "machine", m.Name, "err", err)
	}
}

func (l *Loop) make(ctx context.Context, m store.MachineRow, v *view) (provider.Handle, error) {
	boot, err := l.Boot(m.Name)
	if err != nil {
		return provider.Handle{}, err
	}
	pool, key := v.pools[m.Pool], m.ImageKey
	if key == "" {
		key = v.images[m.Image].Key // a row from before machines kept it
	}
	spec := provider.MachineSpec{
		Name: m.Name, Resources: m.Resources, Disk: m.Disk, Image: l.ImageDir(key),
		UIDs: v.uids, Reach: reach(pool.Pool), Agent: boot,
	}
	spec.Agent.Machine, spec.Agent.Resources = m.Name, m.Resources
	if _, ok := l.Provider.(provider.Mounter); pool.Policy.Sudo && !ok {
		return provider.Handle{}, dspool.Errorf(dspool.Unavailable, "people cannot become root here: this provider cannot mount single homes")
	}
	for _, name := range pool.Shares {
		s := v.shares[name]
		mount := provider.Mount{Source: s.Path, Target: s.Mount}
		if pool.Policy.Sudo {
			cover(&mount, name == v.jobsShare)
		}
		spec.Mounts = append(spec.Mounts, mount)
	}
	return l.Provider.Create(ctx, spec)
}

func reach(p dspool.Pool) provider.Reach {
	switch {
	case !p.Internet:
		return provider.Nowhere
	case p.PublicOnly:
		return provider.Public
	}
	return provider.Everywhere
}

// cover hides what is private on a share from a machine on which people become root. Also a share
// that no longer is that of jobs may hold such folders; on others, folders of these names that
// are not root's are anybody's.
func cover(m *provider.Mount, jobs bool) {
	if m.Target == dspool.HomeMount {
		m.Empty = true
		return
	}
	for _, folder := range control.PrivateFolders {
		info, err := os.Lstat(filepath.Join(m.Source, folder))
		if jobs || (err == nil && info.IsDir() && info.Sys().(*syscall.Stat_t).Uid == 0) {
			m.Cover = append(m.Cover, folder)
		}
	}
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
	if err := l.Control.MachineEnded(context.WithoutCancel(ctx), m.Name, l.sights.end(m.Name)); err != nil {
		l.Log.Error("record end of machine", "machine", m.Name, "err", err)
	}
}

func (l *Loop) lost(ctx context.Context, name string, why dspool.Reason) {
	if err := l.Control.MachineLost(ctx, name, why); err != nil {
		l.Log.Error("record fault of machine", "machine", name, "err", err)
	}
}
