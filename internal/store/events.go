package store

import (
	"slices"
	"strings"

	"github.com/dspool/dspool"
)

// AddEvent appends an event. Its identifier is the next one, its time the transaction's.
func (tx *Tx) AddEvent(e dspool.Event) error {
	tx.last.event++
	var job any
	if e.Job != 0 {
		job = e.Job
	}
	_, err := tx.exec(`INSERT INTO events (id, time, actor, kind, pool, machine, job, user_name, message, reason)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		tx.last.event, stored(tx.now), e.Actor, e.Kind, text(e.Pool), text(e.Machine), job, text(e.User), e.Message, reason(e.Reason))
	return wrap(err, "add event %s", e.Kind)
}

func scanEvent(r row, e *dspool.Event) error {
	return r.Scan(&e.ID, timeIn{&e.Time}, &e.Actor, &e.Kind, textIn{&e.Pool}, textIn{&e.Machine}, &e.Job, textIn{&e.User}, &e.Message, reasonIn{&e.Reason})
}

// EventFilter says which events are meant; its zero value is all.
type EventFilter struct {
	After         int64 // only those with a higher identifier
	Limit         int   // at most so many; 0 is no limit
	Pool, Machine string
	Job           int64
	Until         int64  // only those with no higher identifier; 0 is no limit
	User          string // only events about this user's things, or about nobody's
	UID           int    // with User: only events about the things of the account with this uid; 0 is all of the name
	Latest        bool   // the limit keeps the newest ones rather than the oldest
}

// Events returns events, oldest first.
func (tx *Tx) Events(f EventFilter) ([]dspool.Event, error) {
	where, args := []string{`id > ?`}, []any{f.After}
	add := func(cond string, v ...any) { where, args = append(where, cond), append(args, v...) }
	if f.Pool != "" {
		add(`pool = ?`, f.Pool)
	}
	if f.Machine != "" {
		add(`machine = ?`, f.Machine)
	}
	if f.Job != 0 {
		add(`job = ?`, f.Job)
	}
	if f.Until != 0 {
		add(`id <= ?`, f.Until)
	}
	order := ` ORDER BY id LIMIT ?`
	if f.Latest {
		order = ` ORDER BY id DESC LIMIT ?`
	}
	query := eventSelect + strings.Join(where, ` AND `)
	switch {
	case f.User == "":
		args = append(args, limit(f.Limit))
	case f.Machine != "" || f.Job != 0: // few
		query += ` AND (user_name IS NULL OR user_name = ? AND id > coalesce((SELECT event FROM users WHERE uid = ?), 0))`
		args = append(args, f.User, f.UID, limit(f.Limit))
	default:
		// Each half walks along its own index in order, and no further than the limit.
		half := func(cond string) string { return `SELECT * FROM (` + query + cond + order + `)` }
		shared := args
		query = half(` AND user_name IS NULL`) + ` UNION ALL ` + half(` AND user_name = ? AND id > coalesce((SELECT event FROM users WHERE uid = ?), 0)`)
		args = slices.Concat(shared, []any{limit(f.Limit)}, shared, []any{f.User, f.UID, limit(f.Limit), limit(f.Limit)})
	}
	out, err := list(tx, scanEvent, query+order, args...)
	if f.Latest {
		slices.Reverse(out)
	}
	return out, wrap(err, "list events")
}

const eventSelect = `SELECT id, time, actor, kind, pool, machine, coalesce(job, 0), user_name, message, reason FROM events WHERE `
