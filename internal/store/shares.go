package store

import "github.com/dspool/dspool"

var shares = documents[dspool.Share]{"share", "shares"}

// Shares returns all shares in order of name.
func (tx *Tx) Shares() ([]dspool.Share, error) { return shares.list(tx) }

// Share returns the share called name; NotFound if there is none.
func (tx *Tx) Share(name string) (dspool.Share, error) { return shares.one(tx, name) }

// PutShare inserts h or replaces the one of its name.
func (tx *Tx) PutShare(h dspool.Share) error { return shares.put(tx, h.Name, h) }

// DeleteShare deletes the share called name, if there is one.
func (tx *Tx) DeleteShare(name string) error { return shares.delete(tx, name) }
