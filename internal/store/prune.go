package store

import (
	"time"

	"github.com/dspool/dspool"
)

// What is older than its retention is forgotten in small steps: each deletes about as many rows as it is given, and
// returns how many; 0 says that nothing is left to forget.

// Horizon returns the beginning of the first day whose intervals have to stay: those before are folded, and no machine
// that lives was heard of for the last time before them, so that none will tell what ended then.
func (tx *Tx) Horizon() (time.Time, error) {
	horizon := tx.fold.Folded
	seen, found, err := one(tx, func(r row, t *time.Time) error { return r.Scan(timeIn{t}) },
		`SELECT min(coalesce(seen, created)) FROM machines WHERE `+machineLive)
	if last := Day(seen).Add(-day); found && !seen.IsZero() && last.Before(horizon) {
		horizon = last
	}
	return horizon, wrap(err, "find what has to stay")
}

// prunes notes that intervals from before a day are forgotten.
func (tx *Tx) prunes(before time.Time) error {
	if !before.Equal(Day(before)) || before.After(tx.fold.Folded) {
		return dspool.Errorf(dspool.Internal, "what is not folded cannot be forgotten")
	}
	if !before.After(tx.fold.Pruned) {
		return nil
	}
	tx.fold.Pruned = before
	_, err := tx.exec(`UPDATE installation SET pruned = ?`, stored(before))
	return err
}

// PruneEvents forgets, from the first on, events from before a time; also what a wrong clock
// called the future among them.
func (tx *Tx) PruneEvents(before time.Time, most int) (int64, error) {
	// It is enough to look at the first: identifiers grow with time.
	n, err := tx.exec(`WITH first AS (SELECT id, time FROM events WHERE id > 0 ORDER BY id LIMIT ?1)
		DELETE FROM events WHERE id IN (SELECT id FROM first) AND id < coalesce((SELECT min(id) FROM first WHERE time >= ?2 AND time <= ?3), 9223372036854775807)`,
		most, before.UnixMicro(), tx.now.UnixMicro())
	return n, wrap(err, "prune events")
}

// PruneJobs forgets jobs that ended before a day, with their tasks and attempts, unless another job waits for one.
func (tx *Tx) PruneJobs(before time.Time, most int) (n int64, err error) {
	if err := tx.prunes(before); err != nil {
		return 0, err
	}
	// A job of a million tasks takes many steps, and many small ones are one.
	lived, err := tx.livedUntil(before)
	if err != nil {
		return 0, err
	}
	for n < int64(most) {
		id, found, err := one(tx, scanNumber, `SELECT id FROM jobs j INDEXED BY jobs_ended WHERE ended IS NOT NULL AND ended < ? AND NOT `+jobOpen+`
			AND NOT EXISTS (SELECT 1 FROM job_after a JOIN jobs w ON w.id = a.job WHERE a.after_job = j.id AND w.`+jobOpen+`) ORDER BY ended LIMIT 1`, stored(before))
		if err != nil || !found {
			return n, wrap(err, "find a job to forget")
		}
		gone, err := tx.forgetJob(id, lived, most-int(n))
		n += gone
		if err != nil {
			return n, wrap(err, "forget job %d", id)
		}
	}
	return n, nil
}

func (tx *Tx) forgetJob(id, lived int64, most int) (n int64, err error) {
	var ids []int64
	// A clock that was wrong may have said that it ended long ago.
	var late int64
	err = tx.scan(`SELECT coalesce(max(c.until), 0) FROM (SELECT id FROM attempts WHERE job = ? ORDER BY idx LIMIT ?) a JOIN claims c ON c.attempt = a.id`, []any{id, most}, &late)
	if err == nil && late >= lived {
		at, serr := tx.said(late)
		if serr == nil {
			_, serr = tx.exec(`UPDATE jobs SET ended = ? WHERE id = ?`, stored(at), id)
		}
		return 0, serr
	}
	if err != nil {
		return 0, err
	}
	err = tx.change(`DELETE FROM attempts WHERE id IN (SELECT id FROM attempts WHERE job = ? ORDER BY idx LIMIT ?) RETURNING id`, []any{id, most}, func(r row) error {
		var attempt int64
		err := r.Scan(&attempt)
		ids = append(ids, attempt)
		return err
	})
	if err != nil {
		return 0, err
	}
	n = int64(len(ids))
	err = chunks(`DELETE FROM claims WHERE attempt IN (?)`, ids, func(query string, args []any) error {
		_, err := tx.exec(query, args...)
		return err
	})
	if err != nil || len(ids) == most {
		return n, err
	}
	j, err := tx.Job(id)
	if err != nil {
		return n, err
	}
	for _, after := range j.Spec.After {
		if _, err := tx.exec(`DELETE FROM job_after WHERE after_job = ? AND job = ?`, after, id); err != nil {
			return n, err
		}
	}
	if err := tx.forgetTotals(`job`, id); err != nil {
		return n, err
	}
	for _, rows := range []string{`job_after WHERE after_job = ?`, `job_commands WHERE job = ?`, `jobs WHERE id = ?`} {
		if _, err := tx.exec(`DELETE FROM `+rows, id); err != nil {
			return n, err
		}
	}
	return n + 1, nil
}

