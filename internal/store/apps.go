package store

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/dspool/dspool"
)

const (
	appFixed   = `id, session, name, user_name, uid, pool, created, restart`
	appChanges = `state, since, reason, exit_code, port, started, ended`
	appSelect  = `SELECT ` + appFixed + `, ` + appChanges + `, (SELECT machine FROM sessions s WHERE s.id = a.session) FROM apps a`
	appOpen    = `state <> 'ended'` // as the partial index says it
)

func appChangeArgs(a *AppRow) []any {
	return []any{string(a.State), stored(a.Since), reason(a.Reason), a.ExitCode, a.Port, micros(a.Started), micros(a.Ended)}
}

func scanApp(r row, a *AppRow) error {
	return r.Scan(&a.ID, &a.Session, &a.Name, &a.User, &a.UID, &a.Pool, timeIn{&a.Created}, &a.Restart,
		&a.State, timeIn{&a.Since}, reasonIn{&a.Reason}, &a.ExitCode, &a.Port, maybeIn{&a.Started}, maybeIn{&a.Ended}, textIn{&a.Machine})
}

// InsertApp adds an app of a session, waiting and created now unless it says otherwise, keeps what it
// runs until it has ended, and gives it its identifier: 1, 2, 3 and so on. Conflict if the session has
// one of that name that neither has ended nor is stopping. Its user, uid and pool are the caller's to
// take from the session.
func (tx *Tx) InsertApp(a *AppRow) error {
	if a.Created.IsZero() {
		a.Created = tx.now
	}
	if a.State == "" {
		a.State = dspool.AppWaiting
	}
	if a.Since.IsZero() {
		a.Since = tx.now
	}
	id := tx.last.app + 1
	args := append([]any{id, a.Session, a.Name, a.User, a.UID, a.Pool, stored(a.Created), a.Restart}, appChangeArgs(a)...)
	_, err := tx.exec(`INSERT INTO apps (`+appFixed+`, `+appChanges+`) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`, args...)
	if unique(err) {
		return dspool.Errorf(dspool.Conflict, "session %d has an app %s already", a.Session, a.Name)
	}
	if err != nil {
		return wrap(err, "insert app %s of user %s", a.Name, a.User)
	}
	tx.last.app, a.ID = id, id
	if a.State == dspool.AppEnded {
		return nil
	}
	body, err := json.Marshal(a.Spec)
	if err == nil {
		_, err = tx.exec(`INSERT INTO app_specs (app, body) VALUES (?, ?)`, id, string(body))
	}
	return wrap(err, "keep what app %d runs", id)
}

// UpdateApp changes how an app stands; NotFound if there is none. What it is (its session, name, user,
// pool, creation time) and runs stays as inserted. One that ends without an end of its own ends now, and
// what it ran is forgotten. Since becomes now where the state changes. Conflict if one that has ended
// would begin anew beside another of its name.
func (tx *Tx) UpdateApp(a AppRow) error {
	old, found, err := one(tx, scanText, `SELECT state FROM apps WHERE id = ?`, a.ID)
	if err == nil && !found {
		return appNotFound(a.ID)
	}
	if err != nil {
		return wrap(err, "read app %d", a.ID)
	}
	if string(a.State) != old {
		a.Since = tx.now
	}
	if a.State == dspool.AppEnded && a.Ended == nil {
		a.Ended = &tx.now
	}
	_, err = tx.exec(`UPDATE apps SET (`+appChanges+`) = (?, ?, ?, ?, ?, ?, ?) WHERE id = ?`, append(appChangeArgs(&a), a.ID)...)
	if unique(err) {
		return dspool.Errorf(dspool.Conflict, "session %d has another app %s", a.Session, a.Name)
	}
	if err == nil && a.State == dspool.AppEnded {
		_, err = tx.exec(`DELETE FROM app_specs WHERE app = ?`, a.ID)
	}
	return wrap(err, "update app %d", a.ID)
}

func scanText(r row, s *string) error { return r.Scan(s) }

func appNotFound(id int64) error { return dspool.Errorf(dspool.NotFound, "there is no app %d", id) }

// App returns an app, also one that has ended, without what it runs; NotFound if there is none.
func (tx *Tx) App(id int64) (AppRow, error) {
	a, found, err := one(tx, scanApp, appSelect+` WHERE id = ?`, id)
	if err == nil && !found {
		return a, appNotFound(id)
	}
	return a, wrap(err, "read app %d", id)
}

// AppSpec returns what an app runs; NotFound if there is none, or it has ended.
func (tx *Tx) AppSpec(id int64) (spec AppSpec, err error) {
	spec, found, err := one(tx, scanDocument[AppSpec], `SELECT body FROM app_specs WHERE app = ?`, id)
	if err == nil && !found {
		return spec, appNotFound(id)
	}
	if err != nil { // without the text, which holds secrets
		return spec, fmt.Errorf("read what app %d runs: %w", id, err)
	}
	return spec, nil
}

// OpenApps returns the apps that have not ended, by identifier, without what they run.
func (tx *Tx) OpenApps() ([]AppRow, error) {
	out, err := list(tx, scanApp, appSelect+` WHERE `+appOpen+` ORDER BY id`)
	return out, wrap(err, "list open apps")
}

// AppsOf returns the apps of a session that have not ended, by identifier, without what they run.
func (tx *Tx) AppsOf(session int64) ([]AppRow, error) {
	out, err := list(tx, scanApp, appSelect+` WHERE `+appOpen+` AND session = ? ORDER BY id`, session)
	return out, wrap(err, "list apps of session %d", session)
}

// AppFilter says which apps are meant; its zero value is all that have not ended.
type AppFilter struct {
	User   string
	All    bool  // also those that have ended
	Before int64 // only those with a lower identifier
	Limit  int   // at most so many; 0 is no limit
}

// Apps returns apps, newest first, without what they run.
func (tx *Tx) Apps(f AppFilter) ([]AppRow, error) {
	var where []string
	var args []any
	add := func(cond string, vs ...any) { where, args = append(where, cond), append(args, vs...) }
	if f.User != "" {
		add(`user_name = ?`, f.User)
	}
	if !f.All {
		// A subquery, so that the database begins with the few.
		add(`id IN (SELECT id FROM apps WHERE ` + appOpen + `)`)
	}
	if f.Before > 0 {
		add(`id < ?`, f.Before)
	}
	query := appSelect
	if len(where) > 0 {
		query += ` WHERE ` + strings.Join(where, ` AND `)
	}
	out, err := list(tx, scanApp, query+` ORDER BY id DESC LIMIT ?`, append(args, limit(f.Limit))...)
	return out, wrap(err, "list apps")
}
