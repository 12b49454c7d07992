package store

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dspool/dspool"
)

// NextSerial gives the next serial number for a certificate: 1, 2, 3 and so on; no number is given
// twice. It counts from the moment Write returns nil.
func (tx *Tx) NextSerial() (uint64, error) {
	if !tx.write {
		return 0, errReadOnly
	}
	tx.last.serial++
	tx.dirty = true
	return uint64(tx.last.serial), nil
}

// RevocationKind is what a revocation names.
type RevocationKind string

const (
	RevokedSerial    RevocationKind = "serial"    // a certificate of the pool's own authority, by its number in decimal
	RevokedForeign   RevocationKind = "foreign"   // one of another authority: fingerprint of its key, a space, the number
	RevokedKey       RevocationKind = "key"       // a key and every certificate for it, by its fingerprint
	RevokedAuthority RevocationKind = "authority" // all that an authority signed, by its key's fingerprint
)

var revocationKinds = []RevocationKind{RevokedSerial, RevokedForeign, RevokedKey, RevokedAuthority}

// Revocation is a certificate, key or authority that does not count any more.
type Revocation struct {
	Kind  RevocationKind
	Value string
	Why   string
	Added time.Time
}

// AddRevocation revokes something for ever; what was revoked before stays as it was. Invalid for what
// could never be met: another kind, an empty value, a serial that is not a number as it is printed.
func (tx *Tx) AddRevocation(kind RevocationKind, value, why string) error {
	if !slices.Contains(revocationKinds, kind) {
		return dspool.Errorf(dspool.Invalid, "%s cannot be revoked", dspool.Quote(string(kind))).WithHint("revoke a serial, a key or an authority")
	}
	authority, serial, two := strings.Cut(value, " ")
	if kind == RevokedForeign && (!two || authority == "") {
		return dspool.Errorf(dspool.Invalid, "the authority of certificate %s is not named", dspool.Quote(value)).WithHint("give the fingerprint of its key")
	} else if kind == RevokedSerial {
		serial = value
	}
	if n, err := strconv.ParseUint(serial, 10, 64); (kind == RevokedSerial || kind == RevokedForeign) && (err != nil || strconv.FormatUint(n, 10) != serial) {
		return dspool.Errorf(dspool.Invalid, "serial %s is not a number", dspool.Quote(value)).WithHint("ssh-keygen -L shows a certificate's")
	}
	if value == "" {
		return dspool.Errorf(dspool.Invalid, "the %s to be revoked is not named", kind).WithHint("give its fingerprint")
	}
	_, err := tx.exec(`INSERT INTO revocations (kind, value, why, added) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING`,
		string(kind), value, why, stored(tx.now))
	return wrap(err, "revoke %s %s", kind, value)
}

// Revocations returns everything that was revoked, oldest first.
func (tx *Tx) Revocations() ([]Revocation, error) {
	out, err := list(tx, func(r row, v *Revocation) error {
		return r.Scan(&v.Kind, &v.Value, &v.Why, timeIn{&v.Added})
	}, `SELECT kind, value, why, added FROM revocations ORDER BY added, kind, value`)
	return out, wrap(err, "list revocations")
}
