package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strconv"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/asuser"
	"github.com/dspool/dspool/internal/auth"
	"github.com/dspool/dspool/internal/store"
)

// Output is a task's stdout or stderr, read from the share with the rights of the job's user.
type Output struct {
	c      *Control
	who    auth.Subject
	job    store.JobRow
	index  int64
	as     asuser.Cred // the job's user
	path   string      // of the file, relative to the share
	share  dspool.Share
	offset int64
	file   *os.File
}

// pollOutput is how often a growing file is looked at. A share may be a network file system,
// which tells nobody of changes.
const pollOutput = 50 * time.Millisecond

// OpenOutput finds a task's output. It may not be written yet.
func (c *Control) OpenOutput(ctx context.Context, who auth.Subject, id, index int64, stream string, offset int64) (*Output, error) {
	if stream != "stdout" && stream != "stderr" {
		return nil, dspool.Errorf(dspool.Invalid, "there is no output %s", dspool.Quote(stream)).WithHint("use stdout or stderr")
	}
	if offset < 0 {
		return nil, dspool.Errorf(dspool.Invalid, "offset %d is negative", offset)
	}
	o := &Output{c: c, who: who, index: index, offset: offset}
	err := c.Store.Read(ctx, func(tx *store.Tx) (err error) {
		if o.job, err = seenJob(tx, who, id); err != nil {
			return err
		}
		if _, err = taskOf(tx, o.job, index); err != nil {
			return err
		}
		owner, err := accountsOf(tx).of(o.job.User, o.job.UID)
		if err != nil {
			return err
		}
		o.as = credOf(owner)
		o.share, err = tx.Share(o.job.Share)
		o.path = path.Join(o.job.Dir, strconv.FormatInt(index, 10), stream+".txt")
		return err
	})
	if err != nil {
		return nil, err
	}
	return o, o.find()
}

// find opens the file if it is there, so that what is wrong with it is said before the answer begins.
func (o *Output) find() error {
	f, err := o.open()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return dspool.Errorf(dspool.Conflict, "output of task %d of job %d cannot be read: %w", o.index, o.job.ID, err).
			WithHint("the task's directory may have been changed: look at %s on share %s", path.Dir(o.path), o.share.Name)
	}
	o.file = f
	return nil
}

// Copy writes the output to w from the offset on; with follow until the task has ended.
func (o *Output) Copy(ctx context.Context, w io.Writer, follow bool) error {
	defer func() {
		if o.file != nil {
			o.file.Close()
		}
	}()
	buf := make([]byte, 256<<10)
	for {
		changed := o.c.Changed(TopicJob(o.job.ID))
		// Whether it ended is asked before the last read, so that nothing written before the end is missed.
		task, err := o.c.Task(ctx, o.who, o.job.ID, o.index)
		if err != nil {
			return err
		}
		if err := o.drain(ctx, w, buf); err != nil {
			return err
		}
		if !follow || task.State.Ended() {
			return nil
		}
		pause := pollOutput
		if task.State == dspool.TaskPending {
			pause = time.Minute // the wake tells
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-changed:
		case <-ctx.Done():
		case <-o.c.base.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if o.c.base.Err() != nil {
			return dspool.Errorf(dspool.Unavailable, "the server stops")
		}
	}
}

// drain writes everything that the file holds beyond the offset.
func (o *Output) drain(ctx context.Context, w io.Writer, buf []byte) error {
	if o.file == nil {
		if err := o.find(); err != nil || o.file == nil {
			return err
		}
	}
	for ctx.Err() == nil { // a file may be long, and who asks be shut out meanwhile
		n, err := o.file.ReadAt(buf, o.offset)
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return fmt.Errorf("send output: %w", err)
			}
			o.offset += int64(n)
		}
		if err == io.EOF {
			return nil
		} else if err != nil {
			return fmt.Errorf("read output: %w", err)
		}
	}
	return ctx.Err()
}

// open opens the file as the job's user: what the user could not read is not read.
func (o *Output) open() (*os.File, error) {
	root, err := asuser.OpenRoot(o.share.Path)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	return o.as.Read(root, o.path)
}