// forgetTotals adds what a job, or a session, used to that of those that are no longer kept.
func (tx *Tx) forgetTotals(column string, id int64) error {
	forgotten := map[string]string{`job`: `-1, 0`, `session`: `0, -1`}[column]
	_, err := tx.exec(`INSERT INTO usage_jobs (day, job, session, kind, pool, size, user_name, uid, machine, cpu, gib, gpu, cost, tasks, carried)
		SELECT day, `+forgotten+`, kind, pool, size, user_name, uid, machine, cpu, gib, gpu, cost, tasks, carried FROM usage_jobs WHERE `+column+` = ?1 AND `+column+` > 0
		ON CONFLICT (day, job, session, kind, pool, size, user_name, uid) DO UPDATE SET machine = machine + excluded.machine, cpu = cpu + excluded.cpu,
			gib = gib + excluded.gib, gpu = gpu + excluded.gpu, cost = cost + excluded.cost, tasks = tasks + excluded.tasks, carried = carried + excluded.carried`, id)
	if err == nil {
		_, err = tx.exec(`DELETE FROM usage_jobs WHERE `+column+` = ?1 AND `+column+` > 0`, id)
	}
	return err
}

// PruneSessions forgets sessions that ended before a day, with their connections and apps.
func (tx *Tx) PruneSessions(before time.Time, most int) (n int64, err error) {
	if err := tx.prunes(before); err != nil {
		return 0, err
	}
	lived, err := tx.livedUntil(before)
	if err != nil {
		return 0, err
	}
	for n < int64(most) {
		id, found, err := one(tx, scanNumber, `SELECT id FROM sessions INDEXED BY sessions_until WHERE until < ? AND NOT `+sessionOpen+` ORDER BY until LIMIT 1`, lived)
		if err != nil || !found {
			return n, wrap(err, "find a session to forget")
		}
		gone, err := tx.forgetSession(id, most-int(n))
		n += gone
		if err != nil {
			return n, wrap(err, "forget session %d", id)
		}
	}
	return n, nil
}

func (tx *Tx) forgetSession(id int64, most int) (n int64, err error) {
	for _, rows := range []string{
		`connections WHERE id IN (SELECT id FROM connections WHERE session = ? LIMIT ?)`,
		`app_specs WHERE app IN (SELECT id FROM apps WHERE session = ? LIMIT ?)`,
		`apps WHERE id IN (SELECT id FROM apps WHERE session = ? LIMIT ?)`,
	} {
		gone, err := tx.exec(`DELETE FROM `+rows, id, most)
		n += gone
		if err != nil || gone == int64(most) {
			return n, err
		}
	}
	if err := tx.forgetTotals(`session`, id); err != nil {
		return n, err
	}
	_, err = tx.exec(`DELETE FROM sessions WHERE id = ?`, id)
	return n + 1, err
}

// PruneMachines forgets machines that ended before a day. Their names are never given again.
func (tx *Tx) PruneMachines(before time.Time, most int) (int64, error) {
	if err := tx.prunes(before); err != nil {
		return 0, err
	}
	lived, err := tx.livedUntil(before)
	if err != nil {
		return 0, err
	}
	n, err := tx.exec(`DELETE FROM machines WHERE id IN (SELECT id FROM machines INDEXED BY machines_until WHERE until < ? AND NOT `+machineLive+` ORDER BY until LIMIT ?)`,
		lived, most)
	return n, wrap(err, "prune machines")
}

// Outputs returns jobs whose directories are still there, and that ended before a time and not before another, first ended first.
func (tx *Tx) Outputs(from, before time.Time, most int) ([]JobRow, error) {
	out, err := list(tx, scanJob, jobLean+` INDEXED BY jobs_output WHERE ended IS NOT NULL AND output_removed IS NULL AND ended >= ? AND ended < ? AND NOT `+jobOpen+
		` ORDER BY ended LIMIT ?`, from.UnixMicro(), before.UnixMicro(), most)
	return out, wrap(err, "list jobs with output")
}

// SetOutputRemoved notes that a job's directory is gone.
func (tx *Tx) SetOutputRemoved(job int64) error {
	_, err := tx.exec(`UPDATE jobs SET output_removed = ? WHERE id = ?`, stored(tx.now), job)
	return wrap(err, "note that output of job %d is removed", job)
}

func scanNumber(r row, id *int64) error { return r.Scan(id) }
