package storetest

import (
	"testing"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/store"
)

var certificates = []check{
	{"a serial is never given twice, also by a transaction that does nothing else", func(t *testing.T, s *store.Store) {
		for want := uint64(1); want < 6; want += 2 {
			write(t, s, func(tx *store.Tx) error {
				for i := range uint64(2) {
					got, err := tx.NextSerial()
					if err != nil {
						return err
					}
					same(t, got, want+i)
				}
				return nil
			})
		}
		err := s.Read(t.Context(), func(tx *store.Tx) error { _, err := tx.NextSerial(); return err })
		if err == nil {
			t.Error("a read could take one")
		}
	}},
	{"what is revoked stays so, with its first reason", func(t *testing.T, s *store.Store) {
		revoke := func(kind store.RevocationKind, value, why string) func(*store.Tx) error {
			return func(tx *store.Tx) error { return tx.AddRevocation(kind, value, why) }
		}
		write(t, s, revoke(store.RevokedSerial, "7", "lost laptop"))
		write(t, s, revoke(store.RevokedKey, "SHA256:a", ""))
		write(t, s, revoke(store.RevokedAuthority, "SHA256:a", "leaked"))
		write(t, s, revoke(store.RevokedSerial, "7", "again"))
		write(t, s, revoke(store.RevokedSerial, "18446744073709551615", ""))
		write(t, s, revoke(store.RevokedForeign, "SHA256:a 7", ""))
		var got []store.Revocation
		for _, r := range get(t, s, (*store.Tx).Revocations) {
			if r.Added.IsZero() {
				t.Errorf("%v says not when", r)
			}
			got = append(got, store.Revocation{Kind: r.Kind, Value: r.Value, Why: r.Why})
		}
		same(t, got, []store.Revocation{{Kind: "serial", Value: "7", Why: "lost laptop"}, {Kind: "key", Value: "SHA256:a"},
			{Kind: "authority", Value: "SHA256:a", Why: "leaked"}, {Kind: "serial", Value: "18446744073709551615"}, {Kind: "foreign", Value: "SHA256:a 7"}})
		for _, c := range [][2]string{{"", "7"}, {"user", "ann"}, {"key", ""}, {"serial", ""}, {"serial", "07"}, {"serial", "-1"},
			{"serial", "0x7"}, {"serial", "18446744073709551616"}, {"foreign", "7"}, {"foreign", "SHA256:a"}, {"foreign", " 7"}, {"foreign", "SHA256:a 07"}} {
			refused(t, s, dspool.Invalid, revoke(store.RevocationKind(c[0]), c[1], "x"))
		}
	}},
}
