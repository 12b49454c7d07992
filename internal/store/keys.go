package store

import "github.com/dspool/dspool"

const keyColumns = `user_name, fingerprint, public_key, comment, added`

func scanKey(r row, k *dspool.UserKey) error {
	return r.Scan(&k.User, &k.Fingerprint, &k.Key, &k.Comment, timeIn{&k.Added})
}

// UserKeys returns a user's keys, oldest first, or everybody's if user is "", in order of user.
func (tx *Tx) UserKeys(user string) ([]dspool.UserKey, error) {
	where, args := ``, []any(nil)
	if user != "" {
		where, args = ` WHERE user_name = ?`, []any{user}
	}
	out, err := list(tx, scanKey, `SELECT `+keyColumns+` FROM user_keys`+where+` ORDER BY user_name, added, fingerprint`, args...)
	return out, wrap(err, "list keys")
}

// AddUserKey adds a key, added now unless it says otherwise. NotFound if there is no such user,
// Conflict if that user has it already; several users may have the same key.
func (tx *Tx) AddUserKey(k dspool.UserKey) error {
	if _, err := tx.uid(k.User); err != nil {
		return err
	}
	if k.Added.IsZero() {
		k.Added = tx.now
	}
	_, err := tx.exec(`INSERT INTO user_keys (`+keyColumns+`) VALUES (?, ?, ?, ?, ?)`, k.User, k.Fingerprint, k.Key, k.Comment, stored(k.Added))
	if unique(err) {
		return dspool.Errorf(dspool.Conflict, "user %s has the key %s already", k.User, k.Fingerprint)
	}
	return wrap(err, "add key of user %s", k.User)
}

// UserKey returns the key of user with this fingerprint; NotFound if there is none.
func (tx *Tx) UserKey(user, fingerprint string) (dspool.UserKey, error) {
	k, found, err := one(tx, scanKey, `SELECT `+keyColumns+` FROM user_keys WHERE user_name = ? AND fingerprint = ?`, user, fingerprint)
	if err == nil && !found {
		return k, notFound("key", fingerprint)
	}
	return k, wrap(err, "read key of user %s", user)
}

// DeleteUserKey deletes the key of user with this fingerprint; NotFound if there is none.
func (tx *Tx) DeleteUserKey(user, fingerprint string) error {
	n, err := tx.exec(`DELETE FROM user_keys WHERE user_name = ? AND fingerprint = ?`, user, fingerprint)
	if err == nil && n == 0 {
		return notFound("key", fingerprint)
	}
	return wrap(err, "delete key of user %s", user)
}
