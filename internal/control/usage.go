package control

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/auth"
	"github.com/dspool/dspool/internal/store"
	"github.com/dspool/dspool/internal/usage"
)

// Usage computes the bill of a time, by user, pool or job. A user sees only the own lines and, by
// pool, the own part.
func (c *Control) Usage(ctx context.Context, who auth.Subject, by string, from, to time.Time) (u api.Usage, err error) {
	key, err := usage.ParseBy(by)
	if err != nil {
		return u, err
	}
	// A bill of everything that ever was takes a while and much memory: one for each who asks.
	leave, err := c.lanes.enter(ctx, "bill for "+who.Name())
	if err != nil {
		return u, err
	}
	defer leave()
	var machines []usage.Machine
	var claims []usage.Claim
	// What a former account of the name held is no bill of its present one; no account can be called so.
	const removed = " (removed)"
	err = c.Store.Read(ctx, func(tx *store.Tx) error {
		if to.IsZero() || to.After(tx.Now()) {
			to = tx.Now()
		}
		if from.After(to) {
			return dspool.Errorf(dspool.Invalid, "the time begins after it ends").WithHint("choose an earlier from")
		}
		ms, err := tx.MachineIntervals(from, to)
		if err != nil {
			return err
		}
		for _, m := range ms {
			machines = append(machines, usage.Machine{Machine: m.Machine, Pool: m.Pool, Resources: m.Resources, Price: m.Price, From: m.From, To: m.To})
		}
		former := map[int64]bool{}
		if !who.Admin && who.UID != 0 {
			if former, err = tx.FormerJobs(who.User, who.UID); err != nil {
				return err
			}
		}
		cs, err := tx.ClaimIntervals(from, to)
		for _, cl := range cs {
			if former[cl.Job] {
				cl.User += removed
			}
			claims = append(claims, usage.Claim{Machine: cl.Machine, User: cl.User, Job: cl.Job, Request: cl.Request, From: cl.From, To: cl.To})
		}
		if err != nil {
			return err
		}
		ss, err := tx.SessionIntervals(from, to)
		for _, s := range ss {
			if s.User == who.User && !auth.CanOld(who, auth.See, auth.Bill, s.User, s.UID) {
				s.User += removed
			}
			claims = append(claims, usage.Claim{Machine: s.Machine, User: s.User, Session: s.Session, Request: s.Request, From: s.From, To: s.To})
		}
		return err
	})
	if err != nil {
		return u, err
	}
	u = api.Usage{From: from, To: to, By: string(key), Rows: []dspool.UsageRow{}}
	fine := key
	if key == usage.ByPool && !who.Admin {
		fine = usage.ByJob // its rows say whose they are
	}
	for _, row := range usage.Compute(machines, claims, fine) {
		if auth.Can(who, auth.See, auth.Bill, row.User) {
			u.Rows = append(u.Rows, row)
			u.Cost += row.Cost
		}
	}
	if fine != key {
		u.Rows = byPool(u.Rows)
	}
	return u, nil
}

// byPool adds up rows of jobs by their pool, dearest first.
func byPool(rows []dspool.UsageRow) []dspool.UsageRow {
	pools := map[string]*dspool.UsageRow{}
	for _, r := range rows {
		p := pools[r.Pool]
		if p == nil {
			p = &dspool.UsageRow{Key: r.Pool, Pool: r.Pool}
			pools[r.Pool] = p
		}
		p.MachineSeconds += r.MachineSeconds
		p.CPUSeconds += r.CPUSeconds
		p.GiBSeconds += r.GiBSeconds
		p.GPUSeconds += r.GPUSeconds
		p.Tasks += r.Tasks
		p.Cost += r.Cost
	}
	out := make([]dspool.UsageRow, 0, len(pools))
	for _, p := range pools {
		out = append(out, *p)
	}
	slices.SortFunc(out, func(a, b dspool.UsageRow) int { return cmp.Or(cmp.Compare(b.Cost, a.Cost), cmp.Compare(a.Key, b.Key)) })
	return out
}
