package store

import "github.com/dspool/dspool"

var pools = documents[dspool.Pool]{"pool", "pools"}

// Pools returns all pools in order of name.
func (tx *Tx) Pools() ([]dspool.Pool, error) { return pools.list(tx) }

// Pool returns the pool called name; NotFound if there is none.
func (tx *Tx) Pool(name string) (dspool.Pool, error) { return pools.one(tx, name) }

// PutPool inserts p or replaces the one of its name.
func (tx *Tx) PutPool(p dspool.Pool) error { return pools.put(tx, p.Name, p) }

// DeletePool deletes the pool called name, if there is one.
func (tx *Tx) DeletePool(name string) error { return pools.delete(tx, name) }
