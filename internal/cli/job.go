package cli

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

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
		{name: "REASON", text: func(j job) string { return cut(j.Reason, 60) }, raw: func(j job) string { return j.Reason }},
	}
}

func jobState(j dspool.Job) string {
	if j.Cancelling && !j.State.Ended() {
		return "cancelling"
	}
	return string(j.State)
}

func (a *app) jobShow() *cobra.Command {
	var form string
	cmd := command("show JOB", "Explain one job: its state and why, its tasks, its output", "",
		"dspool job show 12\ndspool job show 12 -o json", positional(1, 1),
		a.with(func(ctx context.Context, c *client.Client, args []string) error {
			id, err := jobID(args[0])
			if err != nil {
				return err
			}
			job, err := c.Job(ctx, id)
			if err != nil || form == "json" {
				return cmpErr(err, func() error { return a.json(job) })
			}
			return a.showJob(ctx, c, job)
		}))
	cmd.ValidArgsFunction = a.completion(1, jobIDs)
	return showOutput(cmd, &form)
}

func cmpErr(err error, then func() error) error {
	if err != nil {
		return err
	}
	return then()
}

func (a *app) showJob(ctx context.Context, c *client.Client, j dspool.Job) error {
	s := j.Spec
	state := jobState(j)
	if a.colours() {
		state = paintState(string(j.State)) + state + reset
	}
	waits, reason := "", clean(j.Reason)
	if j.Tasks.Pending > 0 && !j.State.Ended() {
		waits, reason = reason, ""
	}
	arr := ""
	if s.Array != "" {
		arr = s.Array
		if s.MaxRunning > 0 {
			arr += fmt.Sprintf(", at most %d at once", s.MaxRunning)
		}
	}
	var env []string
	for k := range s.Env {
		env = append(env, k)
	}
	slices.Sort(env)
	limit := ""
	if s.TimeLimit > 0 {
		limit = s.TimeLimit.String()
	}
	where := s.Pool
	if s.Size != "" {
		where += ", size " + s.Size
	}
	tasks, more, err := a.interestingTasks(ctx, c, j)
	if err != nil {
		return err
	}
	machines := map[string]int{}
	for _, t := range tasks {
		if t.Machine != "" && !t.State.Ended() {
			machines[t.Machine]++
		}
	}
	var on []string
	for m, n := range machines {
		on = append(on, fmt.Sprintf("%s (%s)", m, plural(int64(n), "task")))
	}
	slices.Sort(on)
	a.printf("job %d: %s\n", j.ID, clean(s.Name))
	a.facts(
		fact{"state", state}, fact{"reason", reason}, fact{"waits", waits}, fact{"tasks", counts(j.Tasks)}, fact{"machines", strings.Join(on, ", ")},
		fact{"command", cut(shellLine(s.Command), 400)}, fact{"array", clean(cut(arr, 200))}, fact{"user", j.User}, fact{"pool", where},
		fact{"each task", s.Request().String()}, fact{"time limit", limit}, fact{"environment", clean(cut(strings.Join(env, " "), 200))},
		fact{"after", strings.Trim(fmt.Sprint(s.After), "[]")},
		fact{"submitted", a.fullTime(&j.Created)}, fact{"started", a.fullTime(j.Started)}, fact{"ended", a.fullTime(j.Ended)},
		fact{"took", took(j.Started, j.Ended, a.Now())}, fact{"output", a.outputPlace(ctx, c, j)},
	)
	if len(tasks) == 0 {
		return nil
	}
	a.printf("\n")
	table(a, "  ", tasks, a.taskColumns()...)
	if more {
		a.printf("  …\n")
	}
	return nil
}

// shownTasks is how many tasks `job show` lists.
const shownTasks = 20

// interestingTasks are the first that went wrong, then those that run; of a job with few tasks all.
func (a *app) interestingTasks(ctx context.Context, c *client.Client, j dspool.Job) (tasks []dspool.Task, more bool, err error) {
	states := []dspool.TaskState{dspool.TaskFailed, dspool.TaskLost, dspool.TaskRunning, dspool.TaskAssigned}
	if j.Tasks.Total <= shownTasks {
		states = []dspool.TaskState{""}
	}
	for _, st := range states {
		l, err := c.Tasks(ctx, j.ID, client.TaskFilter{State: st, Limit: shownTasks})
		if err != nil {
			return nil, false, err
		}
		tasks = append(tasks, l.Items...)
		more = more || l.More
	}
	if len(tasks) > shownTasks {
		tasks, more = tasks[:shownTasks], true
	}
	return tasks, more, nil
}

