package cli

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/client"
)

// jobFlags are what `run` and `job submit` have in common.
type jobFlags struct {
	req api.SubmitRequest
	env []string
}

func (a *app) bindJob(cmd *cobra.Command, f *jobFlags) {
	flags := cmd.Flags()
	flags.SetInterspersed(false) // everything from the command's first word on is the command's
	text(cmd, &f.req.Pool, "pool", "POOL", "where to run (default: the configuration's defaults.pool)")
	text(cmd, &f.req.Size, "size", "SIZE", "size of machine (default: the pool's first that one task fits)")
	flag(cmd, &f.req.CPUs, "cpus", "cores", "cores per task, in steps of 0.001 (default 1)", dspool.ParseCPUs)
	flag(cmd, &f.req.Memory, "memory", "bytes", "memory per task, such as 512MiB (default: its share of the machine by cpus)", dspool.ParseMemory)
	count(cmd, &f.req.GPUs, "gpus", "whole GPUs per task")
	flags.StringArrayVar(&f.env, "env", nil, "set `K=V` in the task's environment; K alone takes it from here (may be repeated)")
	flag(cmd, &f.req.TimeLimit, "time-limit", "duration", "end a task that runs longer, such as 90s, 2h or 1d", dspool.ParseDuration)
	text(cmd, &f.req.Name, "name", "NAME", "name of the job, for people (default: the command's first word)")
	text(cmd, &f.req.As, "as", "USER", "run as this user (administrators; default: defaults.user)")
	var last int64
	flag(cmd, &last, "after", "JOB", "start only when this job has succeeded (may be repeated)", func(s string) (int64, error) {
		id, err := jobID(s)
		if err == nil {
			f.req.After = append(f.req.After, id)
		}
		return id, err
	})
	a.completeFlag(cmd, "pool", poolNames)
	a.completeFlag(cmd, "size", sizeNames)
	a.completeFlag(cmd, "as", userNames)
	a.completeFlag(cmd, "after", jobIDs)
	cmd.ValidArgsFunction = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return nil, cobra.ShellCompDirectiveDefault
	}
}

// request finishes the request from the flags and the command after them.
func (a *app) request(f *jobFlags, args []string) (api.SubmitRequest, error) {
	f.req.Command = args
	if len(f.env) > 0 {
		f.req.Env = map[string]string{}
	}
	for _, e := range f.env {
		k, v, given := strings.Cut(e, "=")
		if !given {
			if v, given = a.LookupEnv(k); !given {
				return f.req, dspool.Errorf(dspool.Invalid, "--env: %s is not set here", dspool.Quote(k)).WithHint("give it a value: --env %s=VALUE", clean(cut(k, 40)))
			}
		}
		f.req.Env[k] = v
	}
	return f.req, nil
}

func (a *app) run() *cobra.Command {
	var f jobFlags
	cmd := command("run [flags] -- COMMAND [ARG...]", "Run one command on a machine of a pool, as if it ran here",
		`Its stdout and stderr come as they are written, and dspool ends with its exit
code. Nothing is read from stdin. The command runs without a shell, in its own
directory on the share of jobs, where stdout.txt and stderr.txt stay.

Ctrl-C asks whether to cancel the job or to detach from it; a second Ctrl-C
cancels. Where there is no terminal, Ctrl-C and SIGTERM cancel, and so does a
pipe whose reader has gone.`,
		"dspool run -- python -c 'print(6*7)'\ndspool run --pool batch --cpus 2 --memory 4GiB -- python train.py --epochs 3\ndspool run --env SEED=1 --env HF_TOKEN --time-limit 2h -- sh -c 'echo $SEED'",
		positional(1, -1), a.with(func(ctx context.Context, c *client.Client, args []string) error {
			req, err := a.request(&f, args)
			if err != nil {
				return err
			}
			return a.submitAndFollow(ctx, c, req, true)
		}))
	a.bindJob(cmd, &f)
	return cmd
}

