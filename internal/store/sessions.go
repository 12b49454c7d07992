package store

import (
	"maps"
	"slices"
	"strings"

	"github.com/dspool/dspool"
)

// What UpdateSession may change; the rest says whose session it is, or is the store's own.
const (
	sessionFixed   = `id, user_name, uid, pool, size, created, revision`
	sessionChanges = `machine, state, reason, position, cpus, memory, gpus, share, active, activity, last_active, ` +
		`keep_until, placed, opened, ended, close, rights`
	sessionSelect = `SELECT ` + sessionFixed + `, ` + sessionChanges +
		`, (SELECT count(*) FROM connections c WHERE c.session = s.id AND c.ended IS NULL) FROM sessions s`
	sessionOpen   = `state <> 'closed'`                      // as the partial indices say it
	sessionPlaced = `state IN ('placed', 'open', 'closing')` // likewise: what holds a part of a machine
)

func sessionChangeArgs(s *SessionRow) []any {
	r := s.Request
	return []any{text(s.Machine), string(s.State), reason(s.Reason), s.Position, toMilli(r.CPUs), r.Memory, r.GPUs, s.Share, s.Active, reason(s.Activity), stored(s.LastActive),
		micros(s.KeepUntil), micros(s.Placed), micros(s.Opened), micros(s.Ended), reason(s.Close), s.Rights}
}

func scanSession(r row, s *SessionRow) error {
	var cpus int64
	err := r.Scan(&s.ID, &s.User, &s.UID, &s.Pool, &s.Size, timeIn{&s.Created}, &s.Revision,
		textIn{&s.Machine}, &s.State, reasonIn{&s.Reason}, &s.Position, &cpus, &s.Request.Memory, &s.Request.GPUs, &s.Share, &s.Active, reasonIn{&s.Activity}, timeIn{&s.LastActive},
		maybeIn{&s.KeepUntil}, maybeIn{&s.Placed}, maybeIn{&s.Opened}, maybeIn{&s.Ended}, reasonIn{&s.Close}, &s.Rights, &s.Connections)
	s.Request.CPUs = fromMilli(cpus)
	return err
}

// InsertSession adds a session, waiting and created now unless it says otherwise, and gives it its
// identifier: 1, 2, 3 and so on. Its revision is 0. Conflict if its user has one in that pool that
// has not closed.
func (tx *Tx) InsertSession(s *SessionRow) error {
	if s.Created.IsZero() {
		s.Created = tx.now
	}
	if s.State == "" {
		s.State = dspool.SessionWaiting
	}
	if err := tx.unfoldNew(s.Placed); err != nil {
		return wrap(err, "insert session of user %s", s.User)
	}
	id := tx.last.session + 1
	args := append([]any{id, s.User, s.UID, s.Pool, s.Size, stored(s.Created)}, sessionChangeArgs(s)...)
	_, err := tx.exec(`INSERT INTO sessions (`+sessionFixed+`, `+sessionChanges+`, until, event)
		VALUES (?, ?, ?, ?, ?, ?, 0, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`, append(args, tx.until(s.Ended), tx.last.event)...)
	if unique(err) {
		return dspool.Errorf(dspool.Conflict, "user %s has a session in pool %s already", s.User, s.Pool)
	}
	if err != nil {
		return wrap(err, "insert session of user %s", s.User)
	}
	tx.last.session, s.ID, s.Revision = id, id, 0
	return nil
}

// UpdateSession changes a session; NotFound if there is none. Whose it is (user, uid, pool, size, creation
// time) stays as inserted, its revision is [Tx.TouchRevision]'s, and the number of its connections is
// counted. One that closes without an end of its own ends now. Conflict if a closed one would open
// beside its user's next.
func (tx *Tx) UpdateSession(s SessionRow) error {
	if s.State == dspool.SessionClosed && s.Ended == nil {
		s.Ended = &tx.now
	}
	if err := tx.unfoldChanged(s.Placed, s.Ended, `SELECT placed, ended, until FROM sessions WHERE id = ?`, s.ID); err != nil {
		return wrap(err, "update session %d", s.ID)
	}
	n, err := tx.exec(`UPDATE sessions SET (`+sessionChanges+`) = (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?), `+untilEnded+` WHERE id = ?`,
		append(sessionChangeArgs(&s), micros(s.Ended), tx.until(s.Ended), s.ID)...)
	if err == nil && n == 0 {
		return sessionNotFound(s.ID)
	}
	if unique(err) {
		return dspool.Errorf(dspool.Conflict, "user %s has another session in pool %s", s.User, s.Pool)
	}
	if err == nil && s.Machine != "" && s.Ended != nil {
		err = tx.free(map[string]int64{s.Machine: s.Ended.UnixMicro()})
	}
	return wrap(err, "update session %d", s.ID)
}

func sessionNotFound(id int64) error {
	return dspool.Errorf(dspool.NotFound, "there is no session %d", id)
}

// Session returns a session, also a closed one; NotFound if there is none.
func (tx *Tx) Session(id int64) (SessionRow, error) {
	s, found, err := one(tx, scanSession, sessionSelect+` WHERE id = ?`, id)
	if err == nil && !found {
		return s, sessionNotFound(id)
	}
	return s, wrap(err, "read session %d", id)
}

