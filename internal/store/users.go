package store

import "github.com/dspool/dspool"

// A condition on users u may follow.
const (
	userSelect  = `SELECT u.name, u.uid, u.admin, u.created, u.default_pool, u.password IS NOT NULL FROM users u WHERE u.removed IS NULL`
	groupsOfAll = `SELECT m.uid, g.name FROM members m JOIN groups g ON g.gid = m.gid JOIN users u ON u.uid = m.uid WHERE u.removed IS NULL`
)

func scanUser(r row, u *dspool.User) error {
	return r.Scan(&u.Name, &u.UID, &u.Admin, timeIn{&u.Created}, &u.DefaultPool, &u.HasPassword)
}

// users reads users in order of name, with their groups.
func (tx *Tx) users(where string, args ...any) ([]dspool.User, error) {
	us, err := list(tx, scanUser, userSelect+where+` ORDER BY u.name`, args...)
	if err != nil || len(us) == 0 {
		return us, err
	}
	groups := map[int][]string{}
	err = tx.each(groupsOfAll+where+` ORDER BY g.name`, args, func(r row) error {
		var uid int
		var group string
		err := r.Scan(&uid, &group)
		groups[uid] = append(groups[uid], group)
		return err
	})
	for i := range us {
		us[i].Groups = groups[us[i].UID]
	}
	return us, err
}

// Users returns the users that have not been removed, in order of name.
func (tx *Tx) Users() ([]dspool.User, error) {
	us, err := tx.users(``)
	return us, wrap(err, "list users")
}

// WasUser says whether a user of that name has been removed and none has it now.
func (tx *Tx) WasUser(name string) (bool, error) {
	n, _, err := one(tx, scanID, `SELECT COUNT(*) - 2 * COUNT(CASE WHEN removed IS NULL THEN 1 END) FROM users WHERE name = ?`, name)
	return n > 0, err
}

// User returns the user called name; NotFound if there is none, or if it was removed.
func (tx *Tx) User(name string) (dspool.User, error) {
	us, err := tx.users(` AND u.name = ?`, name)
	if err == nil && len(us) == 0 {
		return dspool.User{}, notFound("user", name)
	}
	if err != nil {
		return dspool.User{}, wrap(err, "read user %s", name)
	}
	return us[0], nil
}

// uid is the id of a user that has not been removed; NotFound if there is none.
func (tx *Tx) uid(name string) (int, error) {
	uid, found, err := one(tx, scanID, `SELECT uid FROM users WHERE name = ? AND removed IS NULL`, name)
	if err == nil && !found {
		err = notFound("user", name)
	}
	return uid, err
}

// AddUser adds a user with the lowest uid of ids that no user and no group has ever had, not even a
// removed user of the same name. It returns Conflict if the user, or a group of that name, exists,
// Unavailable when ids are used up and Invalid for a range that holds none or begins below 1.
func (tx *Tx) AddUser(name string, admin bool, ids dspool.UIDRange) (dspool.User, error) {
	if err := tx.freeName(name); err != nil {
		return dspool.User{}, err
	}
	uid, err := tx.freeID(ids)
	if err != nil {
		return dspool.User{}, err
	}
	u := dspool.User{Name: name, UID: uid, Admin: admin, Created: tx.now}
	_, err = tx.exec(`INSERT INTO users (name, uid, admin, created, event) VALUES (?, ?, ?, ?, ?)`, u.Name, u.UID, u.Admin, stored(u.Created), tx.last.event)
	return u, wrap(err, "add user %s", name)
}

// freeName returns Conflict if a user or a group has the name: on machines a user has a group of
// the same name, and no name may mean two ids.
func (tx *Tx) freeName(name string) error {
	noun, found, err := one(tx, func(r row, noun *string) error { return r.Scan(noun) },
		`SELECT 'user' FROM users WHERE name = ? AND removed IS NULL UNION ALL SELECT 'group' FROM groups WHERE name = ? AND removed IS NULL`, name, name)
	if found {
		return dspool.Errorf(dspool.Conflict, "%s %s exists already", noun, name)
	}
	return wrap(err, "find who is called %s", name)
}

// freeID returns the lowest id of a range that was never given to a user or a group.
func (tx *Tx) freeID(ids dspool.UIDRange) (id int, err error) {
	if ids.First < 1 || ids.Last < ids.First {
		return 0, dspool.Errorf(dspool.Invalid, "the range of user ids from %d to %d is not possible", ids.First, ids.Last)
	}
	err = tx.scan(`SELECT min(c.id) FROM (SELECT ? AS id UNION SELECT uid + 1 FROM users WHERE uid >= ? UNION SELECT gid + 1 FROM groups WHERE gid >= ?) c
		WHERE NOT EXISTS (SELECT 1 FROM users u WHERE u.uid = c.id) AND NOT EXISTS (SELECT 1 FROM groups g WHERE g.gid = c.id)`,
		[]any{ids.First, ids.First, ids.First}, &id)
	if err == nil && id > ids.Last {
		return 0, dspool.Errorf(dspool.Unavailable, "all user ids from %d to %d have been given out", ids.First, ids.Last).
			WithHint("widen the range of user ids; ids of removed users and groups are never given again")
	}
	return id, wrap(err, "find a free id")
}

