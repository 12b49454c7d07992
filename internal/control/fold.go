package control

import (
	"context"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/store"
	"github.com/dspool/dspool/internal/usage"
)

const (
	// foldAfter is how long after its end a day is folded: what ends late was told by then. What is told later
	// still takes the totals back.
	foldAfter = time.Hour
	// foldRows is how many rows a transaction writes or deletes at most: whoever else wants to write waits for it.
	foldRows = 250
)

// Fold folds the days that are over into totals, day by day, until none is left. A transaction is short, and whoever
// waits for one has it before the next; interrupted anywhere, the next call goes on.
func (c *Control) Fold(ctx context.Context) error {
	for {
		if done, err := c.foldDay(ctx); done || err != nil {
			return err
		}
	}
}

// foldDay folds one day; done says that there is none.
func (c *Control) foldDay(ctx context.Context) (done bool, err error) {
	var from time.Time
	for more := true; more; {
		err = c.Store.Write(ctx, func(tx *store.Tx) (err error) {
			var ok bool
			from, more, ok, err = tx.BeginFold(tx.Now().Add(-foldAfter), foldRows)
			done = !ok
			return err
		})
		if done || err != nil {
			return done, err
		}
	}
	var totals usage.Totals
	err = c.Store.Read(ctx, func(tx *store.Tx) (err error) {
		totals, err = compute(tx, from, from.AddDate(0, 0, 1))
		return err
	})
	if err != nil {
		return false, err
	}
	days := usage.Totals{}
	var jobs []store.Total
	for k, a := range totals {
		if k.Kind != usage.KindIdle {
			jobs = append(jobs, stored(k, a))
		}
		k.Job, k.Session = 0, 0
		days.Add(k, a)
	}
	var rows []store.Total
	for k, a := range days {
		rows = append(rows, stored(k, a))
	}
	for last := false; !last && err == nil; {
		d, j := min(foldRows, len(rows)), min(foldRows, len(jobs))
		if d > 0 {
			j = 0
		}
		last = d == len(rows) && j == len(jobs)
		err = c.Store.Write(ctx, func(tx *store.Tx) error {
			if err := tx.PutTotals(from, rows[:d], jobs[:j]); err != nil || !last {
				return err
			}
			return tx.EndFold(from)
		})
		rows, jobs = rows[d:], jobs[j:]
	}
	if dspool.ErrorCode(err) == dspool.Conflict {
		return false, nil // an interval of that day has changed meanwhile
	}
	return false, err
}

func stored(k usage.Key, a usage.Amount) store.Total {
	return store.Total{TotalKey: store.TotalKey(k), TotalAmount: store.TotalAmount(a)}
}

// compute makes the totals of a stretch of time from intervals. All of them are in memory: it is for a day at most.
func compute(tx *store.Tx, from, to time.Time) (usage.Totals, error) {
	ms, err := tx.MachineIntervals(from, to)
	if err != nil {
		return nil, err
	}
	machines := make([]usage.Machine, len(ms))
	for i, m := range ms {
		machines[i] = usage.Machine{Machine: m.Machine, Pool: m.Pool, Size: m.Size, Resources: m.Resources, Price: m.Price, From: m.From, To: m.To}
	}
	cs, err := tx.ClaimIntervals(from, to)
	if err != nil {
		return nil, err
	}
	ss, err := tx.SessionIntervals(from, to)
	if err != nil {
		return nil, err
	}
	claims := make([]usage.Claim, 0, len(cs)+len(ss))
	for _, cl := range cs {
		claims = append(claims, usage.Claim{
			Machine: cl.Machine, Kind: usage.KindTask, User: cl.User, UID: cl.UID, Job: cl.Job, Carried: cl.Carried, Again: cl.Again, Request: cl.Request, From: cl.From, To: cl.To,
		})
	}
	for _, s := range ss {
		kind := usage.KindSession
		if s.User == dspool.HubUser {
			kind = usage.KindService
		}
		claims = append(claims, usage.Claim{Machine: s.Machine, Kind: kind, User: s.User, UID: s.UID, Session: s.Session, Request: s.Request, From: s.From, To: s.To})
	}
	return usage.Compute(machines, claims), nil
}
