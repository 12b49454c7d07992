package store

import (
	"encoding/json"
	"fmt"
)

// A document is a noun of the configuration, kept whole in its JSON form: there are few, and
// their fields may grow without a migration.
type documents[T any] struct{ noun, table string }

func (d documents[T]) list(tx *Tx) ([]T, error) {
	out, err := list(tx, scanDocument[T], `SELECT body FROM `+d.table+` ORDER BY name`)
	return out, wrap(err, "list %s", d.table)
}

func (d documents[T]) one(tx *Tx, name string) (T, error) {
	v, found, err := one(tx, scanDocument[T], `SELECT body FROM `+d.table+` WHERE name = ?`, name)
	if err == nil && !found {
		return v, notFound(d.noun, name)
	}
	return v, wrap(err, "read %s %s", d.noun, name)
}

func (d documents[T]) put(tx *Tx, name string, v T) error {
	body, err := json.Marshal(v)
	if err == nil {
		_, err = tx.exec(`INSERT INTO `+d.table+` (name, body) VALUES (?, ?)
			ON CONFLICT (name) DO UPDATE SET body = excluded.body WHERE `+d.table+`.body <> excluded.body`, name, string(body))
	}
	return wrap(err, "write %s %s", d.noun, name)
}

func (d documents[T]) delete(tx *Tx, name string) error {
	_, err := tx.exec(`DELETE FROM `+d.table+` WHERE name = ?`, name)
	return wrap(err, "delete %s %s", d.noun, name)
}

func scanDocument[T any](r row, v *T) error {
	var body string
	if err := r.Scan(&body); err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(body), v); err != nil {
		return fmt.Errorf("read stored form: %w", err)
	}
	return nil
}
