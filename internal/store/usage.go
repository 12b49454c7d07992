package store

import (
	"cmp"
	"slices"
	"time"
)

// Each part of a union has its own index: one finds what lasts, one what ended within a day after the time, and one
// what ended later and lasted longer than a day, so that a day is read as fast however long the history. What lasts began
// on the clock of now, what has ended is as long as its two times are apart. The queries leave the order to Go, for the
// same reason as attempts.
var (
	machineIntervals = threeParts(`id, name, pool, size, cpus, memory, gpus, price`, `machines t`, ``, `machines`, `created`)
	claimIntervals   = threeParts(`t.attempt, t.machine, a.user_name, coalesce(j.uid, 0), a.job, t.cpus, t.memory, t.gpus`, `claims t`,
		` JOIN attempts a ON a.id = t.attempt LEFT JOIN jobs j ON j.id = a.job`, `claims`, `started`)
	sessionIntervals = threeParts(`id, machine, user_name, uid, cpus, memory, gpus`, `sessions t`, ``, `sessions`, `placed`)
)

func threeParts(columns, from, join, name, began string) string {
	began = `t.` + began
	ended := `SELECT ` + columns + `, t.until - (t.ended - ` + began + `), t.until FROM ` + from + ` INDEXED BY ` + name
	over := join + ` WHERE t.until - (t.ended - ` + began + `) < ?2 AND t.until >= `
	return `SELECT ` + columns + `, ` + began + ` - ?1, NULL FROM ` + from + join + ` WHERE ` + began + ` - ?1 < ?2 AND t.ended IS NULL AND t.until IS NULL
		UNION ALL ` + ended + `_until` + over + `?3 AND t.until < ?4
		UNION ALL ` + ended + `_long` + over + `?4 AND t.ended - ` + began + ` > 86400000000`
}

// MachineIntervals returns, oldest machine first, when machines existed between from and to, cut to
// that range and to now. From and to are what the clock said; the intervals are on the time that was lived,
// as are those of claims and sessions, so that they fit together and are as long as they lasted.
func (tx *Tx) MachineIntervals(from, to time.Time) ([]MachineInterval, error) {
	return intervals(tx, machineIntervals, from, to, func(r row, id *int64, m *MachineInterval) error {
		var cpus int64
		err := r.Scan(id, &m.Machine, &m.Pool, &m.Size, &cpus, &m.Resources.Memory, &m.Resources.GPUs, &m.Price, timeIn{&m.From}, timeIn{&m.To})
		m.Resources.CPUs = fromMilli(cpus)
		return err
	}, func(m *MachineInterval, _ time.Time) (*time.Time, *time.Time) { return &m.From, &m.To })
}

// ClaimIntervals returns, oldest attempt first, when claims were held between from and to, cut to
// that range and to now. Claims that never started are not among them; those that took no time are.
func (tx *Tx) ClaimIntervals(from, to time.Time) ([]ClaimInterval, error) {
	type claim struct {
		attempt int64
		machine string
	}
	seen := map[claim]bool{}
	return intervals(tx, claimIntervals, from, to, func(r row, id *int64, c *ClaimInterval) error {
		var cpus int64
		err := r.Scan(id, &c.Machine, &c.User, &c.UID, &c.Job, &cpus, &c.Request.Memory, &c.Request.GPUs, timeIn{&c.From}, timeIn{&c.To})
		c.Request.CPUs = fromMilli(cpus)
		k := claim{*id, c.Machine}
		c.Again, seen[k] = seen[k], true
		return err
	}, func(c *ClaimInterval, from time.Time) (*time.Time, *time.Time) {
		c.Carried = c.From.Before(from)
		return &c.From, &c.To
	})
}

// SessionIntervals returns, oldest session first, when sessions held machines between from and to, cut
// to that range and to now. Those that never got one are not among them.
func (tx *Tx) SessionIntervals(from, to time.Time) ([]SessionInterval, error) {
	return intervals(tx, sessionIntervals, from, to, func(r row, id *int64, s *SessionInterval) error {
		var cpus int64
		err := r.Scan(&s.Session, textIn{&s.Machine}, &s.User, &s.UID, &cpus, &s.Request.Memory, &s.Request.GPUs, timeIn{&s.From}, timeIn{&s.To})
		*id, s.Request.CPUs = s.Session, fromMilli(cpus)
		return err
	}, func(s *SessionInterval, _ time.Time) (*time.Time, *time.Time) { return &s.From, &s.To })
}

// intervals reads and cuts the rows of a query that wants to, to and from. A zero end is one that
// has not come yet.
func intervals[T any](tx *Tx, query string, from, to time.Time, scan func(row, *int64, *T) error, ends func(v *T, from time.Time) (began, ended *time.Time)) ([]T, error) {
	spans, err := tx.spans(from, to)
	if err != nil {
		return nil, wrap(err, "list intervals")
	}
	var out []T
	for _, sp := range spans { // of one in which the clock was set there are several
		part, err := within(tx, query, sp, scan, ends)
		if err != nil {
			return nil, wrap(err, "list intervals")
		}
		out = append(out, part...)
	}
	return out, nil
}

// within is intervals for a span of lived time.
func within[T any](tx *Tx, query string, sp span, scan func(row, *int64, *T) error, ends func(v *T, from time.Time) (began, ended *time.Time)) ([]T, error) {
	from, to := time.UnixMicro(sp.from).UTC(), time.UnixMicro(sp.to).UTC()
	type numbered struct {
		id int64
		v  T
	}
	var rows []numbered
	err := tx.each(query, []any{tx.line.skew, sp.to, sp.from, to.Add(day).UnixMicro()}, func(r row) error {
		var n numbered
		if err := scan(r, &n.id, &n.v); err != nil {
			return err
		}
		start, end := ends(&n.v, from)
		if !end.IsZero() && !end.After(from) && start.Before(from) {
			return nil // it ended at that very moment
		}
		if start.Before(from) {
			*start = from
		}
		if end.IsZero() || end.After(to) {
			*end = to
		}
		rows = append(rows, n)
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(rows, func(a, b numbered) int { return cmp.Compare(a.id, b.id) })
	if len(rows) == 0 {
		return nil, nil
	}
	out := make([]T, len(rows))
	for i, n := range rows {
		out[i] = n.v
	}
	return out, nil
}
