package store

import "errors"

// Setting returns what the server keeps under name; "" if nothing.
func (tx *Tx) Setting(name string) (string, error) {
	var v string
	err := tx.scan(`SELECT value FROM settings WHERE name = ?`, []any{name}, &v)
	if errors.Is(err, errNoRow) {
		return "", nil
	}
	return v, wrap(err, "read setting %s", name)
}

// SetSetting keeps value under name.
func (tx *Tx) SetSetting(name, value string) error {
	_, err := tx.exec(`INSERT INTO settings (name, value) VALUES (?, ?)
		ON CONFLICT (name) DO UPDATE SET value = excluded.value WHERE settings.value <> excluded.value`, name, value)
	return wrap(err, "write setting %s", name)
}
