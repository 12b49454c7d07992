package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"

	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/agent/host"
	"github.com/dspool/dspool/internal/agent/initd"
	"github.com/dspool/dspool/internal/provider"
)

// Where things are in a machine.
const (
	BootFile = initd.Dir + "/boot.json" // a provider.AgentBoot, put there by the provider
	StateDir = "/var/lib/dspool-agent"  // on the machine's own disk
	Socket   = initd.Dir + "/" + initd.SocketName
)

// RunInit is `dspool init`: PID 1 of a machine, which starts `dspool agent` from its own
// executable. It returns nil when ctx is done and everything has ended.
func RunInit(ctx context.Context, log *slog.Logger) error {
	debug.SetGCPercent(50) // both live as long as the machine, with nearly no garbage
	return initd.Run(ctx, initd.Config{Agent: []string{"/proc/self/exe", "agent"}, Owners: ":" + strconv.Itoa(api.OwnersPort), Scratch: initd.Scratch, Log: log})
}

// RunAgent is `dspool agent`. It returns nil when ctx is done.
func RunAgent(ctx context.Context, log *slog.Logger) error {
	debug.SetGCPercent(50)
	boot, err := readBoot(BootFile)
	if err != nil {
		return err
	}
	pid1 := initd.NewClient(Socket)
	return New(Config{
		Boot: boot, Executor: pid1, Host: host.New(host.Config{Init: pid1, State: StateDir, Log: log}),
		Dir: StateDir, Log: log, Check: CheckMachine,
		Enrolled: func() { removeBoot(BootFile, log) },
	}).Run(ctx)
}

// readBoot returns the zero boot when the file is gone, as it is once an agent has enrolled.
func readBoot(path string) (b provider.AgentBoot, err error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(data) == 0 {
		return b, nil
	}
	if err != nil {
		return b, fmt.Errorf("read boot file: %w", err)
	}
	if err := json.Unmarshal(data, &b); err != nil {
		return b, fmt.Errorf("read boot file %s: %w", filepath.Base(path), err)
	}
	return b, nil
}

// removeBoot takes the token off the machine. A file that is mounted can only be emptied.
func removeBoot(path string, log *slog.Logger) {
	err := os.Remove(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		err = os.Truncate(path, 0)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		log.Warn("the used token stays in the boot file", "error", err)
	}
}
