package reconcile

import (
	"context"
	"fmt"
	"maps"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/control"
	"github.com/dspool/dspool/internal/plan"
	"github.com/dspool/dspool/internal/store"
)

// pass computes the plan, writes it down and starts what it asks of the provider. It returns
// after how long time alone will change the plan; 0 is never.
func (l *Loop) pass(ctx context.Context) (wait time.Duration, err error) {
	var view *view
	var p plan.Plan
	var again, now time.Time
	err = l.Control.Decide(ctx, func(d *control.Decision) error {
		view, err = l.snapshot(d.Tx)
		if err != nil {
			return fmt.Errorf("take snapshot: %w", err)
		}
		p = plan.Compute(view.Snapshot, d.Now())
		again, now = p.WakeAt, d.Now()
		return d.Enact(view.rows, p)
	})
	if err != nil {
		return 0, err
	}
	l.serve(view, p.Place)
	l.Control.ForgetFaults(view.rows)
	for _, m := range view.rows.Machines {
		if at := l.drive(ctx, *m, view, now); !at.IsZero() && (again.IsZero() || at.Before(again)) {
			again = at
		}
	}
	if again.IsZero() {
		return 0, nil
	}
	return max(again.Sub(now), time.Millisecond), nil
}

// serve remembers which jobs had a turn last. It is lost with the server: a turn more or less.
func (l *Loop) serve(v *view, places []plan.Place) {
	l.passes++
	for _, p := range places {
		l.served[p.Job] = l.passes
	}
	maps.DeleteFunc(l.served, func(job, _ int64) bool { return v.rows.Jobs[job] == nil })
}

// view is a snapshot with the rows it was made from.
type view struct {
	plan.Snapshot
	rows   control.Rows
	pools  map[string]plan.Pool
	images map[string]dspool.Image
	shares map[string]dspool.Share
	uids   dspool.UIDRange

	jobsShare string
}

