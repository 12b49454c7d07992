package store

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/dspool/dspool"
)

const (
	jobFixed   = `id, user_name, uid, pool, spec, submit_key, created`
	jobChanges = `share, dir, state, reason, blocked, cancelling, pending, n_total, n_pending, assigned, running, ` +
		`succeeded, failed, cancelled, lost, started, ended, task_sum, task_ended, killed`
	jobOpen = `state NOT IN ('succeeded', 'failed', 'cancelled')` // as the partial index says it
	jobLean = `SELECT ` + jobFixed + `, ` + jobChanges + `, NULL, NULL FROM jobs j`
	jobFull = `SELECT ` + jobFixed + `, ` + jobChanges + `, command, env FROM jobs j JOIN job_commands c ON c.job = j.id`
)

func jobChangeArgs(j *JobRow) []any {
	t := j.Tasks
	return []any{j.Share, j.Dir, j.State, reason(j.Reason), reason(j.Blocked), j.Cancelling, j.Pending.String(),
		t.Total, t.Pending, t.Assigned, t.Running, t.Succeeded, t.Failed, t.Cancelled, t.Lost,
		micros(j.Started), micros(j.Ended), int64(j.TaskSum), micros(j.TaskEnded), j.Killed}
}

func scanJob(r row, j *JobRow) error {
	var pool, spec, pending, command, env string
	t := &j.Tasks
	err := r.Scan(&j.ID, &j.User, &j.UID, &pool, &spec, textIn{&j.Key}, timeIn{&j.Created},
		&j.Share, &j.Dir, &j.State, reasonIn{&j.Reason}, reasonIn{&j.Blocked}, &j.Cancelling, &pending,
		&t.Total, &t.Pending, &t.Assigned, &t.Running, &t.Succeeded, &t.Failed, &t.Cancelled, &t.Lost,
		maybeIn{&j.Started}, maybeIn{&j.Ended}, (*int64)(&j.TaskSum), maybeIn{&j.TaskEnded}, &j.Killed, textIn{&command}, textIn{&env})
	if err != nil {
		return err
	}
	for _, part := range []struct {
		text string
		to   any
	}{{spec, &j.Spec}, {command, &j.Spec.Command}, {env, &j.Spec.Env}} {
		if part.text == "" {
			continue
		}
		if err := json.Unmarshal([]byte(part.text), part.to); err != nil {
			return fmt.Errorf("read stored form of job %d: %w", j.ID, err)
		}
	}
	if err := j.Pending.UnmarshalText([]byte(pending)); err != nil {
		return fmt.Errorf("read pending tasks of job %d: %w", j.ID, err)
	}
	return nil
}

// InsertJob adds a job, created now unless it says otherwise, and gives it its identifier: 1, 2, 3
// and so on. Conflict if its user gave another job the same key.
func (tx *Tx) InsertJob(j *JobRow) error {
	if j.Created.IsZero() {
		j.Created = tx.now
	}
	lean := j.Spec
	lean.Command, lean.Env = nil, nil
	spec, err := json.Marshal(lean)
	if err != nil {
		return wrap(err, "insert job")
	}
	command, err := json.Marshal(j.Spec.Command)
	if err != nil {
		return wrap(err, "insert job")
	}
	env, err := json.Marshal(j.Spec.Env)
	if err != nil {
		return wrap(err, "insert job")
	}
	id := tx.last.job + 1
	args := append([]any{id, j.User, j.UID, j.Spec.Pool, string(spec), text(j.Key), stored(j.Created)}, jobChangeArgs(j)...)
	_, err = tx.exec(`INSERT INTO jobs (`+jobFixed+`, `+jobChanges+`)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`, args...)
	if unique(err) {
		return dspool.Errorf(dspool.Conflict, "user %s submitted a job with this key already", j.User)
	}
	if err != nil {
		return wrap(err, "insert job")
	}
	if _, err := tx.exec(`INSERT INTO job_commands (job, command, env) VALUES (?, ?, ?)`, id, string(command), string(env)); err != nil {
		return wrap(err, "insert command of job %d", id)
	}
	for _, after := range j.Spec.After {
		if _, err := tx.exec(`INSERT INTO job_after (after_job, job) VALUES (?, ?) ON CONFLICT DO NOTHING`, after, id); err != nil {
			return wrap(err, "insert what job %d waits for", id)
		}
	}
	tx.last.job, j.ID = id, id
	return nil
}

