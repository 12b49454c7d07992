package control

import (
	"context"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/store"
)

// HomeSpace is what people may still write into their homes, in bytes: where there are several shares of
// homes, the least. It is not known of a file system that does not answer.
func (c *Control) HomeSpace(ctx context.Context) (free int64, ok bool, err error) {
	var shares []dspool.Share
	err = c.Store.Read(ctx, func(tx *store.Tx) error {
		shares, err = (&work{Tx: tx}).homeShares()
		return err
	})
	for _, s := range shares {
		n, known := c.spaces.free(s.Path)
		if !known {
			return 0, false, err
		}
		if !ok || n < free {
			free, ok = n, true
		}
	}
	return free, ok, err
}
