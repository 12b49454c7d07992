package store

import "github.com/dspool/dspool"

const userColumns = `name, uid, admin, created`

func scanUser(r row, u *dspool.User) error {
	return r.Scan(&u.Name, &u.UID, &u.Admin, timeIn{&u.Created})
}

// Users returns the users that have not been removed, in order of name.
func (tx *Tx) Users() ([]dspool.User, error) {
	out, err := list(tx, scanUser, `SELECT `+userColumns+` FROM users WHERE removed IS NULL ORDER BY name`)
	return out, wrap(err, "list users")
}

// User returns the user called name; NotFound if there is none, or if it was removed.
func (tx *Tx) User(name string) (dspool.User, error) {
	u, found, err := one(tx, scanUser, `SELECT `+userColumns+` FROM users WHERE name = ? AND removed IS NULL`, name)
	if err == nil && !found {
		return u, notFound("user", name)
	}
	return u, wrap(err, "read user %s", name)
}

// AddUser adds a user with the lowest uid of ids that nobody has ever had, not even a removed
// user of the same name. It returns Conflict if the user exists, Unavailable when ids are used up
// and Invalid for a range that holds none or begins below 1.
func (tx *Tx) AddUser(name string, admin bool, ids dspool.UIDRange) (dspool.User, error) {
	if ids.First < 1 || ids.Last < ids.First {
		return dspool.User{}, dspool.Errorf(dspool.Invalid, "the range of user ids from %d to %d is not possible", ids.First, ids.Last)
	}
	var uid int
	err := tx.scan(`SELECT min(c.uid) FROM (SELECT ? AS uid UNION SELECT uid + 1 FROM users WHERE uid >= ?) c
		WHERE NOT EXISTS (SELECT 1 FROM users u WHERE u.uid = c.uid)`, []any{ids.First, ids.First}, &uid)
	if err != nil {
		return dspool.User{}, wrap(err, "find a free uid")
	}
	if uid > ids.Last {
		if _, err := tx.User(name); err == nil {
			return dspool.User{}, userExists(name)
		}
		return dspool.User{}, dspool.Errorf(dspool.Unavailable, "all user ids from %d to %d have been given out", ids.First, ids.Last).
			WithHint("widen the range of user ids; ids of removed users are never given again")
	}
	u := dspool.User{Name: name, UID: uid, Admin: admin, Created: tx.now}
	_, err = tx.exec(`INSERT INTO users (`+userColumns+`) VALUES (?, ?, ?, ?)`, u.Name, u.UID, u.Admin, stored(u.Created))
	if unique(err) {
		return dspool.User{}, userExists(name)
	}
	return u, wrap(err, "add user %s", name)
}

func userExists(name string) error {
	return dspool.Errorf(dspool.Conflict, "user %s exists already", name)
}

// SetAdmin makes a user an administrator or no longer one; NotFound if there is no such user.
func (tx *Tx) SetAdmin(name string, admin bool) error {
	u, err := tx.User(name)
	if err != nil || u.Admin == admin {
		return err
	}
	_, err = tx.exec(`UPDATE users SET admin = ? WHERE uid = ?`, admin, u.UID)
	return wrap(err, "change user %s", name)
}

// RemoveUser removes a user and its tokens; its uid stays taken. NotFound if there is no such user.
func (tx *Tx) RemoveUser(name string) error {
	n, err := tx.exec(`UPDATE users SET removed = ? WHERE name = ? AND removed IS NULL`, stored(tx.now), name)
	if err == nil && n == 0 {
		return notFound("user", name)
	}
	if err == nil {
		_, err = tx.exec(`DELETE FROM tokens WHERE user_name = ?`, name)
	}
	return wrap(err, "remove user %s", name)
}
