package client_test

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/client"
)

func frame(w http.ResponseWriter, event string, id int64, v any) {
	b, _ := json.Marshal(v)
	fmt.Fprintf(w, ": alive\n\nid: %d\nevent: %s\ndata: %s\n\n", id, event, b)
	w.(http.Flusher).Flush()
}

func TestEventsResumeAfterTheLastOneSeen(t *testing.T) {
	t.Parallel()
	var asked []string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.RawQuery)
		after, _ := strconv.ParseInt(r.URL.Query().Get("after"), 10, 64)
		w.Header().Set("Content-Type", "text/event-stream")
		frame(w, "event", after, dspool.Event{ID: after}) // one too old is no new one
		for i := after + 1; i <= after+3; i++ {
			frame(w, "event", i, dspool.Event{ID: i, Message: strings.Repeat("x", 100_000)})
		}
		fmt.Fprint(w, "data: {\"id\": 99") // breaks inside a frame
		w.(http.Flusher).Flush()
		if len(asked)%2 == 0 {
			panic(http.ErrAbortHandler)
		}
	})
	var got []int64
	for e, err := range c.StreamEvents(t.Context(), client.EventFilter{After: 10, Pool: "p"}) {
		if err != nil {
			t.Fatal(err)
		}
		if got = append(got, e.ID); len(got) == 8 {
			break
		}
	}
	if fmt.Sprint(got) != "[11 12 13 14 15 16 17 18]" || fmt.Sprint(asked) != "[after=10&pool=p after=13&pool=p after=16&pool=p]" {
		t.Errorf("got %v by %v", got, asked)
	}
}

func TestAStreamThatIsRefusedEndsAtOnce(t *testing.T) {
	t.Parallel()
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) })
	n := 0
	for _, err := range c.StreamEvents(t.Context(), client.EventFilter{}) {
		if n++; dspool.ErrorCode(err) != dspool.Forbidden {
			t.Error(err)
		}
	}
	if n != 1 {
		t.Errorf("%d answers", n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, err := range c.StreamEvents(ctx, client.EventFilter{}) {
		if !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
}

func TestAJobIsReadAgainWhenItsStreamBreaks(t *testing.T) {
	t.Parallel()
	states := []dspool.JobState{dspool.JobQueued, dspool.JobRunning, dspool.JobSucceeded}
	var reads, now int
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.URL.Path, "/stream") {
			reads++
			reply(w, 200, dspool.Job{ID: 7, State: states[now]})
			return
		}
		frame(w, "job", 0, dspool.Job{ID: 7, State: states[now]})
		now++ // changes while nobody listens
	})
	var got []dspool.JobState
	last, err := c.WaitJob(t.Context(), 7, func(j dspool.Job) { got = append(got, j.State) })
	if err != nil || last.State != dspool.JobSucceeded || fmt.Sprint(got) != "[queued running succeeded]" || reads != 3 {
		t.Errorf("%v %v %v in %d reads", last.State, got, err, reads)
	}
}

func TestWaitOperation(t *testing.T) {
	t.Parallel()
	n := 0
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if n++; n == 2 {
			panic(http.ErrAbortHandler)
		}
		op := dspool.Operation{ID: "o", State: dspool.OperationRunning, Progress: "step " + strconv.Itoa(n)}
		if n == 3 {
			op.State = dspool.OperationSucceeded
		}
		reply(w, 200, op)
	})
	var steps []string
	op, err := c.WaitOperation(t.Context(), "o", 0, func(o dspool.Operation) { steps = append(steps, o.Progress) })
	if err != nil || op.State != dspool.OperationSucceeded || fmt.Sprint(steps) != "[step 1 step 3]" {
		t.Errorf("%v %v %v", op, steps, err)
	}
}

