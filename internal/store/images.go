package store

import "github.com/dspool/dspool"

var images = documents[dspool.Image]{"image", "images"}

// Images returns all images in order of name.
func (tx *Tx) Images() ([]dspool.Image, error) { return images.list(tx) }

// Image returns the image called name; NotFound if there is none.
func (tx *Tx) Image(name string) (dspool.Image, error) { return images.one(tx, name) }

// PutImage inserts i or replaces the one of its name.
func (tx *Tx) PutImage(i dspool.Image) error { return images.put(tx, i.Name, i) }

// DeleteImage deletes the image called name, if there is one.
func (tx *Tx) DeleteImage(name string) error { return images.delete(tx, name) }
