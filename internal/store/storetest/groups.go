package storetest

import (
	"testing"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/store"
)

func addGroup(t *testing.T, s *store.Store, name string) (g dspool.Group) {
	t.Helper()
	write(t, s, func(tx *store.Tx) (err error) {
		g, err = tx.AddGroup(name, ids)
		return err
	})
	return g
}

func join(t *testing.T, s *store.Store, group string, users ...string) {
	t.Helper()
	for _, u := range users {
		write(t, s, func(tx *store.Tx) error { return tx.AddMember(group, u) })
	}
}

func group(t *testing.T, s *store.Store, name string) dspool.Group {
	t.Helper()
	return get(t, s, func(tx *store.Tx) (dspool.Group, error) { return tx.Group(name) })
}

var groups = []check{
	{"groups and users draw their ids from one range, and none is given again", func(t *testing.T, s *store.Store) {
		same(t, addUser(t, s, "ann").UID, 20000)
		same(t, addGroup(t, s, "ml").GID, 20001)
		same(t, addUser(t, s, "bob").UID, 20002)
		write(t, s, func(tx *store.Tx) error { return tx.RemoveGroup("ml") })
		missing(t, s, func(tx *store.Tx) error { _, err := tx.Group("ml"); return err })
		same(t, addGroup(t, s, "ml").GID, 20003)
		write(t, s, func(tx *store.Tx) error { return tx.RemoveUser("ann") })
		refused(t, s, dspool.Unavailable, func(tx *store.Tx) error { _, err := tx.AddGroup("x", ids); return err })
		refused(t, s, dspool.Unavailable, func(tx *store.Tx) error { _, err := tx.AddUser("x", false, ids); return err })
		refused(t, s, dspool.Invalid, func(tx *store.Tx) error { _, err := tx.AddGroup("x", dspool.UIDRange{}); return err })
	}},
	{"groups list their members and users their groups, in order of name", func(t *testing.T, s *store.Store) {
		for _, name := range []string{"bob", "ann"} {
			addUser(t, s, name)
		}
		z, ml := addGroup(t, s, "z"), addGroup(t, s, "ml")
		join(t, s, "ml", "bob", "ann", "bob")
		join(t, s, "z", "ann")
		ml.Members, z.Members = []string{"ann", "bob"}, []string{"ann"}
		same(t, get(t, s, (*store.Tx).Groups), []dspool.Group{ml, z})
		same(t, group(t, s, "ml"), ml)
		us := get(t, s, (*store.Tx).Users)
		same(t, us[0].Groups, []string{"ml", "z"})
		same(t, us[1].Groups, []string{"ml"})
		same(t, get(t, s, func(tx *store.Tx) (dspool.User, error) { return tx.User("ann") }), us[0])

		for range 2 {
			write(t, s, func(tx *store.Tx) error { return tx.RemoveMember("ml", "ann") })
			same(t, group(t, s, "ml").Members, []string{"bob"})
		}
		write(t, s, func(tx *store.Tx) error { return tx.RemoveGroup("ml") })
		same(t, get(t, s, func(tx *store.Tx) (dspool.User, error) { return tx.User("bob") }).Groups, nil)
	}},
	{"a name that comes again brings no memberships", func(t *testing.T, s *store.Store) {
		addUser(t, s, "ann")
		addGroup(t, s, "ml")
		join(t, s, "ml", "ann")
		write(t, s, func(tx *store.Tx) error { return tx.RemoveUser("ann") })
		same(t, group(t, s, "ml").Members, nil)
		addUser(t, s, "ann")
		same(t, group(t, s, "ml").Members, nil)
		join(t, s, "ml", "ann")
		write(t, s, func(tx *store.Tx) error { return tx.RemoveGroup("ml") })
		if g := addGroup(t, s, "ml"); g.GID != 20003 || len(g.Members) != 0 {
			t.Errorf("got %+v", g)
		}
		same(t, group(t, s, "ml").Members, nil)
	}},
	{"a name is one user's or one group's", func(t *testing.T, s *store.Store) {
		addUser(t, s, "ann")
		addGroup(t, s, "ml")
		for _, name := range []string{"ann", "ml"} {
			refused(t, s, dspool.Conflict, func(tx *store.Tx) error { _, err := tx.AddGroup(name, ids); return err })
			refused(t, s, dspool.Conflict, func(tx *store.Tx) error { _, err := tx.AddUser(name, false, ids); return err })
		}
		write(t, s, func(tx *store.Tx) error { return tx.RemoveUser("ann") })
		addGroup(t, s, "ann")
	}},
	{"memberships need a user and a group", func(t *testing.T, s *store.Store) {
		addUser(t, s, "ann")
		addGroup(t, s, "ml")
		for _, c := range [][2]string{{"ml", "bob"}, {"no", "ann"}, {"ann", "ml"}} {
			refused(t, s, dspool.NotFound, func(tx *store.Tx) error { return tx.AddMember(c[0], c[1]) })
			refused(t, s, dspool.NotFound, func(tx *store.Tx) error { return tx.RemoveMember(c[0], c[1]) })
		}
		refused(t, s, dspool.NotFound, func(tx *store.Tx) error { return tx.RemoveGroup("ann") })
	}},
}
