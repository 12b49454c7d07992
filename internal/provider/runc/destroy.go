package runc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/dspool/dspool/internal/provider"
)

// Destroy kills the machine's processes, with which its mounts, loop device and
// interface go, and removes its control groups and directory. It works on whatever of
// a machine there is.
func (p *Provider) Destroy(ctx context.Context, name string) error {
	if err := provider.CheckMachineName(name); err != nil {
		return err
	}
	unlock, err := p.lock(ctx, name)
	if err != nil {
		return fmt.Errorf("destroy machine %s: %w", name, err)
	}
	defer unlock()
	if err := p.destroy(ctx, name); err != nil {
		return fmt.Errorf("destroy machine %s: %w", name, err)
	}
	return nil
}

func (p *Provider) destroy(ctx context.Context, name string) error {
	dir := machineDir(p.cfg, name)
	// A runc that an earlier server left running may still be making it.
	if lock, err := lockFile(ctx, filepath.Join(dir, "lock")); err == nil {
		defer lock.Close()
	} else if !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("wait for its creation to end: %w", err)
	}
	p.watcher.unwatch(name)
	r, ok, err := load(p.cfg, name)
	if err != nil {
		return err
	}
	var init []int // which takes all others of the machine with it
	if ok && r.Boot == bootID() {
		if started, alive := startTime(r.PID); alive && started == r.Started {
			init = []int{r.PID}
		}
	}
	if err := p.groups.kill(ctx, name, init...); err != nil {
		return err
	}
	if err := p.step("killed"); err != nil {
		return err
	}
	if err := p.groups.remove(ctx, name); err != nil {
		return err
	}
	if err := p.step("ungrouped"); err != nil {
		return err
	}
	if err := p.cfg.Network.Unplug(ctx, name); err != nil {
		return fmt.Errorf("unplug: %w", err)
	}
	if err := p.step("unplugged"); err != nil {
		return err
	}
	if err := os.RemoveAll(filepath.Join(runcRoot(p.cfg), name)); err != nil {
		return err
	}
	if err := p.step("forgotten"); err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	p.cores.free(name)
	if err := p.step("removed"); err != nil {
		return err
	}
	return freeRange(p.cfg, name)
}
