package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/client"
	"github.com/dspool/dspool/internal/config"
	"github.com/dspool/dspool/internal/control"
	"github.com/dspool/dspool/internal/hostnet"
	"github.com/dspool/dspool/internal/image"
	"github.com/dspool/dspool/internal/provider"
	"github.com/dspool/dspool/internal/provider/runc"
	"github.com/dspool/dspool/internal/server"
	"github.com/spf13/cobra"
)

// The ports of the host that machines reach, on their bridge's own address.
const (
	agentPort = 8444 // the server's agent link
	doorPort  = 8445 // the gateway's machine door
)

func serverCommand() *cobra.Command {
	o := server.Options{Version: version, Reserve: server.DefaultReserve}
	var runcPath string
	var verbose bool
	cmd := &cobra.Command{
		Use:   "server --config FILE",
		Short: "Serve a pool on this host",
		Long: "Serve a pool on this host: apply the configuration, build the images that are missing, make and\n" +
			"remove machines, and answer the API. Root only. When it ends, machines and jobs live on; the next\n" +
			"server takes them over.",
		Example: "  dspool server --config examples/team.yaml\n  dspool server --config team.yaml --state-dir /srv/dspool",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			level := slog.LevelInfo
			if verbose {
				level = slog.LevelDebug
			}
			o.Log = slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: level}))
			slog.SetDefault(o.Log)
			return serve(cmd.Context(), o, runcPath)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Config, "config", "", "configuration to apply at start, such as examples/team.yaml (without it, what was applied last)")
	f.StringVar(&o.StateDir, "state-dir", stateDir(), "where everything that must survive lies")
	f.StringVar(&o.ImageCache, "image-cache", image.DefaultCache, "where built images lie; several servers of a host may share it")
	f.StringVar(&runcPath, "runc", "", "runc binary, 1.2 or newer (default: beside this program, else from PATH)")
	f.BoolVarP(&verbose, "verbose", "v", false, "log also what is usually of no interest")
	return cmd
}

func stateDir() string {
	if dir := os.Getenv("DSPOOL_STATE_DIR"); dir != "" {
		return dir
	}
	return client.DefaultStateDir
}

func serve(ctx context.Context, o server.Options, runcPath string) error {
	if os.Geteuid() != 0 {
		return dspool.Errorf(dspool.Forbidden, "the server makes machines, which only root can").WithHint("run it as root")
	}
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	if o.StateDir, err = filepath.Abs(o.StateDir); err != nil {
		return err
	}
	var h host
	o.Provider = func(ctx context.Context, installation string, own config.Server) (provider.Provider, error) {
		h, err = openHost(ctx, o.StateDir, installation, runcPath, own.Subnet)
		return h.machines, err
	}
	defer func() { h.Close() }()
	s, err := server.Start(ctx, o)
	if err != nil {
		return err
	}
	defer s.Close()
	var keeper sync.WaitGroup
	defer keeper.Wait()
	defer stop()
	keeper.Go(func() { keepGateway(ctx, s.Control, o.StateDir, o.Log) })
	keeper.Go(func() { recordMended(ctx, s.Control, h.network.Mended(), o.Log) })
	select {
	case <-ctx.Done():
		o.Log.Info("stopping: machines and jobs live on")
		return nil
	case err := <-s.Failed():
		return fmt.Errorf("the server cannot go on: %w", err)
	}
}

// recordMended makes an event of what the network tells.
func recordMended(ctx context.Context, c *control.Control, mended <-chan string, log *slog.Logger) {
	for {
		select {
		case <-ctx.Done():
			return
		case what := <-mended:
			if err := c.NetworkMended(ctx, what); err != nil && ctx.Err() == nil {
				log.Error("record that the network was mended", "err", err)
			}
		}
	}
}

// host is what makes machines on this host.
type host struct {
	network  *hostnet.Net
	machines *runc.Provider
}

func openHost(ctx context.Context, stateDir, installation, runcPath string, subnet netip.Prefix) (h host, err error) {
	h.network, err = hostnet.Open(ctx, hostnet.Options{
		Installation: installation, StateDir: filepath.Join(stateDir, "network"), Subnet: subnet, AgentPort: agentPort, DoorPort: doorPort,
	})
	if err != nil {
		return h, err
	}
	h.machines, err = runc.Open(ctx, runc.Config{
		StateDir: filepath.Join(stateDir, "runc"), Installation: installation, Runc: findRunc(runcPath), Self: self(),
		Network: h.network, AgentPort: agentPort, DoorPort: doorPort,
	})
	return h, err
}

// Close leaves machines and network in place for the next server.
func (h host) Close() {
	if h.machines != nil {
		h.machines.Close()
	}
	if h.network != nil {
		h.network.Close()
	}
}

// findRunc is the named runc, else the one built beside this program, else the one from PATH.
func findRunc(named string) string {
	if named != "" {
		return named
	}
	beside := filepath.Join(filepath.Dir(self()), "runc")
	if _, err := os.Stat(beside); err == nil {
		return beside
	}
	return "runc"
}

// self is this program's file, which machines see too.
func self() string {
	path, err := os.Executable()
	if err != nil {
		return os.Args[0]
	}
	return path
}
