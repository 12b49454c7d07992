package store

import (
	"errors"

	"github.com/dspool/dspool"
)

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

// Note returns why a pool does not grow when it should; none if it may.
func (tx *Tx) Note(pool string) (r dspool.Reason, err error) {
	text, err := tx.Setting(noteSetting(pool))
	if err == nil {
		err = reasonIn{&r}.Scan(text)
	}
	return r, err
}

// SetNote keeps why a pool does not grow when it should.
func (tx *Tx) SetNote(pool string, r dspool.Reason) error {
	return tx.SetSetting(noteSetting(pool), reason(r))
}

func noteSetting(pool string) string { return "note." + pool }
