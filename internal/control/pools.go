package control

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/auth"
	"github.com/dspool/dspool/internal/store"
)

// Pools lists the pools with what stands in them.
func (c *Control) Pools(ctx context.Context, who auth.Subject) (list api.List[api.PoolStatus], err error) {
	list.Items = []api.PoolStatus{}
	err = c.Store.Read(ctx, func(tx *store.Tx) error {
		list.Items, err = poolStatuses(tx, who)
		return err
	})
	return list, err
}

// Pool shows one pool.
func (c *Control) Pool(ctx context.Context, who auth.Subject, name string) (p api.PoolStatus, err error) {
	err = c.Store.Read(ctx, func(tx *store.Tx) error {
		p, err = poolStatus(tx, who, name)
		return err
	})
	return p, err
}

func poolStatus(tx *store.Tx, who auth.Subject, name string) (api.PoolStatus, error) {
	if _, err := tx.Pool(name); err != nil {
		return api.PoolStatus{}, err
	}
	all, err := poolStatuses(tx, who)
	for _, p := range all {
		if p.Name == name {
			return p, err
		}
	}
	return api.PoolStatus{}, err
}

func poolStatuses(tx *store.Tx, who auth.Subject) ([]api.PoolStatus, error) {
	pools, err := tx.Pools()
	if err != nil {
		return nil, err
	}
	machines, err := tx.LiveMachines()
	if err != nil {
		return nil, err
	}
	jobs, err := tx.OpenJobs()
	if err != nil {
		return nil, err
	}
	out := make([]api.PoolStatus, len(pools))
	at := map[string]*api.PoolStatus{}
	for i, p := range pools {
		note, err := tx.Note(p.Name)
		if err != nil {
			return nil, err
		}
		out[i] = api.PoolStatus{Pool: p, Note: show(who, note)}
		at[p.Name] = &out[i]
	}
	for _, m := range machines {
		if p := at[m.Pool]; p != nil {
			p.Machines++
			if m.State == dspool.Ready {
				p.Ready++
				if m.Claims == 0 {
					p.Idle++
				}
			}
		}
	}
	for _, j := range jobs {
		if p := at[j.Spec.Pool]; p != nil {
			p.Queued += j.Tasks.Pending
			p.Running += j.Tasks.Active()
		}
	}
	return out, nil
}

// Resize changes a pool's min, max and spare. The next apply of a file that says otherwise
// changes them back.
func (c *Control) Resize(ctx context.Context, who auth.Subject, name string, req api.ResizeRequest) (p api.PoolStatus, err error) {
	if !auth.Can(who, auth.Change, auth.Config, "") {
		return p, forbid("resize pools")
	}
	err = c.write(ctx, func(w *work) error {
		pool, err := w.Pool(name)
		if err != nil {
			return err
		}
		was := pool
		for _, part := range []struct {
			now *int
			to  *int
		}{{&pool.Min, req.Min}, {&pool.Max, req.Max}, {&pool.Spare, req.Spare}} {
			if part.to != nil {
				*part.now = *part.to
			}
		}
		if req.Max == nil && pool.Min > pool.Max {
			return dspool.Errorf(dspool.Invalid, "min %d is above pool %s's max of %d", pool.Min, name, pool.Max).WithHint("give --max too")
		}
		if err := pool.Check(); err != nil {
			return err
		}
		if err := w.PutPool(pool); err != nil {
			return err
		}
		w.wake(topicPlan)
		err = w.event(dspool.Event{
			Actor: who.Name(), Kind: "pool.resized", Pool: name,
			Message: fmt.Sprintf("pool %s resized: min %d → %d, max %d → %d, spare %d → %d", name, was.Min, pool.Min, was.Max, pool.Max, was.Spare, pool.Spare),
		})
		if err != nil {
			return err
		}
		p, err = poolStatus(w.Tx, who, name)
		return err
	})
	return p, err
}

// Sizes lists the sizes.
func (c *Control) Sizes(ctx context.Context) (list api.List[dspool.Size], err error) {
	list.Items = []dspool.Size{}
	err = c.Store.Read(ctx, func(tx *store.Tx) error {
		sizes, err := tx.Sizes()
		list.Items = append(list.Items, sizes...)
		return err
	})
	return list, err
}

// jumpsTold is for how long a jump of the clock is a thing to look at.
const jumpsTold = 24 * time.Hour

// Status shows the whole system in short.
func (c *Control) Status(ctx context.Context, who auth.Subject) (s api.Status, err error) {
	s = api.Status{
		Version: c.Version, Installation: c.Store.Installation(),
		Hosts: api.HostStatus{Capacity: c.Capacity}, Images: []dspool.Image{}, Defaults: map[string]string{}, Problems: []dspool.Reason{},
	}
	problem := func(r dspool.Reason) { s.Problems = append(s.Problems, show(who, r)) }
	for _, r := range slices.Concat(c.otherProblems(), c.faults.problems()) {
		problem(r)
	}
	var shares []dspool.Share
	err = c.Store.Read(ctx, func(tx *store.Tx) error {
		if s.Pools, err = poolStatuses(tx, who); err != nil {
			return err
		}
		for _, p := range s.Pools {
			s.QueuedTasks += p.Queued
			s.RunningTasks += p.Running
			if !p.Note.IsZero() {
				problem(dspool.Why(dspool.WhyPoolProblem, dspool.ReasonParams{Pool: p.Name}).With(p.Note))
			}
		}
		machines, err := tx.LiveMachines()
		if err != nil {
			return err
		}
		for _, m := range machines {
			s.Hosts.Used = s.Hosts.Used.Add(m.Resources)
			if m.Health == dspool.Unhealthy {
				problem(dspool.Why(dspool.WhyMachineProblem, dspool.ReasonParams{Machine: m.Name}).With(m.HealthReason))
			}
		}
		s.Started = tx.Now().Add(-time.Since(c.started))
		jumps, err := tx.ClockJumps(tx.Now().Add(-jumpsTold), 5)
		if err != nil {
			return err
		}
		for _, j := range jumps {
			code := dspool.WhyClockAhead
			if j.By < 0 {
				code = dspool.WhyClockBack
			}
			problem(dspool.Why(code, dspool.ReasonParams{Time: dspool.Duration(j.By.Abs().Round(time.Second)), Since: j.At.Truncate(time.Second)}))
		}
		if shares, err = tx.Shares(); err != nil {
			return err
		}
		images, err := tx.Images()
		if err != nil {
			return err
		}
		for _, i := range images {
			s.Images = append(s.Images, showImage(who, i))
			if i.State == dspool.ImageFailed {
				problem(i.Reason)
			}
		}
		for _, key := range []string{settingUser, settingPool, settingJobsShare} {
			if s.Defaults[strings.TrimPrefix(key, "defaults.")], err = tx.Setting(key); err != nil {
				return err
			}
		}
		return nil
	})
	for _, share := range shares {
		if free, known := c.spaces.free(share.Path); known && free < shareFull {
			problem(dspool.Why(dspool.WhyShareFull, dspool.ReasonParams{Name: share.Name}))
		}
	}
	return s, err
}

// shareFull is less than a task's directory and output take, in bytes.
const shareFull = 16 << 10
