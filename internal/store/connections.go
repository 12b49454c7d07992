package store

import "github.com/dspool/dspool"

const connectionColumns = `id, session, user_name, protocol, peer, auth, login, bytes_in, bytes_out, started, ended`

func scanConnection(r row, c *dspool.Connection) error {
	return r.Scan(&c.ID, &c.Session, &c.User, &c.Protocol, &c.From, &c.Auth, &c.Login, &c.BytesIn, &c.BytesOut, timeIn{&c.Started}, maybeIn{&c.Ended})
}

// AddConnection adds a connection of a session, begun now unless it says otherwise. NotFound if there
// is no such session, Conflict if the identifier was used before.
func (tx *Tx) AddConnection(c dspool.Connection) error {
	if _, err := tx.Session(c.Session); err != nil {
		return err
	}
	if c.Started.IsZero() {
		c.Started = tx.now
	}
	_, err := tx.exec(`INSERT INTO connections (`+connectionColumns+`) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		c.ID, c.Session, c.User, string(c.Protocol), c.From, c.Auth, c.Login, c.BytesIn, c.BytesOut, stored(c.Started), micros(c.Ended))
	if unique(err) {
		return dspool.Errorf(dspool.Conflict, "connection %s exists already, or did", dspool.Quote(c.ID))
	}
	return wrap(err, "add connection to session %d", c.Session)
}

// Connection returns a connection, also one that has ended; NotFound if there is none.
func (tx *Tx) Connection(id string) (dspool.Connection, error) {
	c, found, err := one(tx, scanConnection, `SELECT `+connectionColumns+` FROM connections WHERE id = ?`, id)
	if err == nil && !found {
		return c, notFound("connection", id)
	}
	return c, wrap(err, "read connection %s", dspool.Quote(id))
}

// UpdateConnections writes how many bytes connections have carried and when they ended; nothing else
// of them is read. Reports may come twice, late or for connections that the state does not know:
// bytes never go down, the first end stays, unknown ones are passed over.
func (tx *Tx) UpdateConnections(cs []dspool.Connection) error {
	for i := range cs {
		c := &cs[i]
		ended := micros(c.Ended)
		_, err := tx.exec(`UPDATE connections SET bytes_in = CASE WHEN bytes_in < ? THEN ? ELSE bytes_in END,
				bytes_out = CASE WHEN bytes_out < ? THEN ? ELSE bytes_out END, ended = coalesce(ended, ?)
			WHERE id = ? AND (bytes_in < ? OR bytes_out < ? OR ended IS NULL AND ? IS NOT NULL)`,
			c.BytesIn, c.BytesIn, c.BytesOut, c.BytesOut, ended, c.ID, c.BytesIn, c.BytesOut, ended)
		if err != nil {
			return wrap(err, "update connection %s", dspool.Quote(c.ID))
		}
	}
	return nil
}

// OpenConnections returns the connections of a session that have not ended, or those of all sessions
// if session is 0, oldest first.
func (tx *Tx) OpenConnections(session int64) ([]dspool.Connection, error) {
	where, args := ``, []any(nil)
	if session != 0 {
		where, args = ` AND session = ?`, []any{session}
	}
	out, err := list(tx, scanConnection, `SELECT `+connectionColumns+` FROM connections WHERE ended IS NULL`+where+` ORDER BY +rowid`, args...)
	return out, wrap(err, "list open connections")
}