func (a *app) jobSubmit() *cobra.Command {
	var f jobFlags
	var wait bool
	var form string
	cmd := command("submit [flags] -- COMMAND [ARG...]", "Submit a job, or an array of tasks, and print its number",
		`With --array every index is one task of the job; a task finds its own in
DSPOOL_TASK_INDEX and their number in DSPOOL_TASK_COUNT. A million tasks are
as quickly submitted as one.

With --wait it ends when the job has: with 0 if every task succeeded.`,
		`dspool job submit -- python train.py
dspool job submit --array 1-1000 --max-running 50 --name sweep -- sh -c 'python sweep.py --seed $DSPOOL_TASK_INDEX'
dspool job submit --after 12 --wait -- python gather.py`,
		positional(1, -1), a.with(func(ctx context.Context, c *client.Client, args []string) error {
			req, err := a.request(&f, args)
			if err != nil {
				return err
			}
			if wait {
				return a.submitAndFollow(ctx, c, req, false)
			}
			job, err := c.Submit(ctx, req)
			if err != nil {
				return err
			}
			return a.submitted(form, job)
		}))
	a.bindJob(cmd, &f)
	flag(cmd, &f.req.Array, "array", "indices", "one task for each index, such as 1-1000 or 1-10,20", array)
	count(cmd, &f.req.MaxRunning, "max-running", "most tasks of the job that run at once (default: no limit)")
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until the job has ended")
	return showOutput(cmd, &form)
}

func (a *app) submitted(form string, job dspool.Job) error {
	if form == "json" {
		return a.json(job)
	}
	a.printf("%d\n", job.ID)
	a.sayHeld(job)
	return nil
}

// sayHeld tells who submits a job that none can start now.
func (a *app) sayHeld(job dspool.Job) {
	if job.Reason.Is(dspool.WhyHeld, dspool.WhyHeldTrying) {
		fmt.Fprintf(a.Stderr, "job %d waits: %s\n", job.ID, job.Reason)
	}
}

// submitAndFollow submits a job and stays with it: run shows its output and ends with its
// exit code, else only its number is printed and the code says whether it succeeded.
func (a *app) submitAndFollow(ctx context.Context, c *client.Client, req api.SubmitRequest, run bool) error {
	// From here on a signal is a question about the job, also while it is being submitted.
	signals, release := a.interrupts()
	defer release()
	if run && a.Signals == nil {
		signal.Ignore(syscall.SIGPIPE) // so that writing says that nobody reads; see unread
	}
	job, early, err := submit(ctx, c, req, signals)
	if err != nil {
		return err
	}
	if !run {
		a.printf("%d\n", job.ID)
		a.sayHeld(job)
	}
	f := &follower{a: a, c: c, id: job.ID, output: run, signals: signals}
	if early != nil {
		if err := f.signalled(ctx, early); err != nil {
			return err
		}
	}
	job, err = f.follow(ctx)
	if err != nil {
		return err
	}
	if f.cancelledBy != nil {
		return &exit{code: signalCode(f.cancelledBy)}
	}
	if !run {
		return a.verdict(job)
	}
	task, err := c.Task(ctx, job.ID, f.index)
	if err != nil {
		return while(err, "read exit code of job %d", job.ID)
	}
	if task.State == dspool.TaskSucceeded {
		a.remark(job)
		return nil
	}
	code := exitFailed
	if task.State == dspool.TaskFailed && task.ExitCode != nil && *task.ExitCode != 0 {
		code = *task.ExitCode
	}
	reason := task.Reason.Or(job.Reason).Text
	if reason == "" {
		reason = "exit code " + strconv.Itoa(code)
	}
	return &exit{code: code, err: fmt.Errorf("job %d %s: %s", job.ID, task.State, reason)}
}

// submit submits a job. A signal meanwhile is returned, to be answered once the job has a
// number; a second one gives up.
func submit(ctx context.Context, c *client.Client, req api.SubmitRequest, signals <-chan os.Signal) (job dspool.Job, early os.Signal, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	done := make(chan struct{})
	go func() {
		defer close(done)
		job, err = c.Submit(ctx, req)
	}()
	for {
		select {
		case <-done:
			return job, early, err
		case sig := <-signals:
			if early != nil {
				cancel(&interrupted{sig})
			}
			early = sig
		}
	}
}

// remark says what went wrong in a job that succeeded.
func (a *app) remark(job dspool.Job) {
	if job.Reason.Is(dspool.WhyKilledSome, dspool.WhyKilledTasks) {
		a.say("dspool: job %d %s, but: %s", job.ID, job.State, clean(job.Reason.Text))
	}
}

// verdict is a failed job as an error.
func (a *app) verdict(job dspool.Job) error {
	if job.State == dspool.JobSucceeded {
		a.remark(job)
		return nil
	}
	reason := job.Reason.Text
	if reason == "" {
		reason = counts(job.Tasks)
	}
	err := dspool.Errorf(dspool.Internal, "job %d %s: %s", job.ID, job.State, reason).WithHint("see `dspool job show %d`", job.ID)
	return &exit{code: exitFailed, err: err}
}