func (a *app) taskColumns() []column[dspool.Task] {
	type task = dspool.Task
	return []column[task]{
		{name: "TASK", text: func(t task) string { return strconv.FormatInt(t.Index, 10) }, right: true},
		{name: "STATE", text: func(t task) string { return string(t.State) }, paint: func(t task) string { return paintState(string(t.State)) }},
		{name: "EXIT", text: func(t task) string {
			if t.ExitCode == nil {
				return ""
			}
			return strconv.Itoa(*t.ExitCode)
		}, right: true},
		{name: "MACHINE", text: func(t task) string { return t.Machine }},
		{name: "TOOK", text: func(t task) string { return took(t.Started, t.Ended, a.Now()) }},
		{name: "REASON", text: func(t task) string { return cut(t.Reason, 80) }},
	}
}

// outputPlace says where a job's output lies, as well as this user may know.
func (a *app) outputPlace(ctx context.Context, c *client.Client, j dspool.Job) string {
	task := "0"
	if set, err := dspool.ParseIndexSet(j.Spec.Array); err == nil && set.Len() > 0 {
		if task = "TASK"; set.Len() == 1 {
			task = set.String()
		}
	}
	dir := path.Join("jobs", j.User, strconv.FormatInt(j.ID, 10), task, "stdout.txt")
	st, err := c.Status(ctx)
	name := st.Defaults["jobs_share"]
	if err != nil || name == "" {
		return dir + " on the share of jobs"
	}
	shares, err := c.Shares(ctx)
	i := slices.IndexFunc(shares.Items, func(s shareStatus) bool { return s.Name == name })
	if err != nil || i < 0 {
		return dir + " on share " + name
	}
	out := path.Join(shares.Items[i].Mount, dir) + " on machines"
	if shares.Items[i].Path != "" {
		out = path.Join(shares.Items[i].Path, dir) + " on the server's host"
	}
	return clean(out)
}

func (a *app) jobLogs() *cobra.Command {
	var follow, onlyErr bool
	var index int64
	cmd := command("logs JOB", "Print the output of a job's tasks",
		`Stdout comes on stdout and stderr on stderr. Of an array all tasks come one after
another, unless --task names one. With -f it goes on until the task has ended.`,
		"dspool job logs 12\ndspool job logs -f 12\ndspool job logs 12 --task 7 --stderr", positional(1, 1),
		a.with(func(ctx context.Context, c *client.Client, args []string) error {
			id, err := jobID(args[0])
			if err != nil {
				return err
			}
			streams := []string{"stdout", "stderr"}
			if onlyErr {
				streams = streams[1:]
			}
			if index >= 0 {
				return a.taskLogs(ctx, c, id, index, streams, follow)
			}
			job, err := c.Job(ctx, id)
			if err != nil {
				return err
			}
			set, err := dspool.ParseIndexSet(job.Spec.Array)
			switch {
			case err != nil:
				return err
			case set.Len() == 0:
				return a.taskLogs(ctx, c, id, 0, streams, follow)
			case set.Len() == 1:
				return a.taskLogs(ctx, c, id, set.Take(1)[0], streams, follow)
			case follow:
				return dspool.Errorf(dspool.Invalid, "job %d has %d tasks: -f follows one", id, set.Len()).WithHint("name it with --task N, or leave out -f")
			}
			return a.allLogs(ctx, c, id, streams)
		}))
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on until the task has ended")
	cmd.Flags().BoolVar(&onlyErr, "stderr", false, "only its stderr, on stdout")
	flag(cmd, &index, "task", "index", "only of the task with this index", func(s string) (int64, error) {
		n, err := strconv.ParseInt(s, 10, 32)
		if err != nil || n < 0 {
			return 0, dspool.Errorf(dspool.Invalid, "%s is not a task's index", dspool.Quote(s))
		}
		return n, nil
	})
	index = -1
	cmd.ValidArgsFunction = a.completion(1, jobIDs)
	return cmd
}

func (a *app) taskLogs(ctx context.Context, c *client.Client, id, index int64, streams []string, follow bool) error {
	g, ctx := errgroup.WithContext(ctx)
	for i, s := range streams {
		w := a.Stdout
		if i == 1 {
			w = a.Stderr
		}
		o := client.Output{Job: id, Index: index, Stream: s, Follow: follow}
		g.Go(func() error {
			_, err := c.CopyOutput(ctx, o, w)
			return err
		})
	}
	return g.Wait()
}

// allLogs prints the output of every task that has begun, each under a heading as tail has them.
func (a *app) allLogs(ctx context.Context, c *client.Client, id int64, streams []string) error {
	var after *int64
	for {
		l, err := c.Tasks(ctx, id, client.TaskFilter{After: after, Limit: page})
		if err != nil {
			return err
		}
		for _, t := range l.Items {
			if t.Started == nil {
				continue
			}
			a.printf("==> task %d <==\n", t.Index)
			if err := a.taskLogs(ctx, c, id, t.Index, streams, false); err != nil {
				return fmt.Errorf("read output of task %d: %w", t.Index, err)
			}
		}
		if !l.More || len(l.Items) == 0 {
			return nil
		}
		after = &l.Items[len(l.Items)-1].Index
	}
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
