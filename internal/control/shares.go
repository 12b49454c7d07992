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
		var fs syscall.Statfs_t
		if syscall.Statfs(s.Path, &fs) == nil {
			st.Total, st.Free = int64(fs.Blocks)*fs.Bsize, int64(fs.Bavail)*fs.Bsize
		}
		list.Items = append(list.Items, st)
	}
	return list, err
}
