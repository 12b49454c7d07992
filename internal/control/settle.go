package control

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/store"
)

// ledger moves attempts and their jobs together within one transaction: every change of
// an attempt's state goes through it, so that a job's counts are always the sum of its tasks.
type ledger struct {
	*work
	jobs     map[int64]*store.JobRow
	attempts []store.AttemptRow // changed
	recalled []int64            // to delete
}

func newLedger(w *work) *ledger { return &ledger{work: w, jobs: map[int64]*store.JobRow{}} }

// load reads the jobs of attempts that are not in the ledger yet.
func (l *ledger) load(rows []store.AttemptRow) error {
	var ids []int64
	for _, a := range rows {
		if l.jobs[a.Job] == nil && !slices.Contains(ids, a.Job) {
			ids = append(ids, a.Job)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	jobs, err := l.JobsByID(ids)
	if err != nil {
		return err
	}
	for id, j := range jobs {
		l.jobs[id] = &j
	}
	return nil
}

func count(c *dspool.Counts, s dspool.TaskState, n int64) {
	switch s {
	case dspool.TaskPending:
		c.Pending += n
	case dspool.TaskAssigned:
		c.Assigned += n
	case dspool.TaskRunning:
		c.Running += n
	case dspool.TaskSucceeded:
		c.Succeeded += n
	case dspool.TaskFailed:
		c.Failed += n
	case dspool.TaskCancelled:
		c.Cancelled += n
	case dspool.TaskLost:
		c.Lost += n
	}
}

// outcome is what is newly known of an attempt.
type outcome struct {
	State    dspool.TaskState
	ExitCode *int
	Reason   dspool.Reason
	Started  *time.Time
	Ended    *time.Time
}

// move takes an attempt to an outcome and says whether it did. One that its states do not
// allow changes nothing: it has been reported before.
func (l *ledger) move(a store.AttemptRow, o outcome) bool {
	if a.State == o.State || !a.State.CanBecome(o.State) {
		return false
	}
	job := l.jobs[a.Job]
	count(&job.Tasks, a.State, -1)
	count(&job.Tasks, o.State, +1)
	now := l.Now()
	if o.Reason.Is(dspool.WhyKilledSome) && !a.Reason.Is(dspool.WhyKilledSome) {
		job.Killed++
	}
	a.State, a.Reason = o.State, o.Reason
	if o.ExitCode != nil {
		a.ExitCode = o.ExitCode
	}
	if a.Started == nil && o.Started != nil {
		t := clamp(*o.Started, a.Assigned, now)
		a.Started = &t
		if job.Started == nil || t.Before(*job.Started) {
			job.Started = &t
		}
	}
	if o.State.Ended() {
		t := now
		if o.Ended != nil {
			t = clamp(*o.Ended, a.Assigned, now)
		}
		if a.Started != nil {
			t = clamp(t, *a.Started, now)
			job.TaskSum += t.Sub(*a.Started)
		}
		a.Ended = &t
		if job.TaskEnded == nil || t.After(*job.TaskEnded) {
			job.TaskEnded = &t
		}
	}
	for i := range a.Claims {
		a.Claims[i].Started, a.Claims[i].Ended = a.Started, a.Ended
		if a.Ended != nil {
			l.wake(topicLeft(a.Claims[i].Machine))
		}
	}
	l.attempts = append(l.attempts, a)
	if job.State == dspool.JobQueued && a.Started != nil {
		job.State = dspool.JobRunning
	}
	l.wake(TopicJob(a.Job), topicPlan)
	return true
}

// killed notes that the kernel killed some of an attempt that runs on, and says whether it did.
func (l *ledger) killed(a store.AttemptRow, why dspool.Reason) bool {
	if a.State != dspool.TaskRunning || !why.Is(dspool.WhyKilledSome) || a.Reason.Equal(why) {
		return false
	}
	if !a.Reason.Is(dspool.WhyKilledSome) {
		l.jobs[a.Job].Killed++
	}
	a.Reason = why
	l.attempts = append(l.attempts, a)
	l.wake(TopicJob(a.Job))
	return true
}

// putBack returns a recalled attempt that never started to the queue.
func (l *ledger) putBack(a store.AttemptRow) {
	job := l.jobs[a.Job]
	count(&job.Tasks, a.State, -1)
	if job.Cancelling {
		count(&job.Tasks, dspool.TaskCancelled, +1)
	} else {
		count(&job.Tasks, dspool.TaskPending, +1)
		job.Pending.Add(a.Index)
	}
	l.recalled = append(l.recalled, a.ID)
	for _, cl := range a.Claims {
		l.wake(topicLeft(cl.Machine))
	}
	l.wake(TopicJob(a.Job), topicPlan)
}

// clamp keeps a time that a machine reports within what can be true.
func clamp(t, from, to time.Time) time.Time {
	if t.Before(from) {
		return from
	}
	if t.After(to) {
		return to
	}
	return t
}

// flush writes everything down and ends the jobs that have nothing left to do.
func (l *ledger) flush() error {
	if err := l.UpdateAttempts(l.attempts); err != nil {
		return err
	}
	if err := l.DeleteAttempts(l.recalled); err != nil {
		return err
	}
	for _, id := range slices.Sorted(maps.Keys(l.jobs)) {
		job := l.jobs[id]
		ended := !job.State.Ended() && job.Tasks.Pending == 0 && job.Tasks.Active() == 0
		if ended {
			l.end(job)
		}
		if err := l.UpdateJob(*job); err != nil {
			return err
		}
		if ended {
			if err := l.announce(*job); err != nil {
				return err
			}
		}
	}
	return nil
}

// end gives a job its final state from its counts.
func (l *ledger) end(job *store.JobRow) {
	t := job.Tasks
	now := l.Now()
	job.Ended = &now
	if slices.ContainsFunc(l.attempts, func(a store.AttemptRow) bool { return a.Job == job.ID && a.Ended != nil }) {
		job.Ended = job.TaskEnded // which may have been while the server was away
	}
	switch {
	case t.Failed+t.Lost > 0:
		job.State, job.Reason = dspool.JobFailed, l.whyNot(job)
	case t.Cancelled > 0 && job.Cancelling:
		job.State = dspool.JobCancelled
	case t.Cancelled > 0: // only tasks of it were
		job.State, job.Reason = dspool.JobCancelled, l.whyNot(job)
	default:
		job.State, job.Reason = dspool.JobSucceeded, dspool.Reason{}
		if t.Total == 1 {
			job.Reason = l.ofOnly(job.ID)
		}
	}
	if job.State == dspool.JobCancelled || t.Total != 1 {
		job.Reason = withKilled(*job)
	}
}

// withKilled is a job's reason, and that the kernel killed some of its tasks where it did.
func withKilled(job store.JobRow) dspool.Reason {
	if job.Killed == 0 {
		return job.Reason
	}
	return dspool.Why(dspool.WhyKilledTasks, dspool.ReasonParams{Bytes: job.Spec.Memory, Count: job.Killed, Limit: job.Tasks.Total}).With(job.Reason)
}

// whyNot is why a job did not succeed: the reason of its only task, or a sum.
func (l *ledger) whyNot(job *store.JobRow) dspool.Reason {
	if job.Tasks.Total != 1 {
		return failure(job.Tasks)
	}
	return l.ofOnly(job.ID)
}

// ofOnly is the reason of a job's only task.
func (l *ledger) ofOnly(job int64) dspool.Reason {
	for _, a := range l.attempts {
		if a.Job == job {
			return a.Reason
		}
	}
	return dspool.Reason{}
}

// failure sums up what became of an array that did not succeed.
func failure(t dspool.Counts) dspool.Reason {
	var parts []dspool.Reason
	for _, p := range []struct {
		n    int64
		code dspool.ReasonCode
	}{{t.Failed, dspool.WhyCountFailed}, {t.Lost, dspool.WhyCountLost}, {t.Cancelled, dspool.WhyCountCancelled}} {
		if p.n > 0 {
			parts = append(parts, dspool.Why(p.code, dspool.ReasonParams{Count: p.n}))
		}
	}
	return dspool.Why(dspool.WhyTasksNot, dspool.ReasonParams{Limit: t.Total}).With(parts...)
}

// announce tells of a job's end and unblocks or cancels the jobs that wait for it.
func (l *ledger) announce(job store.JobRow) error {
	l.wake(TopicJob(job.ID), topicPlan)
	err := l.event(dspool.Event{
		Actor: "server", Kind: "job." + string(job.State), Pool: job.Spec.Pool, Job: job.ID, User: job.User,
		Message: fmt.Sprintf("job %d %s", job.ID, job.State), Reason: job.Reason.Or(dspool.Why(dspool.WhySucceeded, dspool.ReasonParams{Count: job.Tasks.Total})),
	})
	if err != nil {
		return err
	}
	waiting, err := l.JobsAfter(job.ID)
	if err != nil || len(waiting) == 0 {
		return err
	}
	rows, err := l.JobsByID(waiting)
	if err != nil {
		return err
	}
	for _, id := range waiting {
		w := rows[id]
		if w.State.Ended() {
			continue
		}
		if job.State != dspool.JobSucceeded {
			if err := l.cancelJob(&w, dspool.Why(dspool.WhyAfterEnded, dspool.ReasonParams{Job: job.ID, User: job.User, Name: string(job.State)})); err != nil {
				return err
			}
			continue
		}
		if w.Blocked, err = l.blocker(w.Spec.After); err != nil {
			return err
		}
		if err := l.UpdateJob(w); err != nil {
			return err
		}
	}
	return nil
}

// blocker says for which of the jobs one still has to wait; none if for none.
func (w *work) blocker(after []int64) (dspool.Reason, error) {
	if len(after) == 0 {
		return dspool.Reason{}, nil
	}
	jobs, err := w.JobsByID(after)
	if err != nil {
		return dspool.Reason{}, err
	}
	for _, id := range after {
		if jobs[id].State != dspool.JobSucceeded {
			return dspool.Why(dspool.WhyWaitsForJob, dspool.ReasonParams{Job: id, User: jobs[id].User}), nil
		}
	}
	return dspool.Reason{}, nil
}

// cancelJob takes a job's pending tasks out of the queue and asks machines to end the others.
func (w *work) cancelJob(job *store.JobRow, why dspool.Reason) error {
	job.Cancelling, job.Reason, job.Blocked = true, why, dspool.Reason{}
	job.Tasks.Cancelled += job.Tasks.Pending
	job.Tasks.Pending, job.Pending = 0, dspool.IndexSet{}
	open, err := w.OpenAttemptsOfJob(job.ID)
	if err != nil {
		return err
	}
	ids := make([]int64, 0, len(open))
	for _, a := range open {
		ids = append(ids, a.ID)
		for _, cl := range a.Claims {
			w.wake(TopicMachine(cl.Machine))
		}
	}
	if err := w.SetDesired(ids, store.Cancel, why); err != nil {
		return err
	}
	w.wake(TopicJob(job.ID), topicPlan)
	l := newLedger(w)
	l.jobs[job.ID] = job
	return l.flush()
}

// loseAttempts ends everything still open on a machine that is no more since a time.
func (w *work) loseAttempts(machine string, why dspool.Reason, at time.Time) error {
	open, err := w.OpenAttempts(machine)
	if err != nil || len(open) == 0 {
		return err
	}
	l := newLedger(w)
	if err := l.load(open); err != nil {
		return err
	}
	for _, a := range open {
		state := dspool.TaskLost
		if len(a.Claims) > 0 && a.Claims[0].Desired == store.Cancel {
			state = dspool.TaskCancelled
		}
		l.move(a, outcome{State: state, Reason: why, Ended: &at})
		err := l.event(dspool.Event{
			Actor: "server", Kind: "task." + string(state), Machine: machine, Job: a.Job, User: a.User,
			Message: fmt.Sprintf("task %d of job %d %s", a.Index, a.Job, state), Reason: why,
		})
		if err != nil {
			return err
		}
	}
	return l.flush()
}
