package cli_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
)

// patience bounds what must happen soon.
const patience = 10 * time.Second

// fakeJob is job 7 with one task, on a server.
type fakeJob struct {
	mu       sync.Mutex
	job      dspool.Job
	task     dspool.Task
	out      map[string]string
	changed  chan struct{} // closed at every change
	request  api.SubmitRequest
	onCancel func(*fakeJob)
}

func newFakeJob() *fakeJob {
	return &fakeJob{changed: make(chan struct{}), out: map[string]string{},
		job:  dspool.Job{ID: 7, User: "ada", State: dspool.JobQueued, Reason: told("machine batch-1 starts"), Tasks: dspool.Counts{Total: 1, Pending: 1}},
		task: dspool.Task{Job: 7, State: dspool.TaskPending}}
}

func (f *fakeJob) change(do func(*fakeJob)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.set(do)
}

func (f *fakeJob) set(do func(*fakeJob)) {
	do(f)
	close(f.changed)
	f.changed = make(chan struct{})
}

func running(f *fakeJob) {
	f.job.State, f.job.Reason, f.job.Tasks = dspool.JobRunning, dspool.Reason{}, dspool.Counts{Total: 1, Running: 1}
	f.task.State = dspool.TaskRunning
}

func ended(task dspool.TaskState, job dspool.JobState, exit *int, reason string) func(*fakeJob) {
	return func(f *fakeJob) {
		f.task.State, f.task.ExitCode, f.task.Reason = task, exit, told(reason)
		f.job.State, f.job.Tasks = job, dspool.Counts{Total: 1, Succeeded: 1}
	}
}

func (f *fakeJob) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p := strings.TrimPrefix(r.URL.Path, "/api/v1")
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case p == "/jobs":
		_ = json.NewDecoder(r.Body).Decode(&f.request)
		reply(w, f.job)
	case p == "/jobs/7":
		reply(w, f.job)
	case p == "/jobs/7/tasks/0":
		reply(w, f.task)
	case p == "/jobs/7/cancel":
		f.set(f.onCancel)
		reply(w, f.job)
	case p == "/jobs/7/stream":
		f.follow(r, func() bool {
			b, _ := json.Marshal(f.job)
			fmt.Fprintf(w, "data: %s\n\n", b)
			w.(http.Flusher).Flush()
			return f.job.State.Ended()
		})
	case strings.HasPrefix(p, "/jobs/7/tasks/0/output/"):
		stream, sent := p[strings.LastIndex(p, "/")+1:], 0
		_, _ = fmt.Sscan(r.URL.Query().Get("offset"), &sent)
		f.follow(r, func() bool {
			_, _ = io.WriteString(w, f.out[stream][sent:])
			w.(http.Flusher).Flush()
			sent = len(f.out[stream])
			return f.task.State.Ended() || r.URL.Query().Get("follow") == ""
		})
	default:
		http.NotFound(w, r)
	}
}

// follow calls send at every change until it says that it is done.
func (f *fakeJob) follow(r *http.Request, send func() bool) {
	for !send() {
		changed := f.changed
		f.mu.Unlock()
		select {
		case <-changed:
		case <-r.Context().Done():
		}
		f.mu.Lock()
		if r.Context().Err() != nil {
			return
		}
	}
}

// screen is a writer that a test can wait on.
type screen struct {
	mu   sync.Mutex
	text strings.Builder
	news chan struct{}
}

func newScreen() *screen { return &screen{news: make(chan struct{}, 1)} }

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case s.news <- struct{}{}:
	default:
	}
	return s.text.Write(p)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

func (s *screen) wait(t *testing.T, want string) {
	t.Helper()
	late := time.After(patience)
	for !strings.Contains(s.String(), want) {
		select {
		case <-s.news:
		case <-late:
			t.Fatalf("waited for %q, got %q", want, s.String())
		}
	}
}

// session is a dspool that runs while the test watches.
type session struct {
	out, err *screen
	signals  chan os.Signal
	stdin    *io.PipeWriter
	code     chan int
}

func begin(t *testing.T, f *fakeJob, tty bool, args ...string) *session {
	t.Helper()
	p := start(t, f.ServeHTTP)
	in, stdin := io.Pipe()
	s := &session{out: newScreen(), err: newScreen(), signals: make(chan os.Signal), stdin: stdin, code: make(chan int, 1)}
	p.Stdin, p.Stdout, p.Stderr, p.Signals, p.StdinTTY, p.StderrTTY = in, s.out, s.err, s.signals, tty, tty
	go func() { s.code <- p.run(t, args...) }()
	return s
}

func (s *session) end(t *testing.T, want int) {
	t.Helper()
	select {
	case got := <-s.code:
		if got != want {
			t.Errorf("exit code %d, want %d; stderr %q", got, want, s.err)
		}
	case <-time.After(patience):
		t.Fatalf("it does not end; stdout %q, stderr %q", s.out, s.err)
	}
}

