package httpapi

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/auth"
	"github.com/dspool/dspool/internal/control"
)

// keepAlive is how often a silent stream says that it still lives.
const keepAlive = 15 * time.Second

// stream registers an operation whose answer is written as it comes.
func stream[I any](s *Server, path, id, summary, media string, open func(context.Context, auth.Subject, *I) (func(context.Context, *flusher) error, error)) {
	huma.Register(s.api, huma.Operation{
		OperationID: id, Method: http.MethodGet, Path: prefix + path, Summary: summary,
		Responses: map[string]*huma.Response{"200": {Description: "OK", Content: map[string]*huma.MediaType{media: {}}}},
	}, func(ctx context.Context, in *I) (*huma.StreamResponse, error) {
		send, err := open(ctx, subject(ctx), in)
		if err != nil {
			return nil, asProblem(err)
		}
		return &huma.StreamResponse{Body: func(hc huma.Context) {
			r, w := humago.Unwrap(hc)
			w.Header().Set("Content-Type", media)
			w.Header().Set("X-Accel-Buffering", "no")
			w.WriteHeader(http.StatusOK)
			f := &flusher{w: w, c: http.NewResponseController(w)}
			f.c.Flush()
			ctx, cancel := context.WithCancel(r.Context())
			var watch sync.WaitGroup
			// Once the handler has returned, nothing may touch the answer: net/http panics.
			defer watch.Wait()
			defer cancel()
			watch.Go(func() {
				s.endWhenBarred(ctx, func() {
					cancel()
					_ = f.c.SetWriteDeadline(time.Unix(1, 0)) // it may be waiting for a client that does not read
				})
			})
			if err := send(ctx, f); err != nil && r.Context().Err() == nil {
				// The answer has begun: only breaking it off tells the client that it is not whole.
				panic(http.ErrAbortHandler)
			}
		}}, nil
	})
}

// endWhenBarred ends a stream when its token has ended or its user's rights have changed: a
// stream may last for days, and who asked was looked at only once.
func (s *Server) endWhenBarred(ctx context.Context, end func()) {
	look := time.NewTicker(keepAlive) // tokens also expire
	defer look.Stop()
	for {
		changed := s.control.Changed(control.TopicAccess)
		if barred := !still(ctx); ctx.Err() != nil {
			return // it has ended, or its client has gone
		} else if barred {
			end()
			return
		}
		select {
		case <-changed:
		case <-look.C:
		case <-ctx.Done():
			return
		}
	}
}

// flusher sends what is written at once.
type flusher struct {
	w io.Writer
	c *http.ResponseController
}

func (f *flusher) Write(p []byte) (int, error) {
	n, err := f.w.Write(p)
	if err == nil {
		err = f.c.Flush()
	}
	return n, err
}

// event writes one Server-Sent Event (WHATWG HTML, section 9.2).
func (f *flusher) event(name string, id int64, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if id > 0 {
		_, err = fmt.Fprintf(f, "event: %s\nid: %d\ndata: %s\n\n", name, id, data)
	} else {
		_, err = fmt.Fprintf(f, "event: %s\ndata: %s\n\n", name, data)
	}
	return err
}

func (s *Server) streams() {
	c := s.control
	stream(s, "/jobs/{id}/stream", "stream-job", "A job at every change, until it has ended", "text/event-stream",
		func(ctx context.Context, who auth.Subject, in *ByJob) (func(context.Context, *flusher) error, error) {
			if _, err := c.Job(ctx, who, in.ID); err != nil {
				return nil, err
			}
			return func(ctx context.Context, f *flusher) error { return s.followJob(ctx, who, in.ID, f) }, nil
		})
	stream(s, "/events/stream", "stream-events", "Events as they come", "text/event-stream",
		func(ctx context.Context, who auth.Subject, in *struct {
			After   int64  `query:"after" doc:"Identifier of the last event already seen; unless given, the newest."`
			LastID  int64  `header:"Last-Event-ID"`
			Pool    string `query:"pool" maxLength:"64"`
			Machine string `query:"machine" maxLength:"64"`
			Job     int64  `query:"job"`
		}) (func(context.Context, *flusher) error, error) {
			q := control.EventQuery{After: max(in.After, in.LastID), Pool: in.Pool, Machine: in.Machine, Job: in.Job}
			// Also where the beginning is given: what may not be seen is said before the answer begins.
			newest, err := c.Events(ctx, who, control.EventQuery{Latest: true, Limit: 1, Job: in.Job})
			if err != nil {
				return nil, err
			}
			for _, e := range newest.Items {
				q.After = cmp.Or(q.After, e.ID)
			}
			return func(ctx context.Context, f *flusher) error { return s.followEvents(ctx, who, q, f) }, nil
		})
	stream(s, "/jobs/{id}/tasks/{index}/output/{stream}", "task-output", "A task's output; with follow until it has ended", "application/octet-stream",
		func(ctx context.Context, who auth.Subject, in *struct {
			ByJob
			Index  int64  `path:"index"`
			Stream string `path:"stream" enum:"stdout,stderr"`
			Offset int64  `query:"offset" minimum:"0"`
			Follow bool   `query:"follow"`
		}) (func(context.Context, *flusher) error, error) {
			o, err := c.OpenOutput(ctx, who, in.ID, in.Index, in.Stream, in.Offset)
			if err != nil {
				return nil, err
			}
			return func(ctx context.Context, f *flusher) error { return o.Copy(ctx, f, in.Follow) }, nil
		})
}

// atMost is how often a stream repeats a job that changes all the time.
const atMost = 100 * time.Millisecond

func (s *Server) followJob(ctx context.Context, who auth.Subject, id int64, f *flusher) error {
	var last dspool.Job
	alive := time.NewTicker(keepAlive)
	defer alive.Stop()
	for {
		changed := s.control.Changed(control.TopicJob(id))
		job, err := s.control.Job(ctx, who, id)
		if err != nil {
			return err
		}
		if !reflect.DeepEqual(job, last) {
			if err := f.event("job", 0, job); err != nil {
				return err
			}
			last = job
		}
		if job.State.Ended() {
			return nil
		}
		pause := time.NewTimer(atMost)
		select {
		case <-pause.C:
		case <-ctx.Done():
		}
		select {
		case <-changed:
		case <-alive.C:
			if _, err := io.WriteString(f, ": alive\n\n"); err != nil {
				return err
			}
		case <-s.control.Stopping():
			return context.Canceled
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *Server) followEvents(ctx context.Context, who auth.Subject, q control.EventQuery, f *flusher) error {
	alive := time.NewTicker(keepAlive)
	defer alive.Stop()
	for {
		changed := s.control.Changed(control.TopicEvents)
		list, err := s.control.Events(ctx, who, q)
		if err != nil {
			return err
		}
		for _, e := range list.Items {
			if err := f.event("event", e.ID, e); err != nil {
				return err
			}
			q.After = e.ID
		}
		if list.More {
			continue
		}
		select {
		case <-changed:
		case <-alive.C:
			if _, err := io.WriteString(f, ": alive\n\n"); err != nil {
				return err
			}
		case <-s.control.Stopping():
			return context.Canceled
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