// SetAdmin makes a user an administrator or no longer one; NotFound if there is no such user.
func (tx *Tx) SetAdmin(name string, admin bool) error {
	return tx.setUser(name, `UPDATE users SET admin = ? WHERE uid = ? AND admin <> ?`, admin, admin)
}

// SetDefaultPool says where a user's logins land that name no pool; "" is where the door says.
// NotFound if there is no such user.
func (tx *Tx) SetDefaultPool(name, pool string) error {
	return tx.setUser(name, `UPDATE users SET default_pool = ? WHERE uid = ? AND default_pool <> ?`, pool, pool)
}

// SetPassword keeps the hash of a user's password; "" removes it. NotFound if there is no such user.
func (tx *Tx) SetPassword(name, hash string) error {
	return tx.setUser(name, `UPDATE users SET password = ? WHERE uid = ? AND coalesce(password, '') <> ?`, text(hash), hash)
}

// setUser changes a column of a user from what is not old.
func (tx *Tx) setUser(name, update string, value, old any) error {
	uid, err := tx.uid(name)
	if err == nil {
		_, err = tx.exec(update, value, uid, old)
	}
	return wrap(err, "change user %s", name)
}

// SetOIDC says who a user is to an OpenID provider: the subject that its issuer gives, which it never
// gives another (OpenID Connect Core 1.0, section 5.7). Both empty is nobody. Conflict if another user
// has them, Invalid if one of the two is missing, NotFound if there is no such user.
func (tx *Tx) SetOIDC(name, issuer, subject string) error {
	if (issuer == "") != (subject == "") {
		return dspool.Errorf(dspool.Invalid, "an OpenID subject and its issuer go together")
	}
	uid, err := tx.uid(name)
	if err == nil {
		_, err = tx.exec(`UPDATE users SET oidc_issuer = ?, oidc_subject = ? WHERE uid = ? AND (coalesce(oidc_issuer, '') <> ? OR coalesce(oidc_subject, '') <> ?)`,
			text(issuer), text(subject), uid, issuer, subject)
	}
	if unique(err) {
		return dspool.Errorf(dspool.Conflict, "another user has this OpenID subject")
	}
	return wrap(err, "change user %s", name)
}

// OIDC returns who a user is to an OpenID provider; empty if nobody. NotFound if there is no such user.
func (tx *Tx) OIDC(name string) (issuer, subject string, err error) {
	id, found, err := one(tx, func(r row, id *[2]string) error { return r.Scan(textIn{&id[0]}, textIn{&id[1]}) },
		`SELECT oidc_issuer, oidc_subject FROM users WHERE name = ? AND removed IS NULL`, name)
	if err == nil && !found {
		return "", "", notFound("user", name)
	}
	return id[0], id[1], wrap(err, "read OpenID subject of user %s", name)
}

// UserByOIDC returns the user who has an OpenID subject of an issuer; NotFound if nobody has, or the
// subject is empty.
func (tx *Tx) UserByOIDC(issuer, subject string) (dspool.User, error) {
	us, err := tx.users(` AND u.oidc_issuer = ? AND u.oidc_subject = ?`, issuer, subject)
	if err == nil && (len(us) == 0 || subject == "") {
		return dspool.User{}, dspool.Errorf(dspool.NotFound, "no user has this OpenID subject")
	}
	if err != nil {
		return dspool.User{}, wrap(err, "find the user of an OpenID subject")
	}
	return us[0], nil
}

// PasswordHash returns the hash of a user's password; "" if there is none. NotFound if there is no such user.
func (tx *Tx) PasswordHash(name string) (string, error) {
	hash, found, err := one(tx, func(r row, hash *string) error { return r.Scan(textIn{hash}) },
		`SELECT password FROM users WHERE name = ? AND removed IS NULL`, name)
	if err == nil && !found {
		return "", notFound("user", name)
	}
	return hash, wrap(err, "read password of user %s", name)
}

// RemoveUser removes a user with tokens, keys, password, OpenID subject and memberships; the uid stays taken. NotFound
// if there is no such user.
func (tx *Tx) RemoveUser(name string) error {
	uid, err := tx.uid(name)
	if err == nil {
		_, err = tx.exec(`UPDATE users SET removed = ?, password = NULL, oidc_issuer = NULL, oidc_subject = NULL WHERE uid = ?`, stored(tx.now), uid)
	}
	if err == nil {
		_, err = tx.exec(`DELETE FROM tokens WHERE user_name = ?`, name)
	}
	if err == nil {
		_, err = tx.exec(`DELETE FROM user_keys WHERE user_name = ?`, name)
	}
	if err == nil {
		_, err = tx.exec(`DELETE FROM members WHERE uid = ?`, uid)
	}
	return wrap(err, "remove user %s", name)
}
