package store

import (
	"fmt"
	"slices"

	"github.com/dspool/dspool"
)

const attemptSelect = `SELECT a.id, a.job, a.idx, a.number, a.user_name, a.state, a.exit_code, a.reason, a.assigned, a.started, a.ended, ` +
	`c.rank, c.machine, c.cpus, c.memory, c.gpus, c.desired, c.why, c.revision, c.started, c.ended ` +
	`FROM attempts a JOIN claims c ON c.attempt = a.id WHERE a.id IN (%s) ORDER BY a.id, c.rank`

// Subqueries of attemptSelect.
const (
	allOpen       = `SELECT id FROM attempts WHERE ended IS NULL`
	openOfJob     = allOpen + ` AND job = ?`
	openOfMachine = `SELECT attempt FROM claims WHERE machine = ? AND ended IS NULL`
	openSince     = openOfMachine + ` AND revision > ?`
)

// attempts reads the attempts whose identifiers a subquery names, with their claims. The subquery
// keeps the database on the index that finds the few; asked directly for those that are open, in
// order, it would walk through all history.
func (tx *Tx) attempts(ids string, args ...any) ([]AttemptRow, error) {
	var out []AttemptRow
	// One row to read into, for this is read more often than anything else.
	var a AttemptRow
	var c ClaimRow
	var cpus int64
	dest := []any{&a.ID, &a.Job, &a.Index, &a.Number, &a.User, &a.State, &a.ExitCode, reasonIn{&a.Reason}, timeIn{&a.Assigned}, maybeIn{&a.Started}, maybeIn{&a.Ended},
		&c.Rank, &c.Machine, &cpus, &c.Request.Memory, &c.Request.GPUs, &c.Desired, reasonIn{&c.Why}, &c.Revision, maybeIn{&c.Started}, maybeIn{&c.Ended}}
	err := tx.each(fmt.Sprintf(attemptSelect, ids), args, func(r row) error {
		if err := r.Scan(dest...); err != nil {
			return err
		}
		c.Attempt, c.Request.CPUs = a.ID, fromMilli(cpus)
		if n := len(out); n == 0 || out[n-1].ID != a.ID {
			out = append(out, a)
		}
		last := &out[len(out)-1]
		last.Claims = append(last.Claims, c)
		return nil
	})
	return out, err
}

// InsertAttempts places tasks: it returns the attempts in the given order with identifiers that
// were never used, numbers one above their tasks' highest, and claims on the machines they name,
// all of one new revision. State, Assigned and Desired are assigned, now and run unless set.
// Conflict if a task has an attempt that has not ended; NotFound if a machine does not exist.
func (tx *Tx) InsertAttempts(as []AttemptRow) ([]AttemptRow, error) {
	out, err := tx.insertAttempts(as)
	tx.doom(err)
	return out, err
}

