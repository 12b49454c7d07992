package server

import (
	"context"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/control"
	"github.com/dspool/dspool/internal/provider"
)

// prepare has a provider mount what is private to users on machines on which people become root.
func prepare(p provider.Provider) func(context.Context, string, []control.PrivateFolder) error {
	mounter, ok := p.(provider.Mounter)
	return func(ctx context.Context, machine string, folders []control.PrivateFolder) error {
		if !ok {
			return dspool.Errorf(dspool.Unavailable, "people cannot become root here: this provider cannot mount single homes")
		}
		mounts := make([]provider.Mount, 0, len(folders))
		for _, f := range folders {
			mounts = append(mounts, provider.Mount{Source: f.Share, Sub: f.Folder, Target: f.Target})
		}
		return mounter.Mount(ctx, machine, mounts)
	}
}
