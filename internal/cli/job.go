package cli

import (
	"context"
	"errors"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/client"
)

func (a *app) job() *cobra.Command {
	return group("job", "Submit jobs and look after them", a.jobSubmit(), a.jobList(), a.jobShow(), a.jobLogs(), a.jobCancel(), a.jobWait())
}

// jobID reads a job's number.
func jobID(s string) (int64, error) {
	id, err := strconv.ParseInt(s, 10, 64)
	if err != nil || id < 1 {
		return 0, dspool.Errorf(dspool.Invalid, "%s is not a job's number", dspool.Quote(s)).WithHint("`dspool job list` shows them")
	}
	return id, nil
}

func jobNumbers(args []string) ([]int64, error) {
	var ids []int64
	for _, s := range args {
		id, err := jobID(s)
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// page is how many items one request asks for.
const page = 500

func (a *app) jobList() *cobra.Command {
	var f client.JobFilter
	var form, state string
	var limit int
	cmd := command("list", "List jobs, newest first", "Users see their own, administrators everybody's.",
		"dspool job list\ndspool job list --state running --pool batch\ndspool job list --limit 0 -o csv > jobs.csv",
		positional(0, 0), a.with(func(ctx context.Context, c *client.Client, _ []string) error {
			f.State = dspool.JobState(state)
			var jobs []dspool.Job
			more := true
			for more && (limit == 0 || len(jobs) < limit) {
				if f.Limit = page; limit > 0 {
					f.Limit = min(page, limit-len(jobs))
				}
				l, err := c.Jobs(ctx, f)
				if err != nil {
					return err
				}
				jobs = append(jobs, l.Items...)
				if more = l.More && len(l.Items) > 0; more {
					f.Before = l.Items[len(l.Items)-1].ID
				}
			}
			err := list(a, form, jobs, "no jobs", a.jobColumns()...)
			if more && form == "table" && err == nil {
				a.say("there are more: use --limit N, or --limit 0 for all")
			}
			return err
		}))
	text(cmd, &f.User, "user", "USER", "only of this user")
	text(cmd, &f.Pool, "pool", "POOL", "only in this pool")
	choice(cmd, &state, "state", "", "only in this state", "", "queued", "running", "succeeded", "failed", "cancelled")
	limit = 50
	count(cmd, &limit, "limit", "how many at most; 0 is all")
	a.completeFlag(cmd, "user", userNames)
	a.completeFlag(cmd, "pool", poolNames)
	return listOutput(cmd, &form)
}

func (a *app) jobColumns() []column[dspool.Job] {
	type job = dspool.Job
	n := func(n int64) string { return strconv.FormatInt(n, 10) }
	return []column[job]{
		{name: "JOB", text: func(j job) string { return n(j.ID) }, right: true},
		{name: "NAME", text: func(j job) string { return cut(j.Spec.Name, 28) }, raw: func(j job) string { return j.Spec.Name }},
		{name: "USER", text: func(j job) string { return j.User }},
		{name: "POOL", text: func(j job) string { return j.Spec.Pool }},
		{name: "STATE", text: func(j job) string { return jobState(j) }, raw: func(j job) string { return string(j.State) }, paint: func(j job) string { return paintState(string(j.State)) }},
		{name: "TASKS", text: func(j job) string { return n(j.Tasks.Total) }, right: true},
		{name: "WAITING", text: func(j job) string { return n(j.Tasks.Pending) }, right: true},
		{name: "RUNNING", text: func(j job) string { return n(j.Tasks.Active()) }, right: true},
		{name: "OK", text: func(j job) string { return n(j.Tasks.Succeeded) }, right: true},
		{name: "BAD", text: func(j job) string { return n(j.Tasks.Failed + j.Tasks.Lost) }, right: true},
		{name: "SUBMITTED", text: func(j job) string { return a.ago(j.Created) }, raw: func(j job) string { return rawTime(&j.Created) }},
		{name: "TOOK", text: func(j job) string { return took(j.Started, j.Ended, a.Now()) }, raw: func(j job) string {
			if j.Started == nil || j.Ended == nil {
				return ""
			}
			return rawFloat(j.Ended.Sub(*j.Started).Seconds())
		}},
		{name: "REASON", text: func(j job) string { return cut(j.Reason.Text, 60) }, raw: func(j job) string { return j.Reason.Text }},
	}
}

func jobState(j dspool.Job) string {
	if j.Cancelling && !j.State.Ended() {
		return "cancelling"
	}
	return string(j.State)
}

func (a *app) jobCancel() *cobra.Command {
	cmd := command("cancel JOB...", "Cancel jobs: what waits never starts, what runs is ended", "A job that has ended stays as it is.",
		"dspool job cancel 12\ndspool job cancel 12 13 14", positional(1, -1),
		a.with(func(ctx context.Context, c *client.Client, args []string) error {
			ids, err := jobNumbers(args)
			if err != nil {
				return err
			}
			var errs []error
			for _, id := range ids {
				j, err := c.CancelJob(ctx, id)
				if err != nil {
					errs = append(errs, err)
					continue
				}
				a.say("job %d is %s", j.ID, jobState(j))
			}
			return a.all(errs)
		}))
	cmd.ValidArgsFunction = a.completion(-1, openJobIDs)
	return cmd
}

// all says every error but the last, which it returns.
func (a *app) all(errs []error) error {
	if len(errs) == 0 {
		return nil
	}
	for _, err := range errs[:len(errs)-1] {
		a.complain(err)
	}
	return errs[len(errs)-1]
}

func (a *app) jobWait() *cobra.Command {
	cmd := command("wait JOB...", "Wait until jobs have ended", "It ends with 0 if all of them succeeded. Ctrl-C ends the waiting, not the jobs.",
		"dspool job wait 12\ndspool job wait 12 13 && echo both succeeded", positional(1, -1),
		a.with(func(ctx context.Context, c *client.Client, args []string) error {
			ids, err := jobNumbers(args)
			if err != nil {
				return err
			}
			var errs []error
			for _, id := range ids {
				line := a.progress()
				j, err := c.WaitJob(ctx, id, func(j dspool.Job) { line.Set(waiting(j)) })
				line.Stop()
				if err == nil {
					err = a.verdict(j)
				}
				if _, stop := asInterrupted(err); stop || errors.Is(err, context.Canceled) {
					return err
				}
				if err != nil {
					errs = append(errs, err)
				}
			}
			return a.all(errs)
		}))
	cmd.ValidArgsFunction = a.completion(-1, openJobIDs)
	return cmd
}
