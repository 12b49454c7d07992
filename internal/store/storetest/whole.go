package storetest

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/store"
	"github.com/dspool/dspool/internal/testkit"
)

// A field that somebody adds to a noun and forgets here would be lost without a word.
var whole = []check{
	{"no field of a machine is lost", func(t *testing.T, s *store.Store) {
		var m store.MachineRow
		n := 1
		fill(reflect.ValueOf(&m).Elem(), &n)
		m.Used, m.Claims, m.IdleSince, m.Sighted = dspool.Resources{}, 0, nil, time.Time{} // the store's own to say
		write(t, s, func(tx *store.Tx) error { return tx.InsertMachine(m) })
		got := machine(t, s, m.Name)
		got.IdleSince = nil
		same(t, got, m)
	}},
	{"no field of a job is lost", func(t *testing.T, s *store.Store) {
		var j store.JobRow
		n := 1
		fill(reflect.ValueOf(&j).Elem(), &n)
		j.Pending = set(t, "3-9")
		j = insertJob(t, s, j)
		same(t, job(t, s, j.ID), j)
	}},
	{"no field of a session or a connection is lost", func(t *testing.T, s *store.Store) {
		var r store.SessionRow
		var c dspool.Connection
		n := 1
		fill(reflect.ValueOf(&r).Elem(), &n)
		fill(reflect.ValueOf(&c).Elem(), &n)
		write(t, s, func(tx *store.Tx) error {
			if err := tx.InsertSession(&r); err != nil {
				return err
			}
			c.Session = r.ID
			return tx.AddConnection(c)
		})
		r.Connections = 0 // the store's own to say, and this one has ended
		same(t, session(t, s, r.ID), r)
		same(t, get(t, s, func(tx *store.Tx) (dspool.Connection, error) { return tx.Connection(c.ID) }), c)
	}},
	{"no field of an app or a token is lost", func(t *testing.T, s *store.Store) {
		var a store.AppRow
		var k store.TokenRow
		n := 1
		fill(reflect.ValueOf(&a).Elem(), &n)
		fill(reflect.ValueOf(&k).Elem(), &n)
		a.Machine, a.URL = "", "" // its session's, and for its reader to say
		spec := a.Spec
		write(t, s, func(tx *store.Tx) error {
			_, err := tx.AddUser(k.User, false, dspool.UIDRange{First: 20000, Last: 20009})
			return errors.Join(tx.InsertApp(&a), err, tx.AddToken(k, "h"))
		})
		same(t, get(t, s, func(tx *store.Tx) (store.AppSpec, error) { return tx.AppSpec(a.ID) }), spec)
		a.Spec = store.AppSpec{}
		same(t, app(t, s, a.ID), a)
		same(t, get(t, s, func(tx *store.Tx) (store.TokenRow, error) { return tx.Token(k.ID) }), k)
	}},
	{"no field of a user, a group or a key is lost", func(t *testing.T, s *store.Store) {
		var u dspool.User
		var k dspool.UserKey
		n := 1
		fill(reflect.ValueOf(&u).Elem(), &n)
		fill(reflect.ValueOf(&k).Elem(), &n)
		k.User = u.Name
		ids := dspool.UIDRange{First: u.UID, Last: u.UID + 9}
		write(t, s, func(tx *store.Tx) error {
			got, err := tx.AddUser(u.Name, u.Admin, ids)
			u.Created = got.Created
			return errors.Join(err, tx.SetDefaultPool(u.Name, u.DefaultPool), tx.SetPassword(u.Name, "x"), tx.AddUserKey(k))
		})
		for _, g := range u.Groups {
			write(t, s, func(tx *store.Tx) error {
				_, err := tx.AddGroup(g, ids)
				return errors.Join(err, tx.AddMember(g, u.Name))
			})
		}
		slices.Sort(u.Groups)
		same(t, get(t, s, func(tx *store.Tx) (dspool.User, error) { return tx.User(u.Name) }), u)
		same(t, get(t, s, func(tx *store.Tx) (dspool.UserKey, error) { return tx.UserKey(k.User, k.Fingerprint) }), k)
	}},
	{"no field of a pool or an operation is lost", func(t *testing.T, s *store.Store) {
		var p dspool.Pool
		var o dspool.Operation
		n := 1
		fill(reflect.ValueOf(&p).Elem(), &n)
		fill(reflect.ValueOf(&o).Elem(), &n)
		o.Error = nil
		write(t, s, func(tx *store.Tx) error {
			if err := tx.PutPool(p); err != nil {
				return err
			}
			return tx.PutOperation(o)
		})
		same(t, get(t, s, func(tx *store.Tx) (dspool.Pool, error) { return tx.Pool(p.Name) }), p)
		same(t, get(t, s, func(tx *store.Tx) (dspool.Operation, error) { return tx.Operation(o.ID) }), o)
	}},
}

// fill gives every field that can be set a value of its own.
func fill(v reflect.Value, n *int) {
	*n++
	switch v.Kind() {
	case reflect.String:
		v.SetString(fmt.Sprint("text ", *n))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(*n))
	case reflect.Float64:
		v.SetFloat(float64(*n) / 8)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), n)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(v.Index(0), n)
		fill(v.Index(1), n)
	case reflect.Map:
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(key, n)
		fill(value, n)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(key, value)
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(at(*n)))
			return
		}
		if v.Type() == reflect.TypeFor[dspool.Reason]() {
			r := dspool.Reason{Code: dspool.ReasonCode(fmt.Sprint("code ", *n))}
			fill(reflect.ValueOf(&r.ReasonParams).Elem(), n)
			v.Set(reflect.ValueOf(r.With(testkit.Stated("because")))) // its text is written for every reader anew
			return
		}
		for i := range v.NumField() {
			if f := v.Field(i); f.CanSet() {
				fill(f, n)
			}
		}
	default:
		panic("no way to fill a " + v.Type().String())
	}
}
