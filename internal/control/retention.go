package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/config"
	"github.com/dspool/dspool/internal/store"
)

// settingRetention says how long history is kept.
const settingRetention = "retention"

func retention(tx *store.Tx) (config.Retention, error) {
	keep := config.DefaultRetention
	return keep, readSetting(tx, settingRetention, &keep)
}

func (w *work) setRetention(keep config.Retention) error {
	text, err := json.Marshal(keep)
	if err != nil {
		return err
	}
	return w.SetSetting(settingRetention, string(text))
}

// clockTrusted is how long nobody must have set the clock before anything is forgotten by it: what is forgotten does not
// come back when the clock is set right.
const clockTrusted = time.Hour

func clockIsTrusted(tx *store.Tx) (bool, error) {
	jumps, err := tx.ClockJumps(tx.Now().Add(-clockTrusted), 1)
	return len(jumps) == 0, err
}

// Tidy folds the days that are over and forgets what is older than its retention, in small steps. Interrupted
// anywhere, the next call goes on; what fails is told and left to that one.
func (c *Control) Tidy(ctx context.Context) error {
	return errors.Join(c.Fold(ctx), c.pruneOutput(ctx), c.prune(ctx))
}

// forgetting is a kind of history with when it is forgotten.
type forgetting struct {
	what   string
	keep   dspool.Duration
	step   func(tx *store.Tx, before time.Time, most int) (int64, error)
	billed bool // bills were computed from it: it goes by days, and only once they are folded
}

func (c *Control) prune(ctx context.Context) error {
	var keep config.Retention
	if err := c.Store.Read(ctx, func(tx *store.Tx) (err error) {
		keep, err = retention(tx)
		return err
	}); err != nil {
		return err
	}
	machines := max(keep.Jobs, keep.Sessions)
	if keep.Jobs == 0 || keep.Sessions == 0 {
		machines = 0
	}
	var errs []error
	for _, f := range []forgetting{
		{"events", keep.Events, (*store.Tx).PruneEvents, false},
		{"jobs", keep.Jobs, (*store.Tx).PruneJobs, true},
		{"sessions", keep.Sessions, (*store.Tx).PruneSessions, true},
		{"machines", machines, (*store.Tx).PruneMachines, true},
	} {
		if err := c.forget(ctx, f); err != nil {
			errs = append(errs, fmt.Errorf("forget old %s: %w", f.what, err))
		}
	}
	return errors.Join(errs...)
}

func (c *Control) forget(ctx context.Context, f forgetting) error {
	for more := f.keep != 0; more; {
		err := c.Store.Write(ctx, func(tx *store.Tx) error {
			more = false
			if ok, err := clockIsTrusted(tx); err != nil || !ok {
				return err
			}
			before := tx.Now().Add(-time.Duration(f.keep))
			if f.billed {
				horizon, err := tx.Horizon()
				if err != nil {
					return err
				}
				before = store.Day(earlier(before, horizon))
			}
			n, err := f.step(tx, before, foldRows)
			more = n > 0
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// pruneOutput removes the directories of jobs that ended long enough ago.
func (c *Control) pruneOutput(ctx context.Context) error {
	const page = 100
	var from time.Time
	var failed error
	for {
		var jobs []store.JobRow
		shares := map[string]dspool.Share{}
		err := c.Store.Read(ctx, func(tx *store.Tx) error {
			keep, err := retention(tx)
			if err != nil || keep.Output == 0 {
				return err
			}
			if ok, err := clockIsTrusted(tx); err != nil || !ok {
				return err
			}
			list, err := tx.Shares()
			if err != nil {
				return err
			}
			for _, s := range list {
				shares[s.Name] = s
			}
			jobs, err = tx.Outputs(from, tx.Now().Add(-time.Duration(keep.Output)), page)
			return err
		})
		if err != nil {
			return err
		}
		for _, j := range jobs {
			if err := c.removeOutput(ctx, j, shares); err != nil {
				failed = fmt.Errorf("remove output of job %d: %w", j.ID, err) // the latest stands for all
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			from = j.Ended.Add(time.Microsecond)
		}
		if len(jobs) < page {
			return failed
		}
	}
}

// removeOutput removes a job's directory as its user. A share that is gone took it along.
func (c *Control) removeOutput(ctx context.Context, j store.JobRow, shares map[string]dspool.Share) error {
	if share, there := shares[j.Share]; there && j.Dir != "" {
		if j.Dir != JobDir(j.User, j.ID) {
			return dspool.Errorf(dspool.Internal, "%s is not its directory", dspool.Quote(j.Dir))
		}
		root, err := openShare(share)
		if err != nil {
			return err
		}
		defer root.Close()
		if err := ownerOf(dspool.User{UID: j.UID}).RemoveAll(ctx, root, j.Dir); err != nil {
			return err
		}
	}
	return c.Store.Write(ctx, func(tx *store.Tx) error { return tx.SetOutputRemoved(j.ID) })
}
