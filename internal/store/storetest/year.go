package storetest

import (
	"context"
	"database/sql"
	"fmt"
	"time"
)

// Year is a year of a busy team: 50 users, three pools, tasks of a few minutes to a day.
type Year struct {
	Attempts, Events int
	End              time.Time // beginning of the day after it
}

// The year's tables in the order in which they are filled; ?1 is how many rows, ?2 the year's beginning, ?3 its length.
var yearRows = []struct {
	rows func(Year) int
	sql  string
}{
	{func(y Year) int { return y.Attempts / 40 }, `INSERT INTO machines (id, name, pool, size, cpus, memory, gpus, disk, price, created, image, state, reason, failure, cordoned,
			health, health_reason, address, token_hash, agent_key, remove, tries, agent_ready, revision, ended, until)
		SELECT i, pool || '-' || i, pool, size, 8000, 34359738368, 0, 0, 0.37 + i % 3, begun, '', 'gone', '', '', 0, 'healthy', '', '', '', '', '', 0, 1, 0,
			begun + length, begun + length FROM (SELECT i, 'p' || (i % 3) AS pool, 's' || (i % 2) AS size, ?2 + i * (?3 / ?1) AS begun, ?3 / ?1 + 7200000000 + (i % 50) * 600000000 AS length FROM n)`},
	{func(y Year) int { return y.Attempts / 20 }, `INSERT INTO jobs (id, user_name, uid, pool, spec, created, share, dir, state, reason, blocked, cancelling, pending,
			n_total, n_pending, assigned, running, succeeded, failed, cancelled, lost, started, ended, task_sum, task_ended)
		SELECT i, 'user' || (i % 50), 20000 + i % 50, 'p' || (i / 2 % 3), '{}', begun, 'team', '', CASE WHEN i % 97 = 0 THEN 'failed' ELSE 'succeeded' END, '', '', 0, '',
			20, 0, 0, 0, 20, 0, 0, 0, begun, begun + 7200000000, 0, begun + 7200000000 FROM (SELECT i, ?2 + i * (?3 / ?1) AS begun FROM n)`},
	{func(y Year) int { return y.Attempts / 20 }, `INSERT INTO job_commands (job, command, env) SELECT i, '["python3","train.py"]', 'null' FROM n`},
	{func(y Year) int { return y.Attempts }, `INSERT INTO attempts (id, job, idx, number, user_name, state, exit_code, reason, assigned, started, ended)
		SELECT i + 1, job, i % 20, 1, 'user' || (job % 50), 'succeeded', 0, '', begun, begun, begun + length
		FROM (SELECT i, min(i / 20, ?1 / 20 - 1) AS job, ?2 + i * (?3 / ?1) AS begun, 300000000 + (i % 60) * 60000000 AS length FROM n)`},
	{func(y Year) int { return y.Attempts }, `INSERT INTO claims (attempt, rank, machine, cpus, memory, gpus, desired, why, revision, started, ended, until)
		SELECT i + 1, 0, 'p' || (m % 3) || '-' || m, 1000 + i % 7 * 500, 2147483648 * (1 + i % 4), 0, 'run', '', i, begun, begun + length, begun + length
		FROM (SELECT i, min(i / 40, ?1 / 40 - 1) AS m, ?2 + i * (?3 / ?1) AS begun, 300000000 + (i % 60) * 60000000 AS length FROM n)`},
	{func(y Year) int { return y.Attempts / 100 }, `INSERT INTO sessions (id, user_name, uid, pool, created, machine, state, reason, position, cpus, memory, gpus, share, active,
			activity, placed, opened, ended, until, close, revision)
		SELECT i + 1, 'user' || (i % 50), 20000 + i % 50, 'p' || (m % 3), begun, 'p' || (m % 3) || '-' || m, 'closed', '', 0, 2000, 4294967296, 0, 0.25, 0, '', begun, begun,
			begun + length, begun + length, '', 0 FROM (SELECT i, min(i * 100 / 40, ?1 * 100 / 40 - 1) AS m, ?2 + i * (?3 / ?1) AS begun, 3600000000 * (1 + i % 30) AS length FROM n)`},
	{func(y Year) int { return y.Attempts / 50 }, `INSERT INTO connections (id, session, user_name, protocol, peer, auth, bytes_in, bytes_out, started, ended)
		SELECT 'c' || i, 1 + i / 2, 'user' || (i / 2 % 50), 'ssh', '10.0.0.1', 'key', 1, 1, ?2 + i * (?3 / ?1), ?2 + i * (?3 / ?1) + 60000000 FROM n`},
	{func(y Year) int { return y.Events }, `INSERT INTO events (id, time, actor, kind, pool, machine, job, user_name, message, reason)
		SELECT i + 1, ?2 + i * (?3 / ?1), 'plan', 'task.ended', 'p' || (i % 3), CASE WHEN i % 3 = 0 THEN 'p0-' || (i / 120) END, CASE WHEN i % 3 > 0 THEN i / 60 END,
			CASE WHEN i % 3 > 0 THEN 'user' || (i / 60 % 50) END, 'task ' || i || ' succeeded after some minutes', '{"code":"stated","params":{"detail":"it did what it was asked to do"}}' FROM n`},
}

// Make fills the state in a file, which exists and holds nothing yet, by SQL: much faster than the verbs would. Numbers that
// are given later go on after it.
func (y Year) Make(ctx context.Context, path string) error {
	db, err := sql.Open("sqlite", path+"?_pragma=synchronous(OFF)&_pragma=cache_size(-65536)&_pragma=temp_store(MEMORY)")
	if err != nil {
		return err
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	const length = int64(365 * 24 * time.Hour / time.Microsecond)
	for _, t := range yearRows {
		if n := t.rows(y); n > 0 {
			if _, err := db.ExecContext(ctx, `WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < ?1) `+t.sql, n, y.End.UnixMicro()-length, length); err != nil {
				return fmt.Errorf("%.40s: %w", t.sql, err)
			}
		}
	}
	_, err = db.ExecContext(ctx, `UPDATE installation SET machine = ?, job = ?, attempt = ?, event = ?, session = ?`, y.Attempts/40, y.Attempts/20, y.Attempts, y.Events, y.Attempts/100)
	return err
}
