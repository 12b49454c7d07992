package cli

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/client"
)

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
		fact{"state", state}, fact{"reason", clean(j.Reason.Text)}, fact{"tasks", counts(j.Tasks)}, fact{"machines", strings.Join(on, ", ")},
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
		{name: "REASON", text: func(t task) string { return cut(t.Reason.Text, 80) }},
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
