package cli

import (
	"context"
	"strconv"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/client"
)

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
	begun := false
	for {
		l, err := c.Tasks(ctx, id, client.TaskFilter{After: after, Limit: page})
		if err != nil {
			return err
		}
		for _, t := range l.Items {
			if t.Started == nil {
				continue
			}
			begun = true
			a.printf("==> task %d <==\n", t.Index)
			if err := a.taskLogs(ctx, c, id, t.Index, streams, false); err != nil {
				return while(err, "read output of task %d", t.Index)
			}
		}
		if !l.More || len(l.Items) == 0 {
			if !begun {
				a.say("no task of job %d has begun", id)
			}
			return nil
		}
		after = &l.Items[len(l.Items)-1].Index
	}
}