// outputServer serves data as a growing file; every answer is cut short in one of the ways
// in which connections end, until the last.
func outputServer(t testing.TB, data []byte, cuts int) (http.HandlerFunc, *atomic.Int32) {
	var opens atomic.Int32
	return func(w http.ResponseWriter, r *http.Request) {
		if !strings.Contains(r.URL.Path, "/output/") {
			state := dspool.TaskRunning
			if int(opens.Load()) > cuts {
				state = dspool.TaskSucceeded
			}
			reply(w, 200, dspool.Task{State: state})
			return
		}
		n := int(opens.Add(1))
		offset, err := strconv.Atoi("0" + r.URL.Query().Get("offset"))
		if err != nil || offset > len(data) {
			t.Errorf("asked for offset %s", r.URL.Query().Get("offset"))
		}
		rest := data[offset:]
		if n > cuts {
			_, _ = w.Write(rest)
			return
		}
		part := rest[:rand.IntN(len(rest)/2+1)]
		w.Header().Set("Content-Type", "application/octet-stream")
		_, _ = w.Write(part)
		w.(http.Flusher).Flush()
		switch n % 3 {
		case 0: // a server that stops ends its answers cleanly
		case 1:
			panic(http.ErrAbortHandler)
		case 2:
			conn, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				conn.Close()
			}
		}
	}, &opens
}

func TestOutputLosesNothingOverBrokenConnections(t *testing.T) {
	t.Parallel()
	data := make([]byte, 8<<20)
	for i := range data {
		data[i] = byte(rand.Uint32())
	}
	h, opens := outputServer(t, data, 9)
	c := serve(t, h)
	var got bytes.Buffer
	n, err := c.CopyOutput(t.Context(), client.Output{Job: 1, Stream: "stdout", Follow: true}, &got)
	if err != nil || n != int64(len(data)) || !bytes.Equal(got.Bytes(), data) {
		t.Errorf("%d of %d bytes, equal %v: %v", n, len(data), bytes.Equal(got.Bytes(), data), err)
	}
	if opens.Load() < 10 {
		t.Errorf("only %d connections", opens.Load())
	}
}

func TestOutputOfASilentTaskIsTakenUpAgain(t *testing.T) {
	t.Parallel()
	var opens atomic.Int64
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case !strings.Contains(r.URL.Path, "/output/"):
			reply(w, 200, dspool.Task{State: dspool.TaskSucceeded})
		case opens.Add(1) == 1:
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler) // the server is killed before the task said anything
		case r.URL.Query().Get("offset") != "4":
			_, _ = io.WriteString(w, "said")
		}
	})
	var got bytes.Buffer
	if _, err := c.CopyOutput(t.Context(), client.Output{Job: 1, Stream: "stdout", Follow: true}, &got); err != nil || got.String() != "said" {
		t.Errorf("%q, %v", &got, err)
	}
}

func TestOutputOfAJobCancelledBeforeItBeganEnds(t *testing.T) {
	t.Parallel()
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.Contains(r.URL.Path, "/output/"):
		case strings.Contains(r.URL.Path, "/tasks/"):
			w.WriteHeader(http.StatusNotFound)
		default:
			reply(w, 200, dspool.Job{State: dspool.JobCancelled})
		}
	})
	if n, err := c.CopyOutput(t.Context(), client.Output{Job: 1, Stream: "stdout", Follow: true}, io.Discard); n != 0 || err != nil {
		t.Error(n, err)
	}
}

func TestOutputStopsWhenItsReaderIsGone(t *testing.T) {
	t.Parallel()
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 1<<20)) })
	r, w := io.Pipe()
	r.Close()
	if _, err := c.CopyOutput(t.Context(), client.Output{Job: 1, Stream: "stdout", Follow: true}, w); !errors.Is(err, io.ErrClosedPipe) {
		t.Error(err)
	}
}

func BenchmarkCopyOutput(b *testing.B) {
	data := make([]byte, 64<<20)
	h, _ := outputServer(b, data, 0)
	for name, tls := range map[string]bool{"socket's http": false, "https": true} {
		b.Run(name, func(b *testing.B) {
			s := httptest.NewUnstartedServer(h)
			o := client.Options{}
			if s.EnableHTTP2 = tls; tls {
				s.StartTLS()
				o.CA = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
			} else {
				s.Start()
			}
			defer s.Close()
			o.URL = s.URL
			c, err := client.New(o)
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				if _, err := c.CopyOutput(b.Context(), client.Output{Job: 1, Stream: "stdout"}, io.Discard); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
