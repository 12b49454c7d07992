package control

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/auth"
	"github.com/dspool/dspool/internal/store"
)

// TaskQuery selects tasks of a job; After is the last index already seen, -1 for none.
type TaskQuery struct {
	State dspool.TaskState
	After int64
	Limit int
}

// Tasks lists a job's tasks by index. Those never placed are read from the job's index sets.
func (c *Control) Tasks(ctx context.Context, who auth.Subject, id int64, q TaskQuery) (api.List[dspool.Task], error) {
	list := api.List[dspool.Task]{Items: []dspool.Task{}}
	q.Limit = pageSize(q.Limit)
	return list, c.Store.Read(ctx, func(tx *store.Tx) error {
		job, err := seenJob(tx, who, id)
		if err != nil {
			return err
		}
		placed, err := tx.Tasks(id, store.TaskFilter{State: q.State, After: q.After, Limit: q.Limit + 1})
		if err != nil {
			return err
		}
		items := placed
		switch q.State {
		case dspool.TaskPending:
			items = unplaced(job, job.Pending, q)
		case "", dspool.TaskCancelled:
			if q.State == "" {
				items = append(items, unplaced(job, job.Pending, q)...)
			}
			never, err := neverPlaced(tx, job, q)
			if err != nil {
				return err
			}
			items = append(items, never...)
		}
		slices.SortFunc(items, func(a, b dspool.Task) int { return cmp.Compare(a.Index, b.Index) })
		if len(items) > q.Limit {
			items, list.More = items[:q.Limit], true
		}
		for _, t := range items {
			list.Items = append(list.Items, showTask(who, job.User, t))
		}
		return nil
	})
}

// unplaced makes the tasks of an index set of the job that have no attempt.
func unplaced(job store.JobRow, set dspool.IndexSet, q TaskQuery) (tasks []dspool.Task) {
	for i := range set.All {
		if len(tasks) > q.Limit {
			break
		}
		if i > q.After {
			tasks = append(tasks, dspool.Task{Job: job.ID, Index: i, State: dspool.TaskPending, Reason: job.Reason})
		}
	}
	return tasks
}

// neverPlaced makes the tasks that were cancelled while they were still pending: those of the
// array that were never placed.
func neverPlaced(tx *store.Tx, job store.JobRow, q TaskQuery) (tasks []dspool.Task, err error) {
	if !job.Cancelling {
		return nil, nil
	}
	all, err := dspool.ParseIndexSet(cmp.Or(job.Spec.Array, "0"))
	if err != nil {
		return nil, err
	}
	const page = 4096 // of placed ones read at a time: there may be millions
	var placed []dspool.Task
	last, more := q.After, true
	for i := range all.All {
		if i <= q.After {
			continue
		}
		for more && (len(placed) == 0 || placed[len(placed)-1].Index < i) {
			if placed, err = tx.Tasks(job.ID, store.TaskFilter{After: last, Limit: page}); err != nil {
				return nil, err
			}
			if more = len(placed) == page; len(placed) > 0 {
				last = placed[len(placed)-1].Index
			}
		}
		for len(placed) > 0 && placed[0].Index < i {
			placed = placed[1:]
		}
		if len(placed) > 0 && placed[0].Index == i {
			continue
		}
		if len(tasks) > q.Limit {
			break
		}
		tasks = append(tasks, dspool.Task{Job: job.ID, Index: i, State: dspool.TaskCancelled, Reason: job.Reason})
	}
	return tasks, nil
}

// Task returns one task of a job.
func (c *Control) Task(ctx context.Context, who auth.Subject, id, index int64) (task dspool.Task, err error) {
	err = c.Store.Read(ctx, func(tx *store.Tx) error {
		job, err := seenJob(tx, who, id)
		if err != nil {
			return err
		}
		task, err = taskOf(tx, job, index)
		task = showTask(who, job.User, task)
		return err
	})
	return task, err
}

func taskOf(tx *store.Tx, job store.JobRow, index int64) (dspool.Task, error) {
	task, found, err := tx.Task(job.ID, index)
	if err != nil || found {
		return task, err
	}
	all, err := dspool.ParseIndexSet(cmp.Or(job.Spec.Array, "0"))
	if err != nil {
		return task, err
	}
	if !all.Contains(index) {
		return task, dspool.Errorf(dspool.NotFound, "job %d has no task %d", job.ID, index).WithHint("%s", indexHint(all))
	}
	task = dspool.Task{Job: job.ID, Index: index, State: dspool.TaskPending, Reason: job.Reason}
	if job.Cancelling {
		task.State = dspool.TaskCancelled
	}
	return task, nil
}

func indexHint(all dspool.IndexSet) string {
	s := all.String()
	if len(s) > 60 {
		s = s[:60] + "…"
	}
	return fmt.Sprintf("its tasks are %s", s)
}