// UpdateJob changes a job; NotFound if there is none. What was submitted (spec, user, uid, key,
// creation time) stays as inserted, so a row of OpenJobs may be given back.
func (tx *Tx) UpdateJob(j JobRow) error {
	n, err := tx.exec(`UPDATE jobs SET (`+jobChanges+`) = (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) WHERE id = ?`,
		append(jobChangeArgs(&j), j.ID)...)
	if err == nil && n == 0 {
		return jobNotFound(j.ID)
	}
	return wrap(err, "update job %d", j.ID)
}

func jobNotFound(id int64) error { return dspool.Errorf(dspool.NotFound, "there is no job %d", id) }

// Job returns a job; NotFound if there is none.
func (tx *Tx) Job(id int64) (JobRow, error) {
	j, found, err := one(tx, scanJob, jobFull+` WHERE id = ?`, id)
	if err == nil && !found {
		return j, jobNotFound(id)
	}
	return j, wrap(err, "read job %d", id)
}

// JobsByID returns those of ids that exist.
func (tx *Tx) JobsByID(ids []int64) (map[int64]JobRow, error) {
	out := make(map[int64]JobRow, len(ids))
	err := chunks(jobFull+` WHERE id IN (?)`, ids, func(query string, args []any) error {
		return tx.each(query, args, func(r row) error {
			var j JobRow
			err := scanJob(r, &j)
			out[j.ID] = j
			return err
		})
	})
	return out, wrap(err, "read jobs")
}

// JobByKey returns the job that user submitted with an idempotency key, if there is one. Where a
// removed user had the same name, it is the newest job of the two; its UID tells them apart.
func (tx *Tx) JobByKey(user, key string) (JobRow, bool, error) {
	found, err := list(tx, scanJob, jobFull+` WHERE user_name = ? AND submit_key = ?`, user, key)
	if err != nil || len(found) == 0 {
		return JobRow{}, false, wrap(err, "find job by key")
	}
	return slices.MaxFunc(found, func(a, b JobRow) int { return cmp.Compare(a.ID, b.ID) }), true, nil
}

// OpenJobs returns the jobs that have not ended, by identifier, without command and environment:
// those may be large, and who asks for all jobs asks often.
func (tx *Tx) OpenJobs() ([]JobRow, error) {
	out, err := list(tx, scanJob, jobLean+` WHERE `+jobOpen+` ORDER BY id`)
	return out, wrap(err, "list open jobs")
}

// JobFilter says which jobs are meant; its zero value is all.
type JobFilter struct {
	User, Pool string
	States     []dspool.JobState
	Before     int64 // only those with a lower identifier
	Limit      int   // at most so many; 0 is no limit
}

// Jobs returns jobs, newest first.
func (tx *Tx) Jobs(f JobFilter) ([]JobRow, error) {
	var where []string
	var args []any
	add := func(cond string, vs ...any) { where, args = append(where, cond), append(args, vs...) }
	if f.User != "" {
		add(`user_name = ?`, f.User)
	}
	if f.Pool != "" {
		add(`pool = ?`, f.Pool)
	}
	if n := len(f.States); n > 0 {
		add(`state IN (?` + strings.Repeat(`, ?`, n-1) + `)`)
		for _, st := range f.States {
			args = append(args, string(st))
		}
		if !slices.ContainsFunc(f.States, dspool.JobState.Ended) {
			add(jobOpen) // true already, but it names the index of the few
		}
		if !slices.ContainsFunc(f.States, func(st dspool.JobState) bool { return st != dspool.JobFailed && st != dspool.JobCancelled }) {
			add(`state IN ('failed', 'cancelled')`) // likewise
		}
	}
	if f.Before > 0 {
		add(`id < ?`, f.Before)
	}
	query := jobFull
	if len(where) > 0 {
		query += ` WHERE ` + strings.Join(where, ` AND `)
	}
	out, err := list(tx, scanJob, query+` ORDER BY id DESC LIMIT ?`, append(args, limit(f.Limit))...)
	return out, wrap(err, "list jobs")
}

// JobsAfter returns the open jobs that wait for job id, by identifier.
func (tx *Tx) JobsAfter(id int64) ([]int64, error) {
	out, err := list(tx, func(r row, id *int64) error { return r.Scan(id) },
		`SELECT j.id FROM job_after a JOIN jobs j ON j.id = a.job WHERE a.after_job = ? AND j.`+jobOpen+` ORDER BY j.id`, id)
	return out, wrap(err, "list jobs after %d", id)
}