func (tx *Tx) insertAttempts(as []AttemptRow) ([]AttemptRow, error) {
	if len(as) == 0 {
		return nil, nil
	}
	numbers, err := tx.numbers(as)
	if err != nil {
		return nil, wrap(err, "number attempts")
	}
	out := slices.Clone(as)
	tx.last.revision++
	machines := map[string]bool{}
	for i := range out {
		a := &out[i]
		tx.last.attempt++
		a.ID = tx.last.attempt
		task := taskKey{a.Job, a.Index}
		numbers[task]++
		a.Number = numbers[task]
		if a.State == "" {
			a.State = dspool.TaskAssigned
		}
		if a.Assigned.IsZero() {
			a.Assigned = tx.now
		}
		if len(a.Claims) == 0 {
			return nil, fmt.Errorf("place task %d of job %d: it has no claim", a.Index, a.Job)
		}
		_, err := tx.exec(`INSERT INTO attempts (id, job, idx, number, user_name, state, exit_code, reason, assigned, started, ended)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
			a.ID, a.Job, a.Index, a.Number, a.User, string(a.State), exitCode(a.ExitCode), reason(a.Reason), stored(a.Assigned), micros(a.Started), micros(a.Ended))
		if unique(err) {
			return nil, dspool.Errorf(dspool.Conflict, "task %d of job %d is placed already", a.Index, a.Job)
		}
		if err != nil {
			return nil, wrap(err, "insert attempt at task %d of job %d", a.Index, a.Job)
		}
		a.Claims = slices.Clone(a.Claims)
		for rank := range a.Claims {
			c := &a.Claims[rank]
			c.Attempt, c.Rank, c.Revision = a.ID, rank, tx.last.revision
			if c.Desired == "" {
				c.Desired = Run
			}
			machines[c.Machine] = true
			if err := tx.insertClaim(c); err != nil {
				return nil, wrap(err, "insert claim of attempt %d", a.ID)
			}
		}
	}
	return out, tx.revise(machines)
}

// LastAttempt is the highest number of an attempt that was ever placed.
func (tx *Tx) LastAttempt() int64 { return tx.last.attempt }

type taskKey struct{ job, index int64 }

// numbers returns the highest number of the attempts at each task.
func (tx *Tx) numbers(as []AttemptRow) (map[taskKey]int, error) {
	indices := map[int64][]int64{}
	for _, a := range as {
		indices[a.Job] = append(indices[a.Job], a.Index)
	}
	out := make(map[taskKey]int, len(as))
	for job, ids := range indices {
		err := chunks(`SELECT idx, max(number) FROM attempts WHERE idx IN (?) AND job = ? GROUP BY idx`, ids, func(query string, args []any) error {
			return tx.each(query, append(args, job), func(r row) error {
				task, n := taskKey{job: job}, 0
				err := r.Scan(&task.index, &n)
				out[task] = n
				return err
			})
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Attempts returns those of ids that exist, by identifier, with their claims.
func (tx *Tx) Attempts(ids []int64) ([]AttemptRow, error) {
	var out []AttemptRow
	ids = slices.Compact(slices.Sorted(slices.Values(ids)))
	err := chunks(`(?)`, ids, func(in string, args []any) error {
		as, err := tx.attempts(in[1:len(in)-1], args...)
		out = append(out, as...)
		return err
	})
	return out, wrap(err, "read attempts")
}

// UpdateAttempts writes what became of attempts: state, exit code, reason, start and end, and start
// and end of their claims; nothing else of them is read. An attempt that has ended holds nothing:
// its claims that say no end of their own end with it. NotFound if one or its claim does not exist.
func (tx *Tx) UpdateAttempts(as []AttemptRow) error {
	err := tx.updateAttempts(as)
	tx.doom(err)
	return err
}

func (tx *Tx) updateAttempts(as []AttemptRow) error {
	freed := map[string]int64{}
	for i := range as {
		a := &as[i]
		n, err := tx.exec(`UPDATE attempts SET state = ?, exit_code = ?, reason = ?, started = ?, ended = ? WHERE id = ?`,
			string(a.State), exitCode(a.ExitCode), reason(a.Reason), micros(a.Started), micros(a.Ended), a.ID)
		if err == nil && n == 0 {
			return dspool.Errorf(dspool.NotFound, "there is no attempt %d", a.ID)
		}
		if unique(err) {
			return dspool.Errorf(dspool.Conflict, "task %d of job %d is placed again already", a.Index, a.Job)
		}
		if err != nil {
			return wrap(err, "update attempt %d", a.ID)
		}
		for _, c := range a.Claims {
			if c.Ended == nil {
				c.Ended = a.Ended
			}
			if err := tx.updateClaim(a.ID, c, freed); err != nil {
				return wrap(err, "update claim of attempt %d", a.ID)
			}
		}
		if len(a.Claims) == 0 && a.Ended != nil {
			if err := tx.endClaims(a.ID, *a.Ended, freed); err != nil {
				return wrap(err, "end claims of attempt %d", a.ID)
			}
		}
	}
	return tx.free(freed)
}

// DeleteAttempts forgets attempts that were recalled before they started, so that their tasks are
// pending as if they had never been placed; missing ones are no error. Conflict if one has a claim
// that started: it must be paid for.
func (tx *Tx) DeleteAttempts(ids []int64) error {
	freed := map[string]int64{}
	err := chunks(`(?)`, ids, func(in string, args []any) error {
		started, found, err := one(tx, func(r row, id *int64) error { return r.Scan(id) },
			`SELECT attempt FROM claims WHERE started IS NOT NULL AND attempt IN `+in+` LIMIT 1`, args...)
		if found {
			return dspool.Errorf(dspool.Conflict, "attempt %d has started and cannot be recalled", started)
		}
		if err != nil {
			return err
		}
		err = tx.change(`DELETE FROM claims WHERE attempt IN `+in+` RETURNING machine`, args, func(r row) error {
			var machine string
			err := r.Scan(&machine)
			freed[machine] = tx.now.UnixMicro()
			return err
		})
		if err == nil {
			_, err = tx.exec(`DELETE FROM attempts WHERE id IN `+in, args...)
		}
		return err
	})
	if err == nil {
		err = tx.free(freed)
	}
	tx.doom(err)
	return wrap(err, "delete attempts")
}

// OpenAttempts returns the attempts that have not ended, by identifier: of one machine or, if
// machine is "", of all.
func (tx *Tx) OpenAttempts(machine string) ([]AttemptRow, error) {
	query, args := allOpen, []any(nil)
	if machine != "" {
		query, args = openOfMachine, []any{machine}
	}
	as, err := tx.attempts(query, args...)
	return as, wrap(err, "list open attempts")
}

// OpenAttemptsOfJob returns a job's attempts that have not ended, by identifier.
func (tx *Tx) OpenAttemptsOfJob(job int64) ([]AttemptRow, error) {
	as, err := tx.attempts(openOfJob, job)
	return as, wrap(err, "list open attempts of job %d", job)
}

func exitCode(code *int) any {
	if code == nil {
		return nil
	}
	return int64(*code)
}
