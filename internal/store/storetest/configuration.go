package storetest

import (
	"testing"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/store"
	"github.com/dspool/dspool/internal/testkit"
)

// noun proves the four verbs that the nouns of the configuration share.
func noun[T any](name string, a, b, changed T, list func(*store.Tx) ([]T, error), one func(*store.Tx, string) (T, error),
	put func(*store.Tx, T) error, del func(*store.Tx, string) error) check {
	return check{"a " + name + " comes back as it was put last, in order of name, until it is deleted", func(t *testing.T, s *store.Store) {
		write(t, s, func(tx *store.Tx) error {
			if err := put(tx, b); err != nil {
				return err
			}
			return put(tx, a)
		})
		same(t, get(t, s, list), []T{a, b})
		write(t, s, func(tx *store.Tx) error { return put(tx, changed) })
		same(t, get(t, s, func(tx *store.Tx) (T, error) { return one(tx, "a") }), changed)
		missing(t, s, func(tx *store.Tx) error { _, err := one(tx, "c"); return err })
		missing(t, s, func(tx *store.Tx) error { _, err := one(tx, "A"); return err })
		missing(t, s, func(tx *store.Tx) error { _, err := one(tx, "a' OR 'a'='a\n"); return err })
		for range 2 {
			write(t, s, func(tx *store.Tx) error { return del(tx, "a") })
			same(t, get(t, s, list), []T{b})
		}
	}}
}

var configuration = []check{
	noun("pool",
		dspool.Pool{Name: "a", Kind: dspool.Batch, Image: "UbuntuDSVM", Sizes: []string{"small", "big"}, Max: 4, Shares: []string{"home"}, Internet: true,
			Policy: dspool.PoolPolicy{IdleAfter: dspool.Duration(90 * time.Second), StartTimeout: dspool.Duration(2 * time.Hour)}},
		dspool.Pool{Name: "b", Kind: dspool.Service, Max: 1}, dspool.Pool{Name: "a", Min: 1, Max: 2, Spare: 1},
		(*store.Tx).Pools, (*store.Tx).Pool, (*store.Tx).PutPool, (*store.Tx).DeletePool),
	noun("size",
		dspool.Size{Name: "a", Resources: dspool.Resources{CPUs: 0.1, Memory: 2 << 30, GPUs: 1}, Disk: 1 << 40, Price: 0.07},
		dspool.Size{Name: "b"}, dspool.Size{Name: "a", Price: 1},
		(*store.Tx).Sizes, (*store.Tx).Size, (*store.Tx).PutSize, (*store.Tx).DeleteSize),
	noun("share",
		dspool.Share{Name: "a", Kind: "dir", Path: "/srv/<homes> & \"more\"", Mount: "/home"},
		dspool.Share{Name: "b"}, dspool.Share{Name: "a", Path: "/x"},
		(*store.Tx).Shares, (*store.Tx).Share, (*store.Tx).PutShare, (*store.Tx).DeleteShare),
	noun("image",
		dspool.Image{Name: "a", Recipe: "/etc/a.yaml", Key: "0f", State: dspool.ImageReady, Bytes: 1 << 33, Built: ptr(at(1))},
		dspool.Image{Name: "b"}, dspool.Image{Name: "a", State: dspool.ImageFailed, Reason: testkit.Stated("step 3: exit 1")},
		(*store.Tx).Images, (*store.Tx).Image, (*store.Tx).PutImage, (*store.Tx).DeleteImage),
}

var operations = []check{
	{"an operation comes back as it was put last", func(t *testing.T, s *store.Store) {
		o := dspool.Operation{ID: "o1", Kind: "image.build", Target: "UbuntuDSVM", User: "ann", State: dspool.OperationRunning, Progress: "unpacks", Created: at(1)}
		later := dspool.Operation{ID: "o0", State: dspool.OperationRunning, Created: at(0)} // whatever the clock said
		write(t, s, func(tx *store.Tx) error {
			if err := tx.PutOperation(o); err != nil {
				return err
			}
			return tx.PutOperation(later)
		})
		same(t, get(t, s, (*store.Tx).RunningOperations), []dspool.Operation{o, later})
		o.State, o.Ended = dspool.OperationFailed, ptr(at(3))
		o.Error = &dspool.Error{Code: dspool.Unavailable, Message: "no space", Hint: "free some"}
		write(t, s, func(tx *store.Tx) error { return tx.PutOperation(o) })
		got := get(t, s, func(tx *store.Tx) (dspool.Operation, error) { return tx.Operation("o1") })
		if got.Error == nil || got.Error.Error() != o.Error.Error() || got.Error.Code != o.Error.Code {
			t.Errorf("its error is %v, want %v", got.Error, o.Error)
		}
		got.Error, o.Error = nil, nil
		same(t, got, o)
		same(t, get(t, s, (*store.Tx).RunningOperations), []dspool.Operation{later})
		missing(t, s, func(tx *store.Tx) error { _, err := tx.Operation("o2"); return err })
	}},
}
