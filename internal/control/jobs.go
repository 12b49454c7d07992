package control

import (
	"context"
	"fmt"
	"strconv"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/auth"
	"github.com/dspool/dspool/internal/store"
)

// Job returns a job that the subject may see.
func (c *Control) Job(ctx context.Context, who auth.Subject, id int64) (dspool.Job, error) {
	j, err := c.job(ctx, who, id)
	return showJob(who, j), err
}

func (c *Control) job(ctx context.Context, who auth.Subject, id int64) (row store.JobRow, err error) {
	err = c.Store.Read(ctx, func(tx *store.Tx) error {
		row, err = seenJob(tx, who, id)
		return err
	})
	return row, err
}

func seenJob(tx *store.Tx, who auth.Subject, id int64) (store.JobRow, error) {
	row, err := tx.Job(id)
	if dspool.ErrorCode(err) == dspool.NotFound || (err == nil && !auth.CanOld(who, auth.See, auth.Job, row.User, row.UID)) {
		return store.JobRow{}, hidden("job", strconv.FormatInt(id, 10))
	}
	return row, err
}

// JobQuery selects jobs.
type JobQuery struct {
	User, Pool string
	States     []dspool.JobState
	Before     int64
	Limit      int
}

// Jobs lists jobs, newest first: a user's own, an administrator's choice.
func (c *Control) Jobs(ctx context.Context, who auth.Subject, q JobQuery) (api.List[dspool.Job], error) {
	list := api.List[dspool.Job]{Items: []dspool.Job{}}
	if !who.Admin {
		if q.User != "" && q.User != who.User {
			return list, nil
		}
		q.User = who.User
	}
	q.Limit = pageSize(q.Limit)
	return list, c.Store.Read(ctx, func(tx *store.Tx) error {
		size := 0
		for {
			rows, err := tx.Jobs(store.JobFilter{User: q.User, Pool: q.Pool, States: q.States, Before: q.Before, Limit: 100})
			if err != nil {
				return err
			}
			for _, r := range rows {
				if !auth.CanOld(who, auth.See, auth.Job, r.User, r.UID) {
					return nil // and so are all that are older
				}
				if list.More = len(list.Items) == q.Limit || size > jobsBytes; list.More {
					return nil
				}
				size += specSize(r.Spec)
				list.Items = append(list.Items, showJob(who, r))
				q.Before = r.ID
			}
			if len(rows) < 100 {
				return nil
			}
		}
	})
}

// jobsBytes bounds the commands and environments in one listing: a job may have a quarter of a MiB.
const jobsBytes = 16 << 20

func specSize(s dspool.JobSpec) int {
	n := 0
	for _, arg := range s.Command {
		n += len(arg)
	}
	for k, v := range s.Env {
		n += len(k) + len(v)
	}
	return n
}

// pageSize keeps a listing's length within bounds; 0 asks for the usual length.
func pageSize(limit int) int {
	if limit <= 0 {
		return 100
	}
	return min(limit, 10_000)
}

// Cancel ends a job: what waits never starts, what runs is ended. A job that has ended stays as it is.
func (c *Control) Cancel(ctx context.Context, who auth.Subject, id int64) (dspool.Job, error) {
	var job store.JobRow
	err := c.write(ctx, func(w *work) (err error) {
		if job, err = seenJob(w.Tx, who, id); err != nil || job.State.Ended() || job.Cancelling {
			return err
		}
		if !auth.Can(who, auth.Change, auth.Job, job.User) {
			return forbid("cancel another user's job")
		}
		err = w.event(dspool.Event{
			Actor: who.Name(), Kind: "job.cancel", Pool: job.Spec.Pool, Job: id, User: job.User,
			Message: fmt.Sprintf("%s asked to cancel job %d", who.Name(), id),
		})
		if err != nil {
			return err
		}
		return w.cancelJob(&job, dspool.Why(dspool.WhyCancelledBy, dspool.ReasonParams{By: who.Name()}))
	})
	return showJob(who, job), err
}
