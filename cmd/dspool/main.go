// Command dspool is the one binary: server, agent, init and the user's commands.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/dspool/dspool/internal/cli"
	"github.com/spf13/cobra"
)

// version is set by the build.
var version = "dev"

func main() {
	// PID 1 and the agent of a machine start as fast as they can: no command tree for them.
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "init":
			os.Exit(runInit())
		case "agent":
			os.Exit(runAgent())
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	env := cli.OSEnv()
	env.Version = version
	env.Extra = []*cobra.Command{serverCommand(), doctorCommand()}
	os.Exit(cli.Main(ctx, os.Args[1:], env))
}
