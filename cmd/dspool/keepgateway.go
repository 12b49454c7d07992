package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/dspool/dspool/internal/control"
	"github.com/dspool/dspool/internal/gateway"
)

const (
	lookAtGateway = 2 * time.Second
	gatewayWithin = time.Minute // for a new one to answer: the first makes the doors' keys, which takes a slow host its time
)

// buildID tells one build of this program from another, also where both say the same version.
func buildID() string {
	info, err := os.Stat(self())
	if err != nil {
		return version
	}
	return fmt.Sprintf("%s-%x", version, info.ModTime().UnixNano())
}

// keepGateway sees to it that a gateway of this build keeps the doors, if there are any. It is a process of
// its own that outlives the server: the next server finds it and lets it be, or, after an
// upgrade, starts a new one that takes the doors over while old connections finish. This server
// holds the listening sockets as well, so that a gateway that is killed is missed by nobody who comes
// before the next has started.
func keepGateway(ctx context.Context, c *control.Control, stateDir string, log *slog.Logger) {
	var held gateway.Held
	defer func() { held.Close() }()
	for wait := time.Duration(0); ; wait = lookAtGateway {
		if held.Files != nil {
			wait = 0
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
		doors, err := c.Doors(ctx)
		if err != nil || len(doors.Items) == 0 {
			held.Close()
			held = gateway.Held{}
			continue
		}
		now, err := gateway.ReadStatus(ctx, stateDir)
		if err != nil || now.Version != buildID() {
			err = startGateway(ctx, stateDir, held)
			held.Close()
			held = gateway.Held{}
			if err != nil {
				if ctx.Err() == nil {
					log.Error("start the gateway", "err", err)
				}
				continue
			}
			log.Info("started the gateway", "taking over", now.PID != 0, "log", filepath.Join(stateDir, "gateway", "gateway.log"))
		}
		if held, err = gateway.Hold(ctx, stateDir); err != nil && ctx.Err() == nil {
			log.Error("hold the doors' sockets", "err", err)
		}
	}
}

// startGateway starts a gateway, with the listening sockets of one that has died, and waits until it answers.
func startGateway(ctx context.Context, stateDir string, held gateway.Held) error {
	dir := filepath.Join(stateDir, "gateway")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(dir, "gateway.log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	doors, err := json.Marshal(held.Doors)
	if err != nil {
		return err
	}
	cmd := exec.Command(self(), "gateway", "--state-dir", stateDir)
	if len(held.Files) > 0 {
		cmd.Args = append(cmd.Args, "--held", string(doors))
		cmd.ExtraFiles = held.Files
	}
	cmd.Stdout, cmd.Stderr, cmd.Dir = log, log, "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	ctx, cancel := context.WithTimeout(ctx, gatewayWithin)
	defer cancel()
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for {
		select {
		case err := <-ended:
			return fmt.Errorf("it ended at once (%w); its log is %s", err, log.Name())
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) { // the next one takes its place, not a place beside it
				_ = cmd.Process.Kill()
				<-ended
			}
			return fmt.Errorf("it does not answer; its log is %s", log.Name())
		case <-look.C:
			if s, err := gateway.ReadStatus(ctx, stateDir); err == nil && s.PID == cmd.Process.Pid {
				return nil
			}
		}
	}
}

// stopGateway ends the gateway of a state directory, and every connection with it.
func stopGateway(ctx context.Context, stateDir string) error {
	s, err := gateway.ReadStatus(ctx, stateDir)
	if err != nil {
		return nil // none runs
	}
	if err := syscall.Kill(s.PID, syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop the gateway: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, gatewayWithin)
	defer cancel()
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for {
		if _, err := gateway.ReadStatus(ctx, stateDir); err != nil {
			return nil
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return fmt.Errorf("the gateway, process %d, does not end", s.PID)
		}
	}
}
