// Command dspool is the one binary: server, agent, init and the user's commands.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/dspool/dspool/internal/agent"
	"github.com/dspool/dspool/internal/cli"
)

// version is set by the build.
var version = "dev"

func main() {
	// PID 1 and the agent of a machine start as fast as they can: no command tree for them.
	if len(os.Args) == 2 {
		switch os.Args[1] {
		case "init":
			os.Exit(inside(agent.RunInit))
		case "agent":
			os.Exit(inside(agent.RunAgent))
		}
	}
	os.Exit(cli.Main(context.Background(), os.Args[1:], cli.System(version, serverCommand(), gatewayCommand(), doctorCommand(), uninstallCommand())))
}

// inside runs a part that lives in a machine.
func inside(run func(context.Context, *slog.Logger) error) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, slog.New(slog.NewTextHandler(os.Stderr, nil))); err != nil {
		fmt.Fprintln(os.Stderr, "dspool:", err)
		return 1
	}
	return 0
}
