package store

import "github.com/dspool/dspool"

// The latest attempt at a task stands for it.
const taskSelect = `SELECT a.job, a.idx, a.state, a.reason, a.id, c.machine, a.exit_code, a.started, a.ended
	FROM attempts a JOIN claims c ON c.attempt = a.id AND c.rank = 0
	WHERE NOT EXISTS (SELECT 1 FROM attempts b WHERE b.job = a.job AND b.idx = a.idx AND b.number > a.number) AND a.job = ?`

func scanTask(r row, t *dspool.Task) error {
	return r.Scan(&t.Job, &t.Index, &t.State, reasonIn{&t.Reason}, &t.Attempt, &t.Machine, &t.ExitCode, maybeIn{&t.Started}, maybeIn{&t.Ended})
}

// TaskFilter says which tasks of a job are meant.
type TaskFilter struct {
	State dspool.TaskState // "" is every state
	After int64            // only those with a higher index; -1 is all
	Limit int              // at most so many; 0 is no limit
}

// Tasks returns a job's tasks that have been placed, by index. Those that wait for their first
// placement are only in the job's index set.
func (tx *Tx) Tasks(job int64, f TaskFilter) ([]dspool.Task, error) {
	query, args := taskSelect+` AND a.idx > ?`, []any{job, f.After}
	if f.State != "" {
		query, args = query+` AND a.state = ?`, append(args, string(f.State))
	}
	// Conditions that follow from the state, in the words of a partial index that finds few
	// tasks among a million.
	switch f.State {
	case dspool.TaskAssigned, dspool.TaskRunning:
		query += ` AND a.ended IS NULL`
	case dspool.TaskFailed, dspool.TaskCancelled, dspool.TaskLost:
		query += ` AND a.state IN ('failed', 'cancelled', 'lost')`
	}
	out, err := list(tx, scanTask, query+` ORDER BY a.idx LIMIT ?`, append(args, limit(f.Limit))...)
	return out, wrap(err, "list tasks of job %d", job)
}

// Task returns one task of a job, if it has been placed.
func (tx *Tx) Task(job, index int64) (dspool.Task, bool, error) {
	t, found, err := one(tx, scanTask, taskSelect+` AND a.idx = ?`, job, index)
	return t, found, wrap(err, "read task %d of job %d", index, job)
}
