package main

import (
	"log/slog"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"syscall"

	"github.com/dspool/dspool/internal/gateway"
	"github.com/spf13/cobra"
)

// gatewayCommand is started by the server; people have no use for it.
func gatewayCommand() *cobra.Command {
	o := gateway.Options{Version: buildID()}
	var verbose bool
	cmd := &cobra.Command{
		Use:    "gateway --state-dir DIR",
		Short:  "Keep the doors through which people come in (started by the server)",
		Long:   "Keep the doors of the server with the same state directory. A gateway that already runs hands its\ndoors over and leaves when its last connection is finished.",
		Args:   cobra.NoArgs,
		Hidden: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			level := slog.LevelInfo
			if verbose {
				level = slog.LevelDebug
			}
			o.Log = slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: level}))
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			var err error
			if o.StateDir, err = filepath.Abs(o.StateDir); err != nil {
				return err
			}
			// Packets are garbage as soon as they are passed on, and hardly anything else lives here:
			// collecting less often costs a few MiB and saves much time while files are carried.
			debug.SetGCPercent(400)
			return gateway.Run(ctx, o)
		},
	}
	cmd.Flags().StringVar(&o.StateDir, "state-dir", stateDir(), "the server's state directory")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "log more")
	return cmd
}
