package control

import (
	"context"
	"slices"
	"syscall"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/store"
)

// Shares lists the shares with the space of the file systems they lie on.
func (c *Control) Shares(ctx context.Context) (list api.List[api.ShareStatus], err error) {
	list.Items = []api.ShareStatus{}
	var shares []dspool.Share
	var pools []dspool.Pool
	err = c.Store.Read(ctx, func(tx *store.Tx) (err error) {
		if shares, err = tx.Shares(); err == nil {
			pools, err = tx.Pools()
		}
		return err
	})
	for _, s := range shares {
		st := api.ShareStatus{Share: s, Pools: []string{}}
		for _, p := range pools {
			if slices.Contains(p.Shares, s.Name) {
				st.Pools = append(st.Pools, p.Name)
			}
		}
		if total, free, err := spaceOf(s.Path); err == nil {
			st.Total, st.Free = total, free
		}
		list.Items = append(list.Items, st)
	}
	return list, err
}

// spaceOf is the size of the file system that a path lies on, and what of it users may still fill, in bytes.
func spaceOf(path string) (total, free int64, err error) {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(path, &fs); err != nil {
		return 0, 0, err
	}
	return int64(fs.Blocks) * fs.Bsize, int64(fs.Bavail) * fs.Bsize, nil
}