func TestRunStreamsBothOutputsAndEndsWithTheExitCode(t *testing.T) {
	t.Parallel()
	f := newFakeJob()
	s := begin(t, f, false, "run", "--pool", "p", "--memory", "1GiB", "--env", "A=b=c", "--time-limit", "1d", "--after", "3", "python", "-c", "--memory", "--", "x")
	f.change(running)
	f.change(func(f *fakeJob) { f.out["stdout"] = "one\n" })
	s.out.wait(t, "one\n")
	f.change(func(f *fakeJob) { f.out["stderr"] = "oops\n" })
	s.err.wait(t, "oops\n")
	f.change(func(f *fakeJob) { f.out["stdout"] += "two\n" })
	s.out.wait(t, "two\n")
	f.change(ended(dspool.TaskFailed, dspool.JobFailed, code(42), ""))
	s.end(t, 42)
	if s.out.String() != "one\ntwo\n" || s.err.String() != "oops\ndspool: job 7 failed: exit code 42\n" {
		t.Errorf("stdout %q, stderr %q", s.out, s.err)
	}
	r := f.request
	if fmt.Sprint(r.Command) != "[python -c --memory -- x]" || r.Pool != "p" || r.Memory != 1<<30 || r.Env["A"] != "b=c" || r.TimeLimit != dspool.Duration(24*time.Hour) || fmt.Sprint(r.After) != "[3]" {
		t.Errorf("submitted %+v", r)
	}
}

// closedPipe is a stdout whose reader has gone.
type closedPipe struct{}

func (closedPipe) Write([]byte) (int, error) {
	return 0, &os.PathError{Op: "write", Path: "|1", Err: syscall.EPIPE}
}

func TestRunCancelsAJobWhoseOutputNobodyReads(t *testing.T) {
	t.Parallel()
	f, cancelled := newFakeJob(), false
	f.change(running)
	f.out["stdout"] = "y\ny\n"
	f.onCancel = func(f *fakeJob) { cancelled = true; f.job.Cancelling = true }
	p := start(t, f.ServeHTTP)
	p.Stdout = closedPipe{}
	code := p.run(t, "run", "--", "yes")
	f.change(func(f *fakeJob) {
		if code != 141 || !cancelled || !strings.Contains(p.err.String(), "cancelling job 7") {
			t.Errorf("code %d, cancelled %v: %s", code, cancelled, p.err.String())
		}
	})
}

func TestRunExitCodes(t *testing.T) {
	t.Parallel()
	for claim, tt := range map[string]struct {
		end  func(*fakeJob)
		code int
		say  string
	}{
		"success is silent":       {ended(dspool.TaskSucceeded, dspool.JobSucceeded, code(0), ""), 0, ""},
		"a signal's code":         {ended(dspool.TaskFailed, dspool.JobFailed, code(137), "out of memory (limit 1 GiB)"), 137, "dspool: job 7 failed: out of memory (limit 1 GiB)\n"},
		"it could not start":      {ended(dspool.TaskFailed, dspool.JobFailed, nil, "no such program: frobnicate"), 1, "dspool: job 7 failed: no such program: frobnicate\n"},
		"its machine vanished":    {ended(dspool.TaskLost, dspool.JobFailed, nil, "machine batch-1 vanished"), 1, "dspool: job 7 lost: machine batch-1 vanished\n"},
		"somebody else cancelled": {ended(dspool.TaskCancelled, dspool.JobCancelled, nil, "cancelled by grace"), 1, "dspool: job 7 cancelled: cancelled by grace\n"},
		"a failure with code 0":   {ended(dspool.TaskFailed, dspool.JobFailed, code(0), "time limit of 1s"), 1, "dspool: job 7 failed: time limit of 1s\n"},
	} {
		t.Run(claim, func(t *testing.T) {
			t.Parallel()
			f := newFakeJob()
			s := begin(t, f, false, "run", "true")
			f.change(tt.end)
			s.end(t, tt.code)
			if s.err.String() != tt.say {
				t.Errorf("said %q, want %q", s.err, tt.say)
			}
		})
	}
}

