// Package storetest holds what every database under the store must keep true. A database's own
// test opens an empty store and calls [Run].
package storetest

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/store"
)

// check is one claim about the store and its proof.
type check struct {
	claim string
	prove func(t *testing.T, s *store.Store)
}

// Run proves every claim, each on an empty store of its own. open must close the store by
// t.Cleanup.
func Run(t *testing.T, open func(*testing.T) *store.Store) {
	all := slices.Concat(transactions, configuration, users, groups, keys, certificates, machines, jobs, attempts, claims, tasks,
		sessions, connections, apps, events, operations, usage, whole)
	for _, c := range all {
		t.Run(c.claim, func(t *testing.T) {
			t.Parallel()
			c.prove(t, open(t))
		})
	}
}

func write(t *testing.T, s *store.Store, fn func(*store.Tx) error) {
	t.Helper()
	if err := s.Write(t.Context(), fn); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, s *store.Store, fn func(*store.Tx) error) {
	t.Helper()
	if err := s.Read(t.Context(), fn); err != nil {
		t.Fatal(err)
	}
}

// get reads one thing.
func get[T any](t *testing.T, s *store.Store, fn func(*store.Tx) (T, error)) (v T) {
	t.Helper()
	read(t, s, func(tx *store.Tx) (err error) {
		v, err = fn(tx)
		return err
	})
	return v
}

// refused says that a write must fail with code and leave nothing.
func refused(t *testing.T, s *store.Store, code dspool.Code, fn func(*store.Tx) error) {
	t.Helper()
	err := s.Write(t.Context(), fn)
	if got := dspool.ErrorCode(err); got != code {
		t.Errorf("error %v has code %q, want %q", err, got, code)
	}
}

func missing(t *testing.T, s *store.Store, fn func(*store.Tx) error) {
	t.Helper()
	if err := s.Read(t.Context(), fn); dspool.ErrorCode(err) != dspool.NotFound {
		t.Errorf("error is %v, want not found", err)
	}
}

var options = cmp.Options{
	cmp.Comparer(func(a, b dspool.IndexSet) bool { return a.String() == b.String() }),
	cmpopts.EquateEmpty(),
}

func same[T any](t *testing.T, got, want T) {
	t.Helper()
	if d := cmp.Diff(want, got, options); d != "" {
		t.Errorf("differs (-want +got):\n%s", d)
	}
}

func at(second int) time.Time { return time.Date(2020, 3, 1, 12, 0, second, 123456000, time.UTC) }

func ptr[T any](v T) *T { return &v }
