package store

import "time"

// MachineIntervals returns, by machine, when machines existed between from and to, cut to that
// range and to now.
func (tx *Tx) MachineIntervals(from, to time.Time) ([]MachineInterval, error) {
	to = tx.until(to)
	out, err := list(tx, func(r row, m *MachineInterval) error {
		var cpus int64
		err := r.Scan(&m.Machine, &m.Pool, &cpus, &m.Resources.Memory, &m.Resources.GPUs, &m.Price, timeIn{&m.From}, timeIn{&m.To})
		m.Resources.CPUs = fromMilli(cpus)
		m.From, m.To = clip(m.From, m.To, from, to)
		return err
	}, `SELECT name, pool, cpus, memory, gpus, price, created, ended FROM machines
		WHERE created < ? AND (ended IS NULL OR ended > ?) ORDER BY id`, to.UnixMicro(), from.UnixMicro())
	return out, wrap(err, "list machine intervals")
}

// ClaimIntervals returns, by attempt, when claims were held between from and to, cut to that
// range and to now. Claims that never started are not among them.
func (tx *Tx) ClaimIntervals(from, to time.Time) ([]ClaimInterval, error) {
	to = tx.until(to)
	out, err := list(tx, func(r row, c *ClaimInterval) error {
		var cpus int64
		err := r.Scan(&c.Machine, &c.User, &c.Job, &cpus, &c.Request.Memory, &c.Request.GPUs, timeIn{&c.From}, timeIn{&c.To})
		c.Request.CPUs = fromMilli(cpus)
		c.From, c.To = clip(c.From, c.To, from, to)
		return err
	}, `SELECT c.machine, a.user_name, a.job, c.cpus, c.memory, c.gpus, c.started, c.ended FROM claims c JOIN attempts a ON a.id = c.attempt
		WHERE c.started < ? AND (c.ended IS NULL OR c.ended > ?) ORDER BY c.attempt, c.rank`, to.UnixMicro(), from.UnixMicro())
	return out, wrap(err, "list claim intervals")
}

// until is to, or now if that is earlier.
func (tx *Tx) until(to time.Time) time.Time {
	if to.After(tx.now) {
		return tx.now
	}
	return to.UTC()
}

// clip cuts [start,end) to [from,to); a zero end has not come yet.
func clip(start, end, from, to time.Time) (time.Time, time.Time) {
	if start.Before(from) {
		start = from.UTC()
	}
	if end.IsZero() || end.After(to) {
		end = to
	}
	return start, end
}