func (l *Loop) snapshot(tx *store.Tx) (*view, error) {
	v := &view{
		pools: map[string]plan.Pool{}, images: map[string]dspool.Image{}, shares: map[string]dspool.Share{},
		rows: control.Rows{Machines: map[string]*store.MachineRow{}, Jobs: map[int64]*store.JobRow{}},
	}
	capabilities := l.Provider.Capabilities()
	v.Capacity, v.MaxMachines = capabilities.Capacity, capabilities.MaxMachines
	if err := l.readConfig(tx, v); err != nil {
		return nil, err
	}
	machines, err := tx.LiveMachines()
	if err != nil {
		return nil, err
	}
	open, err := tx.OpenAttempts("")
	if err != nil {
		return nil, err
	}
	jobs, err := tx.OpenJobs()
	if err != nil {
		return nil, err
	}
	sessions, err := tx.OpenSessions()
	if err != nil {
		return nil, err
	}
	apps, err := tx.OpenApps()
	if err != nil {
		return nil, err
	}
	awaited, kept := map[int64]bool{}, map[int64]bool{}
	for _, a := range apps {
		awaited[a.Session] = awaited[a.Session] || a.State == dspool.AppWaiting || a.State == dspool.AppStarting
		kept[a.Session] = kept[a.Session] || a.Restart
	}
	for _, s := range sessions {
		ps := plan.Session{
			ID: s.ID, User: s.User, Pool: s.Pool, Size: s.Size, Machine: s.Machine, State: s.State, Request: s.Request,
			Connections: s.Connections, Awaited: awaited[s.ID] && !kept[s.ID], Kept: kept[s.ID], Active: s.Active, LastActive: s.LastActive, Since: s.Created,
		}
		if s.KeepUntil != nil {
			ps.KeepUntil = *s.KeepUntil
		}
		v.Sessions = append(v.Sessions, ps)
	}
	placed := map[string][]plan.Attempt{}
	for _, a := range open {
		for _, cl := range a.Claims {
			placed[cl.Machine] = append(placed[cl.Machine], plan.Attempt{
				ID: a.ID, Job: a.Job, Request: cl.Request, Running: a.State == dspool.TaskRunning,
				Recall: cl.Desired != store.Run, Since: a.Assigned,
			})
		}
	}
	for _, m := range machines {
		if m.ReadyAt != nil {
			l.joined(m.Pool, tx.Now().Sub(*m.ReadyAt))
		}
		v.rows.Machines[m.Name] = &m
		idle := m.Created
		if m.IdleSince != nil {
			idle = *m.IdleSince
		} else if m.ReadyAt != nil {
			idle = *m.ReadyAt
		}
		health, healthReason, faulty := m.Health, m.HealthReason, time.Time{}
		if f, ok := l.Control.MachineFault(m.Name); ok && f.Left() > 0 {
			faulty = tx.Now().Add(f.Left())
			if health == dspool.Healthy {
				health, healthReason = dspool.Unhealthy, f.Why
			}
		}
		v.Machines = append(v.Machines, plan.Machine{
			Name: m.Name, Pool: m.Pool, Size: m.Size, Resources: m.Resources, State: m.State, Cordoned: m.Cordoned,
			DrainBy: m.DrainBy, Health: health, HealthReason: healthReason, FaultUntil: faulty, IdleSince: idle, Remove: m.Remove,
			Used:     m.ReadyAt != nil && m.IdleSince != nil && m.IdleSince.After(*m.ReadyAt),
			Attempts: placed[m.Name],
		})
	}
	for i, p := range v.Pools {
		v.Pools[i].BackoffUntil, v.Pools[i].LastFailure = l.backoff(p.Name, tx.Now())
		if f, ok := l.Control.PoolFault(p.Name); ok {
			v.Pools[i].Held, v.Pools[i].HeldUntil, v.Pools[i].HeldAfter = f.Why, tx.Now().Add(f.Left()), f.Floor
		}
		v.pools[p.Name] = v.Pools[i]
		v.rows.Pools = append(v.rows.Pools, p.Name)
	}
	for _, j := range jobs {
		v.rows.Jobs[j.ID] = &j
		pj := plan.Job{
			ID: j.ID, User: j.User, Pool: j.Spec.Pool, Size: j.Spec.Size, Request: j.Spec.Request(),
			Pending: j.Tasks.Pending, Placed: j.Tasks.Active(), MaxRunning: j.Spec.MaxRunning,
			Blocked: j.Blocked, Created: j.Created, Served: l.served[j.ID],
		}
		if n := j.Tasks.Succeeded + j.Tasks.Failed; n > 0 {
			pj.TaskTime = max(j.TaskSum/time.Duration(n), time.Microsecond)
		}
		v.Jobs = append(v.Jobs, pj)
	}
	return v, nil
}

func (l *Loop) readConfig(tx *store.Tx, v *view) error {
	sizes, err := tx.Sizes()
	if err != nil {
		return err
	}
	bySize := map[string]dspool.Size{}
	for _, z := range sizes {
		bySize[z.Name] = z
	}
	images, err := tx.Images()
	if err != nil {
		return err
	}
	for _, i := range images {
		v.images[i.Name] = i
	}
	shares, err := tx.Shares()
	if err != nil {
		return err
	}
	for _, s := range shares {
		v.shares[s.Name] = s
	}
	if v.uids, err = control.UIDRange(tx); err != nil {
		return err
	}
	if v.jobsShare, err = control.JobsShare(tx); err != nil {
		return err
	}
	pools, err := tx.Pools()
	if err != nil {
		return err
	}
	for _, p := range pools {
		pp := plan.Pool{Pool: p, Blocked: blocked(v.images[p.Image])}
		for _, name := range p.Sizes {
			pp.Sizes = append(pp.Sizes, bySize[name])
		}
		v.Pools = append(v.Pools, pp)
	}
	return nil
}

// blocked says why no machine can start from an image; none if one can. While a new version is built,
// the former one serves.
func blocked(img dspool.Image) dspool.Reason {
	of := dspool.ReasonParams{Name: img.Name}
	switch {
	case img.Key != "":
		return dspool.Reason{}
	case img.State == dspool.ImageBuilding:
		return dspool.Why(dspool.WhyImageBuilding, of)
	case img.State == dspool.ImageFailed:
		return img.Reason
	}
	return dspool.Why(dspool.WhyImageMissing, of)
}