func TestInterruptedRun(t *testing.T) {
	t.Parallel()
	cancelled := ended(dspool.TaskCancelled, dspool.JobCancelled, nil, "cancelled")
	t.Run("without a terminal the job is cancelled", func(t *testing.T) {
		t.Parallel()
		f := newFakeJob()
		f.onCancel = cancelled
		s := begin(t, f, false, "run", "true")
		f.change(func(f *fakeJob) { running(f); f.out["stdout"] = "x" })
		s.out.wait(t, "x")
		s.signals <- os.Interrupt
		s.end(t, 130)
	})
	t.Run("SIGTERM cancels without asking", func(t *testing.T) {
		t.Parallel()
		f := newFakeJob()
		f.onCancel = cancelled
		s := begin(t, f, true, "run", "true")
		f.change(func(f *fakeJob) { running(f); f.out["stdout"] = "x" })
		s.out.wait(t, "x")
		s.signals <- syscall.SIGTERM
		s.end(t, 143)
	})
	for answer, code := range map[string]int{"c\n": 130, "d\n": 0, "what?\ncancel\n": 130, "": 0} {
		t.Run(fmt.Sprintf("a terminal is asked and %q is obeyed", answer), func(t *testing.T) {
			t.Parallel()
			f := newFakeJob()
			f.onCancel = cancelled
			s := begin(t, f, true, "run", "true")
			f.change(func(f *fakeJob) { running(f); f.out["stdout"] = "x" })
			s.out.wait(t, "x")
			s.signals <- os.Interrupt
			s.err.wait(t, "cancel the job, or detach? [c/d] ")
			f.change(func(f *fakeJob) { f.out["stdout"] += "held back" })
			if _, err := io.WriteString(s.stdin, answer); err != nil {
				t.Error(err)
			}
			s.stdin.Close()
			s.end(t, code)
			if detached := strings.Contains(s.err.String(), "job 7 goes on"); detached != (code == 0) {
				t.Errorf("said %q", s.err)
			}
		})
	}
	t.Run("a second Ctrl-C cancels", func(t *testing.T) {
		t.Parallel()
		f := newFakeJob()
		f.onCancel = cancelled
		s := begin(t, f, true, "run", "true")
		f.change(func(f *fakeJob) { running(f); f.out["stdout"] = "x" })
		s.out.wait(t, "x")
		s.signals <- os.Interrupt
		s.err.wait(t, "[c/d]")
		s.signals <- os.Interrupt
		s.end(t, 130)
	})
	t.Run("a third does not wait for the job's end", func(t *testing.T) {
		t.Parallel()
		f := newFakeJob()
		f.onCancel = func(f *fakeJob) { f.job.Cancelling = true }
		s := begin(t, f, false, "run", "true")
		f.change(func(f *fakeJob) { running(f); f.out["stdout"] = "x" })
		s.out.wait(t, "x")
		s.signals <- os.Interrupt
		s.err.wait(t, "cancelling job 7")
		s.signals <- os.Interrupt
		s.end(t, 130)
	})
}

func TestSubmitAndWait(t *testing.T) {
	t.Parallel()
	f := newFakeJob()
	s := begin(t, f, false, "job", "submit", "--wait", "--array", "1-3", "true")
	s.out.wait(t, "7\n")
	f.change(ended(dspool.TaskFailed, dspool.JobFailed, code(1), ""))
	s.end(t, 1)
	if !strings.Contains(s.err.String(), "dspool: job 7 failed") || !strings.Contains(s.err.String(), "hint: see `dspool job show 7`") {
		t.Errorf("said %q", s.err)
	}
	s = begin(t, f, false, "job", "wait", "7")
	s.end(t, 1)
	f.change(ended(dspool.TaskSucceeded, dspool.JobSucceeded, code(0), ""))
	s = begin(t, f, false, "job", "wait", "7")
	s.end(t, 0)
}

func TestLogs(t *testing.T) {
	t.Parallel()
	f := newFakeJob()
	f.change(func(f *fakeJob) { running(f); f.out["stdout"], f.out["stderr"] = "out\n", "err\n" })
	s := begin(t, f, false, "job", "logs", "7")
	s.end(t, 0)
	if s.out.String() != "out\n" || s.err.String() != "err\n" {
		t.Errorf("stdout %q, stderr %q", s.out, s.err)
	}
	s = begin(t, f, false, "job", "logs", "7", "--stderr")
	s.end(t, 0)
	if s.out.String() != "err\n" {
		t.Errorf("stdout %q", s.out)
	}
	s = begin(t, f, false, "job", "logs", "-f", "7")
	s.out.wait(t, "out\n")
	s.signals <- os.Interrupt
	s.end(t, 130)
}

func TestProgressShowsWhyAJobWaits(t *testing.T) {
	t.Parallel()
	f := newFakeJob()
	s := begin(t, f, true, "job", "submit", "--wait", "true")
	s.err.wait(t, "job 7 waits: machine batch-1 starts (1s)")
	f.change(func(f *fakeJob) { f.job.Reason = told("image UbuntuDSVM is building: step 3 of 9") })
	s.err.wait(t, "██████░░░░░░░░░░░░░░ job 7 waits: image UbuntuDSVM is building: step 3 of 9")
	f.change(ended(dspool.TaskSucceeded, dspool.JobSucceeded, code(0), ""))
	s.end(t, 0)
	if s.out.String() != "7\n" || !strings.HasSuffix(s.err.String(), "\r\x1b[K") {
		t.Errorf("stdout %q; the line is left behind: %q", s.out, s.err)
	}
}

func TestStatusWaitsForAServer(t *testing.T) {
	t.Parallel()
	n := 0
	p := start(t, func(w http.ResponseWriter, _ *http.Request) {
		if n++; n < 5 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		reply(w, api.Status{Version: "v1", Started: now})
	})
	if got := p.run(t, "status", "--wait", "10s"); got != 0 || !strings.HasPrefix(p.out.String(), "dspool v1") {
		t.Errorf("code %d: %s", got, p.err.String())
	}
}
