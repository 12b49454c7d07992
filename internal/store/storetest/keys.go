package storetest

import (
	"testing"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/store"
)

func addKey(t *testing.T, s *store.Store, k dspool.UserKey) dspool.UserKey {
	t.Helper()
	write(t, s, func(tx *store.Tx) error { return tx.AddUserKey(k) })
	return k
}

var keys = []check{
	{"keys come back by user, and several users may have the same one", func(t *testing.T, s *store.Store) {
		addUser(t, s, "ann")
		addUser(t, s, "bob")
		shared := addKey(t, s, dspool.UserKey{Fingerprint: "SHA256:b", User: "bob", Key: "ssh-ed25519 AAAAb", Added: at(1)})
		late := addKey(t, s, dspool.UserKey{Fingerprint: "SHA256:a", User: "ann", Key: "ssh-ed25519 AAAAa", Comment: "ann@laptop", Added: at(3)})
		early := shared
		early.User, early.Added = "ann", at(2)
		addKey(t, s, early)
		list := func(user string) []dspool.UserKey {
			return get(t, s, func(tx *store.Tx) ([]dspool.UserKey, error) { return tx.UserKeys(user) })
		}
		same(t, list("ann"), []dspool.UserKey{early, late})
		same(t, list(""), []dspool.UserKey{early, late, shared})
		same(t, list("cyd"), nil)
		same(t, get(t, s, func(tx *store.Tx) (dspool.UserKey, error) { return tx.UserKey("ann", "SHA256:a") }), late)
		missing(t, s, func(tx *store.Tx) error { _, err := tx.UserKey("bob", "SHA256:a"); return err })

		refused(t, s, dspool.Conflict, func(tx *store.Tx) error { return tx.AddUserKey(early) })
		refused(t, s, dspool.NotFound, func(tx *store.Tx) error { return tx.AddUserKey(dspool.UserKey{User: "cyd", Fingerprint: "SHA256:c"}) })
		write(t, s, func(tx *store.Tx) error { return tx.DeleteUserKey("ann", shared.Fingerprint) })
		refused(t, s, dspool.NotFound, func(tx *store.Tx) error { return tx.DeleteUserKey("ann", shared.Fingerprint) })
		same(t, list(""), []dspool.UserKey{late, shared})
	}},
	{"a password and a default pool are kept and taken back", func(t *testing.T, s *store.Store) {
		addUser(t, s, "ann")
		ann := func() dspool.User {
			return get(t, s, func(tx *store.Tx) (dspool.User, error) { return tx.User("ann") })
		}
		hash := func(name string) func(tx *store.Tx) (string, error) {
			return func(tx *store.Tx) (string, error) { return tx.PasswordHash(name) }
		}
		for _, v := range []string{"", "$argon2id$1", "$argon2id$2", ""} {
			write(t, s, func(tx *store.Tx) error { return tx.SetPassword("ann", v) })
			same(t, get(t, s, hash("ann")), v)
			same(t, ann().HasPassword, v != "")
		}
		for _, v := range []string{"lab", "lab", "big", ""} {
			write(t, s, func(tx *store.Tx) error { return tx.SetDefaultPool("ann", v) })
			same(t, ann().DefaultPool, v)
		}
		missing(t, s, func(tx *store.Tx) error { _, err := tx.PasswordHash("bob"); return err })
		refused(t, s, dspool.NotFound, func(tx *store.Tx) error { return tx.SetPassword("bob", "x") })
		refused(t, s, dspool.NotFound, func(tx *store.Tx) error { return tx.SetDefaultPool("bob", "lab") })
	}},
	{"nothing lets a removed user in, nor the next of the name", func(t *testing.T, s *store.Store) {
		addUser(t, s, "ann")
		addUser(t, s, "bob")
		addKey(t, s, dspool.UserKey{Fingerprint: "SHA256:a", User: "ann"})
		kept := addKey(t, s, dspool.UserKey{Fingerprint: "SHA256:a", User: "bob", Added: at(1)})
		write(t, s, func(tx *store.Tx) error { return tx.SetPassword("ann", "x") })
		write(t, s, func(tx *store.Tx) error { return tx.SetDefaultPool("ann", "lab") })
		write(t, s, func(tx *store.Tx) error { return tx.RemoveUser("ann") })
		missing(t, s, func(tx *store.Tx) error { _, err := tx.UserKey("ann", "SHA256:a"); return err })
		missing(t, s, func(tx *store.Tx) error { _, err := tx.PasswordHash("ann"); return err })
		same(t, get(t, s, func(tx *store.Tx) ([]dspool.UserKey, error) { return tx.UserKeys("") }), []dspool.UserKey{kept})
		again := addUser(t, s, "ann")
		same(t, get(t, s, func(tx *store.Tx) (dspool.User, error) { return tx.User("ann") }), again)
		same(t, again.HasPassword || again.DefaultPool != "", false)
		same(t, get(t, s, func(tx *store.Tx) (string, error) { return tx.PasswordHash("ann") }), "")
	}},
}
