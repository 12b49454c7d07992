package store

import (
	"time"

	"github.com/dspool/dspool"
)

const tokenColumns = `id, user_name, name, created, expires, used, kind, parent`

func scanToken(r row, t *TokenRow) error {
	return r.Scan(&t.ID, &t.User, &t.Name, timeIn{&t.Created}, maybeIn{&t.Expires}, maybeIn{&t.Used}, &t.Kind, &t.Parent)
}

// AddToken adds a credential whose secret has this hash; created now unless it says otherwise.
// NotFound if there is no such user, Conflict if its identifier or hash is taken.
func (tx *Tx) AddToken(t TokenRow, hash string) error {
	if _, err := tx.User(t.User); err != nil {
		return err
	}
	if t.Created.IsZero() {
		t.Created = tx.now
	}
	_, err := tx.exec(`INSERT INTO tokens (`+tokenColumns+`, hash) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		t.ID, t.User, t.Name, stored(t.Created), micros(t.Expires), micros(t.Used), string(t.Kind), t.Parent, hash)
	if unique(err) {
		return dspool.Errorf(dspool.Conflict, "token %s exists already", t.ID)
	}
	return wrap(err, "add token %s", t.ID)
}

// Tokens returns a user's tokens of every kind, or everybody's if user is "", oldest first.
func (tx *Tx) Tokens(user string) ([]TokenRow, error) {
	where, args := ``, []any(nil)
	if user != "" {
		where, args = ` WHERE user_name = ?`, []any{user}
	}
	out, err := list(tx, scanToken, `SELECT `+tokenColumns+` FROM tokens`+where+` ORDER BY rowid`, args...)
	return out, wrap(err, "list tokens")
}

// Token returns the token with this identifier; NotFound if there is none.
func (tx *Tx) Token(id string) (TokenRow, error) {
	t, found, err := one(tx, scanToken, `SELECT `+tokenColumns+` FROM tokens WHERE id = ?`, id)
	if err == nil && !found {
		return t, notFound("token", id)
	}
	return t, wrap(err, "read token %s", id)
}

// TokenByHash returns the token whose secret has this hash, also an expired one, of whatever
// kind: what it is good for is the caller's to say. NotFound if there is none.
func (tx *Tx) TokenByHash(hash string) (TokenRow, error) {
	t, found, err := one(tx, scanToken, `SELECT `+tokenColumns+` FROM tokens WHERE hash = ?`, hash)
	if err == nil && !found {
		return t, dspool.Errorf(dspool.NotFound, "there is no such token")
	}
	return t, wrap(err, "find token")
}

// DeleteToken deletes a token and those that were made by it, and so on; NotFound if there is none.
func (tx *Tx) DeleteToken(id string) error {
	n, err := tx.exec(`DELETE FROM tokens WHERE id IN (WITH RECURSIVE line (id) AS
		(SELECT id FROM tokens WHERE id = ? UNION SELECT t.id FROM line JOIN tokens t ON t.parent = line.id AND t.parent <> '') SELECT id FROM line)`, id)
	if err == nil && n == 0 {
		return notFound("token", id)
	}
	return wrap(err, "delete token %s", id)
}

// TouchToken notes when a token was used; nil if it is gone meanwhile.
func (tx *Tx) TouchToken(id string, at time.Time) error {
	_, err := tx.exec(`UPDATE tokens SET used = ? WHERE id = ?`, stored(at), id)
	return wrap(err, "note use of token %s", id)
}
