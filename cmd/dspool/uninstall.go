package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/control"
	"github.com/dspool/dspool/internal/server"
	"github.com/dspool/dspool/internal/store"
	"github.com/spf13/cobra"
)

func uninstallCommand() *cobra.Command {
	var dir, runcPath string
	cmd := &cobra.Command{
		Use:   "uninstall",
		Short: "Remove all machines and networks of a stopped server from this host",
		Long: "Remove from this host everything that a stopped server has made on it: machines, with whatever\n" +
			"still runs on them, their disks, network, control groups and mounts. The state directory, with\n" +
			"the shares' files, users and bills, stays, and says that they ended now; the next server goes on\n" +
			"from it. Root only.",
		Example: "  dspool uninstall\n  dspool uninstall --state-dir /srv/dspool && rm -r /srv/dspool",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return uninstall(cmd.Context(), dir, runcPath)
		},
	}
	cmd.Flags().StringVar(&dir, "state-dir", stateDir(), "of the server")
	cmd.Flags().StringVar(&runcPath, "runc", "", "runc binary (default: beside this program, else from PATH)")
	return cmd
}

func uninstall(ctx context.Context, dir, runcPath string) error {
	if os.Geteuid() != 0 {
		return dspool.Errorf(dspool.Forbidden, "only root can remove machines").WithHint("run it as root")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(dir, server.StoreFile)); err != nil {
		return dspool.Errorf(dspool.NotFound, "no server has kept its state in %s", dir).WithHint("give its --state-dir")
	}
	lock, err := server.Lock(dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := stopGateway(ctx, dir); err != nil {
		return err
	}
	st, err := store.Open(ctx, filepath.Join(dir, server.StoreFile))
	if err != nil {
		return err
	}
	defer st.Close()
	h, err := openHost(ctx, dir, st.Installation(), runcPath, netip.Prefix{})
	if err != nil {
		return err
	}
	there := map[string]bool{}
	list, err := h.machines.List(ctx)
	for _, m := range list {
		there[m.Name] = m.Running
	}
	if err := errors.Join(err, h.machines.Remove(ctx), h.machines.Close()); err != nil {
		return fmt.Errorf("remove machines: %w", err)
	}
	// Bills, jobs and sessions end with what they were on, not when a next server misses it.
	if err := control.Uninstalled(ctx, st, func(machine string) bool { return there[machine] }); err != nil {
		return fmt.Errorf("write down what ended: %w", err)
	}
	return nil
}
