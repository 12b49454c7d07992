package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"net/http"
	"net/url"
	"reflect"
	"time"

	"github.com/dspool/dspool"
)

// maxFrame is the longest Server-Sent Event that is read.
const maxFrame = 8 << 20

// returning keeps something going over broken connections. It gives up once nothing has
// worked for the client's patience, at once where nothing ever has, and on errors that
// time does not heal.
type returning struct {
	c      *Client
	worked time.Time
	try    int
}

// ok notes that something worked.
func (r *returning) ok() { r.worked, r.try = time.Now(), 0 }

// again waits and says nil where trying again makes sense, else why not.
func (r *returning) again(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if !mayWork(err) || r.worked.IsZero() || time.Since(r.worked) > r.c.patience {
		return err
	}
	r.try++
	return pause(ctx, r.try-1)
}

var errStreamEnded = errors.New("the stream ended early")

// frames reads the data of one connection's Server-Sent Events; fn says whether to go on.
func (c *Client) frames(ctx context.Context, back *returning, path []string, query url.Values, fn func(data []byte) (bool, error)) error {
	resp, err := c.open(ctx, call{method: http.MethodGet, path: path, query: query}, "text/event-stream")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	back.ok()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(make([]byte, 64<<10), maxFrame)
	var data []byte
	for lines.Scan() {
		line := lines.Bytes()
		if field, ok := bytes.CutPrefix(line, []byte("data:")); ok {
			if len(data) > 0 {
				data = append(data, '\n')
			}
			if data = append(data, bytes.TrimPrefix(field, []byte(" "))...); len(data) > maxFrame {
				return dspool.Errorf(dspool.Internal, "%s sends an event of more than %s", c.where, dspool.FormatBytes(maxFrame))
			}
			continue
		}
		if len(line) > 0 || len(data) == 0 {
			continue // a comment that keeps the connection alive, or another field
		}
		more, err := fn(data)
		if err != nil || !more {
			return err
		}
		data = data[:0]
	}
	if err := lines.Err(); err != nil {
		return c.unreachable(ctx, err)
	}
	return c.unreachable(ctx, errStreamEnded)
}

func decodeFrame(data []byte, into any) error {
	if err := json.Unmarshal(data, into); err != nil {
		return dspool.Errorf(dspool.Internal, "the server sends an event that cannot be read: %w", err)
	}
	return nil
}

// StreamEvents yields events after f.After as they happen, each once and in order, also over
// broken connections. It ends with an error, that of ctx included, or when the caller stops.
func (c *Client) StreamEvents(ctx context.Context, f EventFilter) iter.Seq2[dspool.Event, error] {
	return func(yield func(dspool.Event, error) bool) {
		back := returning{c: c}
		for {
			stopped := false
			err := c.frames(ctx, &back, []string{"events", "stream"}, f.query(), func(data []byte) (bool, error) {
				var e dspool.Event
				if err := decodeFrame(data, &e); err != nil {
					return false, err
				}
				back.ok()
				if e.ID <= f.After {
					return true, nil
				}
				f.After = e.ID
				stopped = !yield(e, nil)
				return !stopped, nil
			})
			if stopped {
				return
			}
			if err = back.again(ctx, err); err != nil {
				yield(dspool.Event{}, err)
				return
			}
		}
	}
}

// StreamJob yields the job as it is and then at every change, over broken connections too,
// until it has ended; of states in between some may be left out, the last never is.
func (c *Client) StreamJob(ctx context.Context, id int64) iter.Seq2[dspool.Job, error] {
	return func(yield func(dspool.Job, error) bool) {
		back := returning{c: c}
		var last *dspool.Job
		// show yields what is new and says whether to go on.
		show := func(j dspool.Job) bool {
			back.ok()
			if last != nil && reflect.DeepEqual(*last, j) {
				return true
			}
			last = &j
			return yield(j, nil) && !j.State.Ended()
		}
		for {
			// What changed while nobody listened is read, not waited for.
			j, err := c.Job(ctx, id)
			if err == nil {
				if !show(j) {
					return
				}
				done := false
				err = c.frames(ctx, &back, []string{"jobs", number(id), "stream"}, nil, func(data []byte) (bool, error) {
					var j dspool.Job
					if err := decodeFrame(data, &j); err != nil {
						return false, err
					}
					done = !show(j)
					return !done, nil
				})
				if done {
					return
				}
			}
			if err = back.again(ctx, err); err != nil {
				yield(dspool.Job{}, err)
				return
			}
		}
	}
}

