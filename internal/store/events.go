package store

import (
	"slices"
	"strings"
	"time"

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
	add := func(cond string, v any) { where, args = append(where, cond), append(args, v) }
	if f.Pool != "" {
		add(`pool = ?`, f.Pool)
	}
	if f.Machine != "" {
		add(`machine = ?`, f.Machine)
	}
	if f.Job != 0 {
		add(`job = ?`, f.Job)
	}
	if f.User != "" {
		where, args = append(where, `(user_name IS NULL OR user_name = ? AND id > coalesce((SELECT event FROM users WHERE uid = ?), 0))`), append(args, f.User, f.UID)
	}
	if f.Until != 0 {
		add(`id <= ?`, f.Until)
	}
	order := ` ORDER BY id LIMIT ?`
	if f.Latest {
		order = ` ORDER BY id DESC LIMIT ?`
	}
	out, err := list(tx, scanEvent, `SELECT id, time, actor, kind, pool, machine, coalesce(job, 0), user_name, message, reason FROM events WHERE `+
		strings.Join(where, ` AND `)+order, append(args, limit(f.Limit))...)
	if f.Latest {
		slices.Reverse(out)
	}
	return out, wrap(err, "list events")
}

// PruneEvents deletes, from the first on, the events from before a time, and returns how many they were. What
// a wrong clock called the future holds none of them back.
func (tx *Tx) PruneEvents(before time.Time) (int64, error) {
	// It is enough to look at those that go, and the first that stays.
	n, err := tx.exec(`DELETE FROM events WHERE id < coalesce((SELECT id FROM events WHERE time >= ? AND time <= ? ORDER BY id LIMIT 1), ?)`,
		before.UnixMicro(), tx.now.UnixMicro(), tx.last.event+1)
	return n, wrap(err, "prune events")
}
