package asuser

import "os"

// OpenFile is Root.OpenFile as c.
func (c Cred) OpenFile(r *Root, rel string, flags int, perm os.FileMode) (f *os.File, err error) {
	err = c.Do(func() (err error) {
		f, err = r.OpenFile(rel, flags, perm)
		return err
	})
	return f, err
}

// Read opens c's regular file rel for reading, as c.
func (c Cred) Read(r *Root, rel string) (f *os.File, err error) {
	err = c.Do(func() (err error) {
		f, err = r.OpenOwned(rel, os.O_RDONLY, 0, c.UID)
		return err
	})
	return f, err
}

// Append opens c's regular file rel for appending, as c, and makes it when it is missing.
func (c Cred) Append(r *Root, rel string, perm os.FileMode) (f *os.File, err error) {
	err = c.Do(func() (err error) {
		f, err = r.OpenOwned(rel, os.O_WRONLY|os.O_CREATE|os.O_APPEND, perm, c.UID)
		return err
	})
	return f, err
}

// MkdirAll is Root.MkdirAll as c.
func (c Cred) MkdirAll(r *Root, rel string, perm os.FileMode) error {
	return c.Do(func() error { return r.MkdirAll(rel, perm) })
}
