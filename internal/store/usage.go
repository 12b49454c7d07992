package store

import (
	"cmp"
	"slices"
	"time"
)

// Each half of a union has its own index: one finds what lasts, the other what ended late enough,
// however long the history. What lasts began on the clock of now, what has ended is as long as its two times
// are apart. The queries leave the order to Go, for the same reason as attempts.
const (
	machineIntervals = `SELECT id, name, pool, cpus, memory, gpus, price, created - ?1, NULL FROM machines WHERE created - ?1 < ?2 AND until IS NULL
		UNION ALL SELECT id, name, pool, cpus, memory, gpus, price, until - (ended - created), until FROM machines
			WHERE until > ?3 AND until - (ended - created) < ?2`
	claimIntervals = `SELECT c.attempt, c.machine, a.user_name, a.job, c.cpus, c.memory, c.gpus, c.started - ?1, NULL
			FROM claims c JOIN attempts a ON a.id = c.attempt WHERE c.started - ?1 < ?2 AND c.ended IS NULL
		UNION ALL SELECT c.attempt, c.machine, a.user_name, a.job, c.cpus, c.memory, c.gpus, c.until - (c.ended - c.started), c.until
			FROM claims c JOIN attempts a ON a.id = c.attempt WHERE c.until > ?3 AND c.until - (c.ended - c.started) < ?2`
	sessionIntervals = `SELECT id, machine, user_name, uid, cpus, memory, gpus, placed - ?1, NULL FROM sessions WHERE placed - ?1 < ?2 AND until IS NULL
		UNION ALL SELECT id, machine, user_name, uid, cpus, memory, gpus, until - (ended - placed), until FROM sessions
			WHERE until > ?3 AND until - (ended - placed) < ?2`
)

// MachineIntervals returns, oldest machine first, when machines existed between from and to, cut to
// that range and to now. From and to are what the clock said; the intervals are on the time that was lived,
// as are those of claims and sessions, so that they fit together and are as long as they lasted.
func (tx *Tx) MachineIntervals(from, to time.Time) ([]MachineInterval, error) {
	return intervals(tx, machineIntervals, from, to, func(r row, id *int64, m *MachineInterval) error {
		var cpus int64
		err := r.Scan(id, &m.Machine, &m.Pool, &cpus, &m.Resources.Memory, &m.Resources.GPUs, &m.Price, timeIn{&m.From}, timeIn{&m.To})
		m.Resources.CPUs = fromMilli(cpus)
		return err
	}, func(m *MachineInterval) (*time.Time, *time.Time) { return &m.From, &m.To })
}

// ClaimIntervals returns, oldest attempt first, when claims were held between from and to, cut to
// that range and to now. Claims that never started are not among them.
func (tx *Tx) ClaimIntervals(from, to time.Time) ([]ClaimInterval, error) {
	return intervals(tx, claimIntervals, from, to, func(r row, id *int64, c *ClaimInterval) error {
		var cpus int64
		err := r.Scan(id, &c.Machine, &c.User, &c.Job, &cpus, &c.Request.Memory, &c.Request.GPUs, timeIn{&c.From}, timeIn{&c.To})
		c.Request.CPUs = fromMilli(cpus)
		return err
	}, func(c *ClaimInterval) (*time.Time, *time.Time) { return &c.From, &c.To })
}

// SessionIntervals returns, oldest session first, when sessions held machines between from and to, cut
// to that range and to now. Those that never got one are not among them.
func (tx *Tx) SessionIntervals(from, to time.Time) ([]SessionInterval, error) {
	return intervals(tx, sessionIntervals, from, to, func(r row, id *int64, s *SessionInterval) error {
		var cpus int64
		err := r.Scan(&s.Session, textIn{&s.Machine}, &s.User, &s.UID, &cpus, &s.Request.Memory, &s.Request.GPUs, timeIn{&s.From}, timeIn{&s.To})
		*id, s.Request.CPUs = s.Session, fromMilli(cpus)
		return err
	}, func(s *SessionInterval) (*time.Time, *time.Time) { return &s.From, &s.To })
}

// intervals reads and cuts the rows of a query that wants to, to and from. A zero end is one that
// has not come yet.
func intervals[T any](tx *Tx, query string, from, to time.Time, scan func(row, *int64, *T) error, ends func(*T) (from, to *time.Time)) ([]T, error) {
	spans, err := tx.spans(from, to)
	if err != nil {
		return nil, wrap(err, "list intervals")
	}
	var out []T
	for _, sp := range spans {
		part, err := within(tx, query, sp, scan, ends)
		if err != nil {
			return nil, wrap(err, "list intervals")
		}
		out = append(out, part...)
	}
	return out, nil
}

// within is intervals for a span of lived time.
func within[T any](tx *Tx, query string, sp span, scan func(row, *int64, *T) error, ends func(*T) (from, to *time.Time)) ([]T, error) {
	from, to := time.UnixMicro(sp.from).UTC(), time.UnixMicro(sp.to).UTC()
	type numbered struct {
		id int64
		v  T
	}
	rows, err := list(tx, func(r row, n *numbered) error {
		if err := scan(r, &n.id, &n.v); err != nil {
			return err
		}
		start, end := ends(&n.v)
		if start.Before(from) {
			*start = from
		}
		if end.IsZero() || end.After(to) {
			*end = to
		}
		return nil
	}, query, tx.line.skew, sp.to, sp.from)
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(rows, func(a, b numbered) int { return cmp.Compare(a.id, b.id) })
	out := make([]T, len(rows))
	for i, n := range rows {
		out[i] = n.v
	}
	return out, nil
}
