package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/client"
)

// follower stays with a job until it has ended: it shows why the job waits, copies its
// output, and asks what to do when a signal comes.
type follower struct {
	a       *app
	c       *client.Client
	id      int64
	index   int64 // of the task whose output is shown
	output  bool
	signals <-chan os.Signal

	cancelledBy os.Signal // set once a signal cancelled the job
	gate        sync.Mutex
}

type jobUpdate struct {
	job dspool.Job
	err error
}

func (f *follower) follow(ctx context.Context) (dspool.Job, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	line := f.a.progress()
	defer line.Stop()

	updates := make(chan jobUpdate)
	go func() {
		defer close(updates)
		for j, err := range f.c.StreamJob(ctx, f.id) {
			select {
			case updates <- jobUpdate{j, err}:
			case <-ctx.Done():
				return
			}
		}
	}()

	var job dspool.Job
	copied := make(chan error, 2)
	copying, copies, warned := false, 0, false
	for updates != nil || copies > 0 {
		select {
		case u, open := <-updates:
			if !open {
				updates = nil
				continue
			}
			if u.err != nil {
				return job, u.err
			}
			job = u.job
			line.Set(waiting(job))
			if !warned && !job.State.Ended() && job.Reason.Is(dspool.WhyKilledTasks) {
				warned = true
				line.Stop()
				f.a.say("dspool: job %d: %s", f.id, clean(job.Reason.Text))
			}
			if f.output && !copying && (job.State.Ended() || job.Tasks.Pending < job.Tasks.Total) {
				copying, copies = true, 2
				// The line would stand in the output's way.
				line.Stop()
				go func() { copied <- f.copy(ctx, "stdout", f.a.Stdout) }()
				go func() { copied <- f.copy(ctx, "stderr", f.a.Stderr) }()
			}
		case err := <-copied:
			copies--
			if errors.Is(err, syscall.EPIPE) {
				line.Stop()
				return job, f.unread(ctx, job)
			}
			if err != nil {
				return job, while(err, "read output of job %d", f.id)
			}
		case sig := <-f.signals:
			line.Stop()
			if err := f.signalled(ctx, sig); err != nil {
				return job, err
			}
		case <-ctx.Done():
			return job, context.Cause(ctx)
		}
	}
	return job, nil
}

// waiting says on one line what a job does now.
func waiting(j dspool.Job) string {
	head := fmt.Sprintf("job %d", j.ID)
	switch {
	case j.Tasks.Total > 1 && j.State != dspool.JobQueued:
		ended := j.Tasks.Total - j.Tasks.Pending - j.Tasks.Active()
		head += fmt.Sprintf(": %d of %d tasks ended, %d running", ended, j.Tasks.Total, j.Tasks.Running)
	case j.State != dspool.JobQueued:
		head += " runs"
	case j.Reason.Is(dspool.WhyWaitsForJob, dspool.WhyWaitsForRoom, dspool.WhyRoomReserved, dspool.WhyShortTasks, dspool.WhyMachineStarting):
		return head + " " + j.Reason.Text // "waits for …"
	default:
		head += " waits"
	}
	if !j.Reason.IsZero() && !j.State.Ended() && j.Tasks.Pending > 0 {
		head += ": " + j.Reason.Text
	}
	return head
}

func (f *follower) copy(ctx context.Context, stream string, w io.Writer) error {
	_, err := f.c.CopyOutput(ctx, client.Output{Job: f.id, Index: f.index, Stream: stream, Follow: true}, &gated{f, w})
	return err
}

// gated lets output through except while a question is being asked.
type gated struct {
	f *follower
	w io.Writer
}

func (g *gated) Write(p []byte) (int, error) {
	g.f.gate.Lock()
	defer g.f.gate.Unlock()
	return g.w.Write(p)
}

// signalled cancels the job, detaches from it, or asks which; a signal after the job was
// cancelled ends the command at once.
func (f *follower) signalled(ctx context.Context, sig os.Signal) error {
	if f.cancelledBy != nil {
		f.a.say("dspool: job %d is still being cancelled", f.id)
		return &exit{code: signalCode(sig)}
	}
	if sig != syscall.SIGTERM && f.a.StdinTTY && f.a.StderrTTY {
		if detach := f.ask(); detach {
			f.a.say("dspool: job %d goes on; `dspool job logs -f %d` shows it, `dspool job cancel %d` ends it", f.id, f.id, f.id)
			return &exit{code: exitOK}
		}
	}
	f.cancelledBy = sig
	f.a.say("dspool: cancelling job %d", f.id)
	if _, err := f.c.CancelJob(ctx, f.id); err != nil {
		return while(err, "cancel job %d", f.id)
	}
	return nil
}

// unread cancels a job whose output nobody reads any more, as the kernel would end a program
// that ran here: `dspool run -- yes | head`.
func (f *follower) unread(ctx context.Context, job dspool.Job) error {
	end := &exit{code: signalCode(syscall.SIGPIPE)}
	if job.State.Ended() {
		return end
	}
	f.a.say("dspool: nobody reads the output any more: cancelling job %d", f.id)
	if _, err := f.c.CancelJob(ctx, f.id); err != nil {
		return while(err, "cancel job %d", f.id)
	}
	return end
}

// ask asks until there is an answer. Another signal is the answer "cancel", the end of input "detach".
func (f *follower) ask() (detach bool) {
	f.gate.Lock()
	defer f.gate.Unlock()
	lines := make(chan string)
	go func() {
		defer close(lines)
		in := bufio.NewScanner(f.a.Stdin)
		for in.Scan() {
			lines <- strings.ToLower(strings.TrimSpace(in.Text()))
		}
	}()
	for {
		fmt.Fprintf(f.a.Stderr, "\ncancel the job, or detach? [c/d] ")
		select {
		case s, open := <-lines:
			switch {
			case !open || s == "d" || s == "detach":
				return true
			case s == "c" || s == "cancel":
				return false
			}
		case <-f.signals:
			fmt.Fprintln(f.a.Stderr)
			return false
		}
	}
}