// SessionOf returns the session of user in pool that has not closed, if there is one. The session of a
// removed user is not that of another who has got the name.
func (tx *Tx) SessionOf(user, pool string) (SessionRow, bool, error) {
	s, found, err := one(tx, scanSession, sessionSelect+` WHERE `+sessionOpen+
		` AND uid = (SELECT uid FROM users WHERE name = ? AND removed IS NULL) AND pool = ?`, user, pool)
	return s, found, wrap(err, "find session of user %s in pool %s", user, pool)
}

// SessionEvents says between which events a session was: the latest from before it was made, and the
// latest from before its user's next one in that pool was; 0 is none.
func (tx *Tx) SessionEvents(id int64) (after, until int64, err error) {
	err = tx.scan(`SELECT event, coalesce((SELECT n.event FROM sessions n WHERE n.pool = s.pool AND n.uid = s.uid AND n.id > s.id ORDER BY n.id LIMIT 1), 0)
		FROM sessions s WHERE id = ?`, []any{id}, &after, &until)
	if err == errNoRow {
		err = sessionNotFound(id)
	}
	return after, until, wrap(err, "find events of session %d", id)
}

// OpenSessions returns the sessions that have not closed, by identifier.
func (tx *Tx) OpenSessions() ([]SessionRow, error) {
	out, err := list(tx, scanSession, sessionSelect+` WHERE `+sessionOpen+` ORDER BY id`)
	return out, wrap(err, "list open sessions")
}

// SessionFilter says which sessions are meant; its zero value is all that have not closed.
type SessionFilter struct {
	User, Pool, Machine string
	All                 bool  // also those that have closed
	Before              int64 // only those with a lower identifier
	Limit               int   // at most so many; 0 is no limit
}

// Sessions returns sessions, newest first.
func (tx *Tx) Sessions(f SessionFilter) ([]SessionRow, error) {
	var where []string
	var args []any
	add := func(cond string, vs ...any) { where, args = append(where, cond), append(args, vs...) }
	if f.User != "" {
		add(`user_name = ?`, f.User)
	}
	if f.Pool != "" {
		add(`pool = ?`, f.Pool)
	}
	if f.Machine != "" {
		add(`machine = ?`, f.Machine)
	}
	if !f.All {
		// A subquery, so that the database begins with the few.
		add(`id IN (SELECT id FROM sessions WHERE ` + sessionOpen + `)`)
	}
	if f.Before > 0 {
		add(`id < ?`, f.Before)
	}
	query := sessionSelect
	if len(where) > 0 {
		query += ` WHERE ` + strings.Join(where, ` AND `)
	}
	out, err := list(tx, scanSession, query+` ORDER BY id DESC LIMIT ?`, append(args, limit(f.Limit))...)
	return out, wrap(err, "list sessions")
}

// TouchRevision gives what is wanted of a session a new revision, so that its machine is told.
// NotFound if there is no such session, Conflict while it has no machine.
func (tx *Tx) TouchRevision(id int64) error {
	var machine string
	err := tx.change(`UPDATE sessions SET revision = ? WHERE id = ? AND machine IS NOT NULL RETURNING machine`, []any{tx.last.revision + 1, id},
		func(r row) error { return r.Scan(&machine) })
	if err != nil {
		return wrap(err, "revise session %d", id)
	}
	if machine == "" {
		if _, err := tx.Session(id); err != nil {
			return err
		}
		return dspool.Errorf(dspool.Conflict, "session %d has no machine that could be told", id)
	}
	tx.last.revision++
	return tx.revise(map[string]bool{machine: true})
}

// TouchUser gives what is wanted of all that a user has on machines a new revision, so that they are told.
// It returns these machines.
func (tx *Tx) TouchUser(name string) ([]string, error) {
	revision, machines := tx.last.revision+1, map[string]bool{}
	touch := func(query string) error {
		return tx.change(query, []any{revision, name}, func(r row) error {
			var machine string
			err := r.Scan(&machine)
			machines[machine] = true
			return err
		})
	}
	err := touch(`UPDATE sessions SET revision = ? WHERE user_name = ? AND ` + sessionPlaced + ` RETURNING machine`)
	if err == nil {
		err = touch(`UPDATE claims SET revision = ? WHERE ended IS NULL AND attempt IN (SELECT id FROM attempts WHERE ended IS NULL AND user_name = ?) RETURNING machine`)
	}
	if err != nil || len(machines) == 0 {
		return nil, wrap(err, "revise what user %s has on machines", name)
	}
	tx.last.revision = revision
	return slices.Sorted(maps.Keys(machines)), tx.revise(machines)
}

// SessionsSince returns the sessions, by identifier, that hold a part of machine and whose revision is
// above after, and the highest revision given out for that machine so far, which is that of
// [Tx.ClaimsSince] too. NotFound if there is no such machine.
func (tx *Tx) SessionsSince(machine string, after int64) (rows []SessionRow, revision int64, err error) {
	revision, err = tx.machineRevision(machine)
	if err != nil || revision <= after {
		return nil, revision, err
	}
	rows, err = list(tx, scanSession, sessionSelect+` WHERE `+sessionPlaced+` AND machine = ? AND revision > ? ORDER BY id`, machine, after)
	if err != nil {
		return nil, 0, wrap(err, "list sessions on %s", machine)
	}
	return rows, revision, nil
}
