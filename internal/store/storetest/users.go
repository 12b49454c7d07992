package storetest

import (
	"testing"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/store"
)

var ids = dspool.UIDRange{First: 20000, Last: 20003}

func addUser(t *testing.T, s *store.Store, name string) (u dspool.User) {
	t.Helper()
	write(t, s, func(tx *store.Tx) (err error) {
		u, err = tx.AddUser(name, false, ids)
		return err
	})
	return u
}

var users = []check{
	{"users get the lowest ids in turn and come back", func(t *testing.T, s *store.Store) {
		bob, ann := addUser(t, s, "bob"), addUser(t, s, "ann")
		if bob.UID != 20000 || ann.UID != 20001 || ann.Created.IsZero() {
			t.Errorf("got %+v and %+v", bob, ann)
		}
		same(t, get(t, s, (*store.Tx).Users), []dspool.User{ann, bob})
		same(t, get(t, s, func(tx *store.Tx) (dspool.User, error) { return tx.User("ann") }), ann)
		missing(t, s, func(tx *store.Tx) error { _, err := tx.User("Ann"); return err })
	}},
	{"an id is never given again, not even to a removed user's name", func(t *testing.T, s *store.Store) {
		addUser(t, s, "ann")
		for want := 20001; want <= 20003; want++ {
			write(t, s, func(tx *store.Tx) error { return tx.RemoveUser("ann") })
			missing(t, s, func(tx *store.Tx) error { _, err := tx.User("ann"); return err })
			if u := addUser(t, s, "ann"); u.UID != want {
				t.Errorf("uid is %d, want %d", u.UID, want)
			}
		}
		write(t, s, func(tx *store.Tx) error { return tx.RemoveUser("ann") })
		refused(t, s, dspool.Unavailable, func(tx *store.Tx) error { _, err := tx.AddUser("ann", false, ids); return err })
		same(t, get(t, s, (*store.Tx).Users), []dspool.User(nil))
	}},
	{"a range that was moved is filled from its own beginning", func(t *testing.T, s *store.Store) {
		addUser(t, s, "ann")
		for _, c := range []struct {
			name  string
			first int
			want  int
		}{{"b", 30000, 30000}, {"c", 19999, 19999}, {"d", 19999, 20001}, {"e", 30000, 30001}} {
			write(t, s, func(tx *store.Tx) error {
				u, err := tx.AddUser(c.name, false, dspool.UIDRange{First: c.first, Last: c.first + 10})
				if u.UID != c.want {
					t.Errorf("%s has uid %d, want %d", c.name, u.UID, c.want)
				}
				return err
			})
		}
	}},
	{"a user that exists is a conflict, also when ids are used up", func(t *testing.T, s *store.Store) {
		for _, name := range []string{"a", "b", "c", "d"} {
			addUser(t, s, name)
			refused(t, s, dspool.Conflict, func(tx *store.Tx) error { _, err := tx.AddUser("a", true, ids); return err })
		}
		refused(t, s, dspool.Unavailable, func(tx *store.Tx) error { _, err := tx.AddUser("e", true, ids); return err })
	}},
	{"a range that holds nobody, or root, is refused", func(t *testing.T, s *store.Store) {
		for _, r := range []dspool.UIDRange{{}, {First: 0, Last: 10}, {First: -1, Last: 5}, {First: 10, Last: 9}} {
			refused(t, s, dspool.Invalid, func(tx *store.Tx) error { _, err := tx.AddUser("a", false, r); return err })
		}
	}},
	{"a user becomes administrator and ceases to be", func(t *testing.T, s *store.Store) {
		addUser(t, s, "ann")
		for _, admin := range []bool{true, true, false} {
			write(t, s, func(tx *store.Tx) error { return tx.SetAdmin("ann", admin) })
			same(t, get(t, s, func(tx *store.Tx) (dspool.User, error) { return tx.User("ann") }).Admin, admin)
		}
		refused(t, s, dspool.NotFound, func(tx *store.Tx) error { return tx.SetAdmin("bob", true) })
		refused(t, s, dspool.NotFound, func(tx *store.Tx) error { return tx.RemoveUser("bob") })
	}},
	{"a token is found by its hash and its identifier and ends with its user", func(t *testing.T, s *store.Store) {
		addUser(t, s, "ann")
		addUser(t, s, "bob")
		a := store.TokenRow{Token: dspool.Token{ID: "t1", User: "ann", Name: "laptop", Created: at(1), Expires: ptr(at(9))}, Kind: store.TokenWeb}
		b := store.TokenRow{Token: dspool.Token{ID: "t0", User: "bob", Created: at(2)}}
		write(t, s, func(tx *store.Tx) error {
			if err := tx.AddToken(a, "ha"); err != nil {
				return err
			}
			return tx.AddToken(b, "hb")
		})
		same(t, get(t, s, func(tx *store.Tx) ([]store.TokenRow, error) { return tx.Tokens("") }), []store.TokenRow{a, b})
		same(t, get(t, s, func(tx *store.Tx) ([]store.TokenRow, error) { return tx.Tokens("bob") }), []store.TokenRow{b})
		same(t, get(t, s, func(tx *store.Tx) (store.TokenRow, error) { return tx.TokenByHash("ha") }), a)
		missing(t, s, func(tx *store.Tx) error { _, err := tx.TokenByHash("h"); return err })
		missing(t, s, func(tx *store.Tx) error { _, err := tx.TokenByHash(""); return err })
		a.Used = ptr(at(5))
		write(t, s, func(tx *store.Tx) error { return tx.TouchToken("t1", at(5)) })
		same(t, get(t, s, func(tx *store.Tx) (store.TokenRow, error) { return tx.Token("t1") }), a)
		write(t, s, func(tx *store.Tx) error { return tx.DeleteToken("t0") })
		missing(t, s, func(tx *store.Tx) error { _, err := tx.Token("t0"); return err })
		refused(t, s, dspool.NotFound, func(tx *store.Tx) error { return tx.DeleteToken("t0") })
		write(t, s, func(tx *store.Tx) error { return tx.TouchToken("t0", at(6)) })
		write(t, s, func(tx *store.Tx) error { return tx.RemoveUser("ann") })
		missing(t, s, func(tx *store.Tx) error { _, err := tx.TokenByHash("ha"); return err })
	}},
	{"a token ends with the one that it was made by", func(t *testing.T, s *store.Store) {
		addUser(t, s, "ann")
		write(t, s, func(tx *store.Tx) error {
			for _, p := range [][2]string{{"a", ""}, {"b", "a"}, {"c", "b"}, {"d", ""}} {
				if err := tx.AddToken(store.TokenRow{Token: dspool.Token{ID: p[0], User: "ann", Created: at(1)}, Parent: p[1]}, p[0]); err != nil {
					return err
				}
			}
			return nil
		})
		write(t, s, func(tx *store.Tx) error { return tx.DeleteToken("a") })
		same(t, get(t, s, func(tx *store.Tx) ([]store.TokenRow, error) { return tx.Tokens("ann") }),
			[]store.TokenRow{{Token: dspool.Token{ID: "d", User: "ann", Created: at(1)}}})
	}},
	{"a token needs a user, and its identifier and hash are its own", func(t *testing.T, s *store.Store) {
		addUser(t, s, "ann")
		write(t, s, func(tx *store.Tx) error {
			return tx.AddToken(store.TokenRow{Token: dspool.Token{ID: "t", User: "ann"}}, "h")
		})
		refused(t, s, dspool.NotFound, func(tx *store.Tx) error {
			return tx.AddToken(store.TokenRow{Token: dspool.Token{ID: "u", User: "bob"}}, "i")
		})
		refused(t, s, dspool.Conflict, func(tx *store.Tx) error {
			return tx.AddToken(store.TokenRow{Token: dspool.Token{ID: "t", User: "ann"}}, "i")
		})
		refused(t, s, dspool.Conflict, func(tx *store.Tx) error {
			return tx.AddToken(store.TokenRow{Token: dspool.Token{ID: "u", User: "ann"}}, "h")
		})
		if tok := get(t, s, func(tx *store.Tx) (store.TokenRow, error) { return tx.Token("t") }); tok.Created.IsZero() {
			t.Error("it says not when it was created")
		}
	}},
	{"a user is found by the OpenID subject of an issuer, which is nobody else's", func(t *testing.T, s *store.Store) {
		ann, bob := addUser(t, s, "ann"), addUser(t, s, "bob")
		by := func(issuer, subject string) func(*store.Tx) (dspool.User, error) {
			return func(tx *store.Tx) (dspool.User, error) { return tx.UserByOIDC(issuer, subject) }
		}
		set := func(name, issuer, subject string) func(*store.Tx) error {
			return func(tx *store.Tx) error { return tx.SetOIDC(name, issuer, subject) }
		}
		for range 2 {
			write(t, s, set("ann", "https://a", "1"))
		}
		write(t, s, set("bob", "https://b", "1"))
		same(t, get(t, s, by("https://a", "1")), ann)
		same(t, get(t, s, by("https://b", "1")), bob)
		read(t, s, func(tx *store.Tx) error {
			issuer, subject, err := tx.OIDC("ann")
			same(t, issuer+" "+subject, "https://a 1")
			return err
		})
		for _, c := range [][2]string{{"https://a", "2"}, {"", ""}, {"https://a", ""}} {
			missing(t, s, func(tx *store.Tx) error { _, err := by(c[0], c[1])(tx); return err })
		}
		refused(t, s, dspool.Conflict, set("bob", "https://a", "1"))
		refused(t, s, dspool.Invalid, set("bob", "https://a", ""))
		refused(t, s, dspool.NotFound, set("cyd", "https://a", "3"))
		write(t, s, func(tx *store.Tx) error { return tx.RemoveUser("ann") })
		missing(t, s, func(tx *store.Tx) error { _, err := by("https://a", "1")(tx); return err })
		write(t, s, set("bob", "https://a", "1"))
		write(t, s, set("bob", "", ""))
		missing(t, s, func(tx *store.Tx) error { _, err := by("https://a", "1")(tx); return err })
	}},
}