// WaitJob returns the job once it has ended. changed, unless nil, is told of every change before.
func (c *Client) WaitJob(ctx context.Context, id int64, changed func(dspool.Job)) (dspool.Job, error) {
	var last dspool.Job
	for j, err := range c.StreamJob(ctx, id) {
		if err != nil {
			return last, err
		}
		if last = j; changed != nil {
			changed(j)
		}
	}
	return last, nil
}

// WaitOperation returns the operation once it has ended. changed, unless nil, is told about
// every step, looked for every interval (at least a second).
func (c *Client) WaitOperation(ctx context.Context, id string, every time.Duration, changed func(dspool.Operation)) (dspool.Operation, error) {
	back := returning{c: c}
	for {
		asked := time.Now()
		op, err := c.Operation(ctx, id, max(every, time.Second))
		if err != nil {
			if err = back.again(ctx, err); err != nil {
				return op, err
			}
			continue
		}
		back.ok()
		if changed != nil {
			changed(op)
		}
		if op.State != dspool.OperationRunning {
			return op, nil
		}
		if time.Since(asked) < every/2 { // a server that does not wait is not to be asked without end
			if err := pause(ctx, 2); err != nil {
				return op, err
			}
		}
	}
}

// Output is which bytes of a task's output to read.
type Output struct {
	Job, Index int64
	Stream     string // "stdout" or "stderr"
	Offset     int64
	Follow     bool // until the task has ended
}

// CopyOutput writes a task's output to w as it comes and returns how many bytes that were.
// A broken connection is taken up again at the byte where it broke, so nothing is lost or
// comes twice.
func (c *Client) CopyOutput(ctx context.Context, o Output, w io.Writer) (int64, error) {
	back := returning{c: c}
	begin, final := o.Offset, false
	buf := make([]byte, 256<<10)
	for {
		n, err := c.copyOnce(ctx, o, w, buf, &back)
		o.Offset += n
		var mine *writeError
		switch {
		case errors.As(err, &mine):
			return o.Offset - begin, mine.err
		case err == nil && (!o.Follow || final):
			return o.Offset - begin, nil
		case err == nil:
			// The server says that was all. One that is stopping says so too: only a task
			// that has ended, and one more look, are proof.
			back.ok()
			if final, err = c.taskEnded(ctx, o.Job, o.Index); final {
				o.Follow = false
				continue
			}
			if err == nil {
				err = dspool.Errorf(dspool.Unavailable, "output ended before its task")
			}
		}
		if err = back.again(ctx, err); err != nil {
			return o.Offset - begin, err
		}
	}
}

// lasting is how long a connection holds that is not broken from the start.
const lasting = time.Second

type writeError struct{ err error }

func (e *writeError) Error() string { return e.err.Error() }

func (c *Client) copyOnce(ctx context.Context, o Output, w io.Writer, buf []byte, back *returning) (n int64, err error) {
	q := query("offset", number(o.Offset), "follow", map[bool]string{true: "true"}[o.Follow])
	resp, err := c.open(ctx, call{method: http.MethodGet, query: q,
		path: []string{"jobs", number(o.Job), "tasks", number(o.Index), "output", o.Stream}}, "application/octet-stream")
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	// A task may say nothing for long: that its output could be opened once is enough to come
	// back, but an output that breaks as soon as it is opened is not opened without end.
	opened := time.Now()
	defer func() {
		if n > 0 || back.worked.IsZero() || time.Since(opened) > lasting {
			back.ok()
		}
	}()
	for {
		m, err := resp.Body.Read(buf)
		if m > 0 {
			if _, werr := w.Write(buf[:m]); werr != nil {
				return n, &writeError{werr}
			}
			n += int64(m)
		}
		if err == io.EOF {
			return n, nil
		} else if err != nil {
			return n, c.unreachable(ctx, err)
		}
	}
}

// taskEnded says whether nothing more will be written for the task. Tasks that were never
// placed may have no row of their own: then the job speaks for them.
func (c *Client) taskEnded(ctx context.Context, job, index int64) (bool, error) {
	t, err := c.Task(ctx, job, index)
	if err == nil {
		return t.State.Ended(), nil
	}
	if dspool.ErrorCode(err) != dspool.NotFound {
		return false, err
	}
	j, err := c.Job(ctx, job)
	return err == nil && j.State.Ended(), err
}
