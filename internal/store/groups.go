package store

import "github.com/dspool/dspool"

// Groups returns the groups that have not been removed, in order of name, with their members in
// order of name.
func (tx *Tx) Groups() ([]dspool.Group, error) {
	gs, err := tx.groups(``)
	return gs, wrap(err, "list groups")
}

// Group returns the group called name with its members; NotFound if there is none, or if it was removed.
func (tx *Tx) Group(name string) (dspool.Group, error) {
	gs, err := tx.groups(` AND g.name = ?`, name)
	if err == nil && len(gs) == 0 {
		return dspool.Group{}, notFound("group", name)
	}
	if err != nil {
		return dspool.Group{}, wrap(err, "read group %s", name)
	}
	return gs[0], nil
}

// groups reads groups, a row for every member and one for a group that has none.
func (tx *Tx) groups(where string, args ...any) ([]dspool.Group, error) {
	var out []dspool.Group
	err := tx.each(`SELECT g.name, g.gid, g.created, u.name FROM groups g LEFT JOIN members m ON m.gid = g.gid LEFT JOIN users u ON u.uid = m.uid
		WHERE g.removed IS NULL`+where+` ORDER BY g.name, u.name`, args, func(r row) error {
		var g dspool.Group
		var member string
		if err := r.Scan(&g.Name, &g.GID, timeIn{&g.Created}, textIn{&member}); err != nil {
			return err
		}
		if n := len(out); n == 0 || out[n-1].GID != g.GID {
			g.Members = []string{} // a list, also in JSON
			out = append(out, g)
		}
		if last := &out[len(out)-1]; member != "" {
			last.Members = append(last.Members, member)
		}
		return nil
	})
	return out, err
}

// AddGroup adds a group with the lowest id of ids that no user and no group has ever had. It returns
// Conflict if the group, or a user of that name, exists: a user has a group of the same name.
// Otherwise its errors are those of [Tx.AddUser].
func (tx *Tx) AddGroup(name string, ids dspool.UIDRange) (dspool.Group, error) {
	if err := tx.freeName(name); err != nil {
		return dspool.Group{}, err
	}
	gid, err := tx.freeID(ids)
	if err != nil {
		return dspool.Group{}, err
	}
	g := dspool.Group{Name: name, GID: gid, Members: []string{}, Created: tx.now}
	_, err = tx.exec(`INSERT INTO groups (gid, name, created) VALUES (?, ?, ?)`, g.GID, g.Name, stored(g.Created))
	return g, wrap(err, "add group %s", name)
}

// RemoveGroup removes a group, whoever is in it; its gid stays taken. NotFound if there is no such group.
func (tx *Tx) RemoveGroup(name string) error {
	gid, err := tx.gid(name)
	if err == nil {
		_, err = tx.exec(`UPDATE groups SET removed = ? WHERE gid = ?`, stored(tx.now), gid)
	}
	if err == nil {
		_, err = tx.exec(`DELETE FROM members WHERE gid = ?`, gid)
	}
	return wrap(err, "remove group %s", name)
}

// AddMember makes sure that user is in group; NotFound if there is no such user or group.
func (tx *Tx) AddMember(group, user string) error {
	return tx.member(`INSERT INTO members (gid, uid) VALUES (?, ?) ON CONFLICT DO NOTHING`, "add", group, user)
}

// RemoveMember makes sure that user is not in group; NotFound if there is no such user or group.
func (tx *Tx) RemoveMember(group, user string) error {
	return tx.member(`DELETE FROM members WHERE gid = ? AND uid = ?`, "remove", group, user)
}

func (tx *Tx) member(statement, verb, group, user string) error {
	gid, err := tx.gid(group)
	if err != nil {
		return err
	}
	uid, err := tx.uid(user)
	if err == nil {
		_, err = tx.exec(statement, gid, uid)
	}
	return wrap(err, "%s member %s of group %s", verb, user, group)
}

func (tx *Tx) gid(group string) (int, error) {
	gid, found, err := one(tx, scanID, `SELECT gid FROM groups WHERE name = ? AND removed IS NULL`, group)
	if err == nil && !found {
		err = notFound("group", group)
	}
	return gid, err
}

func scanID(r row, id *int) error { return r.Scan(id) }
