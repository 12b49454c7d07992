package store

import (
	"encoding/json"

	"github.com/dspool/dspool"
)

// PutOperation inserts o or replaces the one of its identifier; created now unless it says otherwise.
func (tx *Tx) PutOperation(o dspool.Operation) error {
	if o.Created.IsZero() {
		o.Created = tx.now
	}
	body, err := json.Marshal(o)
	if err == nil {
		_, err = tx.exec(`INSERT INTO operations (id, state, created, body, uid) VALUES (?, ?, ?, ?, (SELECT uid FROM users WHERE name = ? AND removed IS NULL))
			ON CONFLICT (id) DO UPDATE SET state = excluded.state, body = excluded.body WHERE operations.body <> excluded.body`,
			o.ID, string(o.State), stored(o.Created), string(body), o.User)
	}
	return wrap(err, "write operation %s", o.ID)
}

// Operation returns an operation; NotFound if there is none.
func (tx *Tx) Operation(id string) (dspool.Operation, error) {
	o, found, err := one(tx, scanDocument[dspool.Operation], `SELECT body FROM operations WHERE id = ?`, id)
	if err == nil && !found {
		return o, notFound("operation", id)
	}
	return o, wrap(err, "read operation %s", id)
}

// OperationUID returns whose an operation is; 0 if no user's.
func (tx *Tx) OperationUID(id string) (uid int, err error) {
	uid, _, err = one(tx, scanID, `SELECT coalesce(uid, 0) FROM operations WHERE id = ?`, id)
	return uid, wrap(err, "read operation %s", id)
}

// RunningOperations returns the operations that have not ended, oldest first.
func (tx *Tx) RunningOperations() ([]dspool.Operation, error) {
	out, err := list(tx, scanDocument[dspool.Operation], `SELECT body FROM operations WHERE state = 'running' ORDER BY +rowid`)
	return out, wrap(err, "list running operations")
}
