package store

import "github.com/dspool/dspool"

var sizes = documents[dspool.Size]{"size", "sizes"}

// Sizes returns all sizes in order of name.
func (tx *Tx) Sizes() ([]dspool.Size, error) { return sizes.list(tx) }

// Size returns the size called name; NotFound if there is none.
func (tx *Tx) Size(name string) (dspool.Size, error) { return sizes.one(tx, name) }

// PutSize inserts z or replaces the one of its name.
func (tx *Tx) PutSize(z dspool.Size) error { return sizes.put(tx, z.Name, z) }

// DeleteSize deletes the size called name, if there is one.
func (tx *Tx) DeleteSize(name string) error { return sizes.delete(tx, name) }
