package control

import (
	"context"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/auth"
	"github.com/dspool/dspool/internal/store"
	"github.com/dspool/dspool/internal/usage"
)

// Usage computes the bill of a time, by user, pool or job; of this month (in UTC) where no beginning is given. A user sees
// only the own lines and, by pool, the own part. Of days whose intervals are no longer kept the bill is that of whole days,
// and says so by its times.
func (c *Control) Usage(ctx context.Context, who auth.Subject, by string, from, to time.Time) (u api.Usage, err error) {
	key, err := usage.ParseBy(by)
	if err != nil {
		return u, err
	}
	// A bill of what is not folded yet takes a while: one for each who asks.
	leave, err := c.lanes.enter(ctx, "bill for "+who.Name())
	if err != nil {
		return u, err
	}
	defer leave()
	var b bill
	err = c.Store.Read(ctx, func(tx *store.Tx) (err error) {
		b = bill{tx: tx, jobs: key == usage.ByJob, from: from.UTC(), to: to.UTC(), sum: usage.Totals{}}
		if !who.Admin {
			b.user, b.uid = who.User, who.UID
		}
		return b.make()
	})
	if err != nil {
		return u, err
	}
	u = api.Usage{From: b.from, To: b.to, By: string(key), Rows: []dspool.UsageRow{}}
	for k := range b.sum {
		if !auth.Can(who, auth.See, auth.Bill, k.User) {
			delete(b.sum, k)
		}
	}
	for _, row := range b.sum.Rows(key) {
		u.Rows = append(u.Rows, row)
		u.Cost += row.Cost
	}
	return u, nil
}

// bill is what is needed to make one.
type bill struct {
	tx       *store.Tx
	jobs     bool      // with lines of their own
	user     string    // whose alone; "" is everybody's
	uid      int       // the user's: a former account may have had the name
	from, to time.Time // cut to what there is
	sum      usage.Totals
	begun    bool // something was added: what later parts carried is there already
}

// make adds up the totals of the days that are folded, and the intervals before and after.
func (b *bill) make() error {
	fold, err := b.tx.Folds()
	if err != nil {
		return err
	}
	now := b.tx.Now()
	if b.to.IsZero() || b.to.After(now) {
		b.to = now
	}
	if b.from.IsZero() {
		b.from = time.Date(b.to.Year(), b.to.Month(), 1, 0, 0, 0, 0, time.UTC)
	}
	if b.from.After(b.to) {
		return dspool.Errorf(dspool.Invalid, "the time begins after it ends").WithHint("choose an earlier from")
	}
	if b.from.Before(fold.Pruned) {
		b.from = store.Day(b.from)
	}
	if b.to.Before(fold.Pruned) {
		b.to = wholeDays(b.to)
	}
	first, err := b.tx.FirstDay()
	if err != nil {
		return err
	}
	// Before the first machine that is kept there are only totals.
	at := b.from
	if at.Before(first) && !at.Before(fold.Pruned) {
		at = first
	}
	if begin, end := wholeDays(at), earlier(store.Day(b.to), fold.Folded); begin.Before(end) {
		if err := b.days(at, begin); err != nil {
			return err
		}
		if err := b.folded(begin, end); err != nil {
			return err
		}
		at = end
	}
	return b.days(at, b.to)
}

// folded adds totals that are written down.
func (b *bill) folded(from, to time.Time) error {
	carried := !b.begun
	b.begun = true
	return b.tx.EachTotal(from, to, b.user, b.jobs, func(t store.Total) error {
		if !carried {
			t.Carried = 0
		}
		b.add(usage.Key(t.TotalKey), usage.Amount(t.TotalAmount))
		return nil
	})
}

// days adds what is computed from intervals, a day after the other.
func (b *bill) days(from, to time.Time) error {
	for from.Before(to) {
		end := earlier(store.Day(from).AddDate(0, 0, 1), to)
		totals, err := compute(b.tx, from, end)
		if err != nil {
			return err
		}
		for k, a := range totals {
			if b.begun {
				a.Carried = 0
			}
			b.add(k, a)
		}
		b.begun, from = true, end
	}
	return nil
}

func (b *bill) add(k usage.Key, a usage.Amount) {
	if b.user != "" && (k.User != b.user || b.uid != 0 && k.UID != b.uid) {
		return
	}
	k.UID = 0
	if !b.jobs {
		k.Job, k.Session = 0, 0
	}
	b.sum.Add(k, a)
}

// wholeDays is the beginning of the first day that is whole from a time on.
func wholeDays(t time.Time) time.Time {
	if d := store.Day(t); d.Before(t) {
		return d.AddDate(0, 0, 1)
	}
	return t
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
