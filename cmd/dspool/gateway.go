package main

import (
	"encoding/json"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"syscall"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/gateway"
	"github.com/spf13/cobra"
)

const gatewayBallast = 24 << 20 // bytes

// gatewayCommand is started by the server; people have no use for it.
func gatewayCommand() *cobra.Command {
	o := gateway.Options{Version: buildID()}
	var verbose bool
	var held string
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
			if o.Held, err = heldDoors(held); err != nil {
				return err
			}
			if o.StateDir, err = filepath.Abs(o.StateDir); err != nil {
				return err
			}
			// Packets are garbage as soon as they are passed on, and hardly anything else lives here. Memory
			// that counts as live but is never touched, and so takes none, has them collected after some
			// 50 MiB instead of 4; a percentage that did so would let many connections leave far more lying about.
			ballast := make([]byte, gatewayBallast)
			defer runtime.KeepAlive(ballast)
			debug.SetGCPercent(200)
			return gateway.Run(ctx, o)
		},
	}
	cmd.Flags().StringVar(&o.StateDir, "state-dir", stateDir(), "the server's state directory")
	cmd.Flags().StringVar(&held, "held", "", "doors whose listening sockets are this process's files from 3 on, as JSON")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "log more")
	return cmd
}

// firstHeld is the number of the first file that a parent hands on beside the standard ones.
const firstHeld = 3

func heldDoors(text string) (held gateway.Held, err error) {
	if text == "" {
		return held, nil
	}
	if err := json.Unmarshal([]byte(text), &held.Doors); err != nil {
		return held, dspool.Errorf(dspool.Invalid, "--held is not a list of doors: %w", err)
	}
	for i := range held.Doors {
		syscall.CloseOnExec(firstHeld + i)
		held.Files = append(held.Files, os.NewFile(uintptr(firstHeld+i), "door"))
	}
	return held, nil
}
