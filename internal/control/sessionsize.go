package control

import (
	"fmt"
	"slices"
	"strings"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/store"
)

// sizeOf is a pool's size of that name; "" means its first, which new machines have.
func (w *work) sizeOf(pool dspool.Pool, name string) (dspool.Size, error) {
	sizes, err := w.sizesOf(pool)
	if err != nil {
		return dspool.Size{}, err
	}
	if name == "" {
		return sizes[0], nil
	}
	i := slices.IndexFunc(sizes, func(z dspool.Size) bool { return z.Name == name })
	if i < 0 {
		return dspool.Size{}, dspool.Errorf(dspool.Invalid, "pool %s has no size %s", pool.Name, dspool.Quote(name)).
			WithHint("its sizes: %s", strings.Join(sizeNames(sizes), ", "))
	}
	return sizes[i], nil
}

// joins says whether somebody who asks for a size may join a session: where its machine has that size, or
// it waits for one; "" joins any. Else Invalid or Conflict.
func (w *work) joins(s store.SessionRow, size string) error {
	if size == "" {
		return nil
	}
	there, where := s.Size, "waits for a machine of any size"
	if s.Machine != "" {
		m, err := w.Machine(s.Machine)
		if err != nil {
			return err
		}
		there, where = m.Size, fmt.Sprintf("is on %s, of size %s", m.Name, m.Size)
	} else if s.Size != "" {
		where = "waits for a machine of size " + s.Size
	}
	if there == size { // also one that the pool has no more
		return nil
	}
	pool, err := w.knownPool(s.Pool)
	if err != nil {
		return err
	}
	if _, err := w.sizeOf(pool, size); err != nil {
		return err
	}
	return dspool.Errorf(dspool.Conflict, "your session in pool %s %s", s.Pool, where).WithHint("end it first, or leave the size out")
}
