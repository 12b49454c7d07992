package servertest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/client"
	"github.com/dspool/dspool/internal/servertest"
)

// post sends a body over the server's socket, past the client.
func post(t *testing.T, s *servertest.System, path, body string) (*http.Response, error) {
	return send(t, s, "POST", path, body)
}

func send(t *testing.T, s *servertest.System, method, path, body string) (*http.Response, error) {
	t.Helper()
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(s.Dir, "dspool.sock"))
	}}}
	req, err := http.NewRequestWithContext(t.Context(), method, "http://dspool/api/v1"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := c.Do(req)
	if err == nil {
		t.Cleanup(func() { res.Body.Close() })
	}
	return res, err
}

// raw is send, and returns status and body.
func raw(t *testing.T, s *servertest.System, method, path, body string) (int, []byte) {
	t.Helper()
	res, err := send(t, s, method, path, body)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, text
}

func TestBadSubmits(t *testing.T) {
	t.Parallel()
	s := servertest.New(t, servertest.Options{})
	evil := map[string]string{
		"a newline": "a\nb", "a command substitution": "$(reboot)", "a semicolon": "a;b", "a path upwards": "../../etc", "a NUL": "a\x00b",
		"a megabyte": strings.Repeat("a", 1<<20), "a terminal sequence": "a\x1b[2J", "text turned around": "a\u202eb", "no valid text": "a\xff",
	}
	for what, name := range evil {
		for field, spec := range map[string]dspool.JobSpec{
			"pool":  {Command: []string{"true"}, Pool: name},
			"size":  {Command: []string{"true"}, Size: name},
			"array": {Command: []string{"true"}, Array: name},
			"env":   {Command: []string{"true"}, Env: map[string]string{name: "x"}},
		} {
			if _, err := s.Submit(t.Context(), api.SubmitRequest{JobSpec: spec}); dspool.ErrorCode(err) != dspool.Invalid || len(err.Error()) > 1000 {
				t.Errorf("%s with %s: %.300v", field, what, err)
			}
		}
		for call, do := range map[string]func() error{
			"submit as": func() error {
				_, err := s.Submit(t.Context(), api.SubmitRequest{JobSpec: dspool.JobSpec{Command: []string{"true"}}, As: name})
				return err
			},
			"add user":  func() error { _, err := s.AddUser(t.Context(), api.AddUserRequest{Name: name}); return err },
			"token of":  func() error { _, err := s.AddToken(t.Context(), api.AddTokenRequest{User: name}); return err },
			"show pool": func() error { _, err := s.Pool(t.Context(), name); return err },
			"build":     func() error { _, err := s.BuildImage(t.Context(), name); return err },
			"remove":    func() error { _, err := s.RemoveMachine(t.Context(), name, true); return err },
			"revoke":    func() error { return s.RevokeToken(t.Context(), name) },
			"apply": func() error {
				_, err := s.Apply(t.Context(), api.ApplyRequest{Name: name, Text: "pools: {" + name + ": {}}"})
				return err
			},
			"list tasks": func() error { _, err := s.Machines(t.Context(), name, false); return err },
		} {
			code := dspool.ErrorCode(do())
			if code != dspool.Invalid && code != dspool.NotFound {
				t.Errorf("%s with %s: %.300v", call, what, do())
			}
		}
	}
	for _, name := range []string{"root", "nobody", "daemon", "carol"} {
		if _, err := s.Submit(t.Context(), api.SubmitRequest{JobSpec: dspool.JobSpec{Command: []string{"true"}}, As: name}); dspool.ErrorCode(err) != dspool.Invalid {
			t.Errorf("submit as %s: %v", name, err)
		}
		if _, err := s.AddUser(t.Context(), api.AddUserRequest{Name: name}); name != "carol" && dspool.ErrorCode(err) != dspool.Invalid {
			t.Errorf("add user %s: %v", name, err)
		}
	}
	jobs := func(bodies map[string]string) {
		t.Helper()
		for want, fields := range bodies {
			status, body := raw(t, s, "POST", "/jobs", `{"command": ["true"], `+fields+`}`)
			var p api.Problem
			if err := json.Unmarshal(body, &p); err != nil || status/100 != 4 || p.Code != dspool.Invalid || p.Detail == "" || len(body) > 4000 || !strings.Contains(string(body), want) {
				t.Errorf("%.100s: %d %.500s", fields, status, body)
			}
		}
	}
	jobs(map[string]string{
		"-1 bytes":                   `"memory": -1`,
		"1 bytes":                    `"memory": 1`,
		"body.memory: the":           `"memory": 9223372036854775808`,
		`body.memory: the number`:    `"memory": 1e99`,
		"body.memory":                `"memory": "1e99GB"`,
		"bytes of memory":            `"memory": 9223372036854775807`,
		"1-1e18":                     `"array": "1-1e18"`,
		"1-1000000000000000000":      `"array": "1-1000000000000000000"`,
		"has 2147483647 tasks":       `"array": "1-2147483647"`,
		"names an index twice":       `"array": "1-3,2"`,
		"5-1":                        `"array": "5-1"`,
		"1e+300 cpus":                `"cpus": 1e300`,
		"-1 cpus":                    `"cpus": -1`,
		"0.0001 cpus":                `"cpus": 0.0001`,
		"gpus":                       `"gpus": -1`,
		"max running -1":             `"max_running": -1`,
		"is not a duration":          `"time_limit": "-5s"`,
		"no job 99 to wait for":      `"after": [99]`,
		"there is no pool \\\"nope":  `"pool": "nope"`,
		"did you mean batch?":        `"pool": "bacth"`,
		"did you mean large?":        `"pool": "batch", "size": "lagre"`,
		"the largest that fits is 4": `"cpus": 5`,
		"8 GiB, size large":          `"memory": 17179869184`,
		"fits no machine":            `"gpus": 1`,
		"unexpected property":        `"colour": "red"`,
		"128":                        `"name": "` + strings.Repeat("n", 200) + `"`,
	})
	for _, text := range []string{`{"command": ["true"], "cpus": NaN}`, `{"command": []}`, `{"command": [""]}`, `{}`, `[]`, `null`, `"x"`, ``, `{`, strings.Repeat(`[`, 100_000)} {
		if status, body := raw(t, s, "POST", "/jobs", text); status/100 != 4 || !bytes.Contains(body, []byte(`"code":"invalid"`)) {
			t.Errorf("%.60q: %d %.300s", text, status, body)
		}
	}
	// The server may answer and hang up before all has been sent.
	if res, err := post(t, s, "/jobs", `{"command": ["`+strings.Repeat("x", 9<<20)+`"]}`); err == nil && res.StatusCode/100 != 4 {
		t.Errorf("nine megabytes: %s", res.Status)
	}
	for path, want := range map[string]int{
		"/jobs/1": 404, "/jobs/-1": 404, "/jobs/9223372036854775808": 422, "/jobs/x": 422, "/jobs/1/tasks": 404, "/jobs?limit=-5": 200, "/jobs?limit=99999999999": 200,
		"/nothing": 404, "/jobs/1/stream": 404, "/events/stream?job=1": 404, "/events/stream?job=1&after=1": 404, "/operations/x?wait=nope": 422, "/usage?by=day": 422,
		"/usage?from=2030-01-01T00:00:00Z": 422, "/jobs/1/tasks/0/output/stdin": 422, "/jobs/1/tasks/0/output/stdout?offset=-1": 422, "/jobs?state=dead": 422, "/pools/..%2f..%2fetc": 404,
	} {
		if status, body := raw(t, s, "GET", path, ""); status != want {
			t.Errorf("%s: %d %.200s", path, status, body)
		}
	}
	list, err := s.Server.Control.Jobs(t.Context(), admin, allJobs)
	if err != nil || len(list.Items) != 0 {
		t.Errorf("bad submits left %v, %v", list.Items, err)
	}
	if m := s.EventsOf("job.submitted"); len(m) != 0 {
		t.Errorf("bad submits left %v", m)
	}
}

func TestGoodSubmits(t *testing.T) {
	t.Parallel()
	s := servertest.New(t, servertest.Options{})
	ends := func(spec dspool.JobSpec, state dspool.JobState, reason string) {
		t.Helper()
		if j := s.MustEnd(s.MustSubmit(spec).ID); j.State != state || !strings.Contains(j.Reason.Text, reason) {
			t.Errorf("%v ended %s: %q", spec.Command, j.State, j.Reason)
		}
	}
	ends(dspool.JobSpec{Command: []string{"no such; $(command)\n../"}}, dspool.JobFailed, "does not exist on the machine")
	ends(dspool.JobSpec{Command: []string{"oom"}, Memory: 64 << 20}, dspool.JobFailed, "out of memory (limit 64 MiB)")
	ends(dspool.JobSpec{Command: []string{"oom-child"}, Memory: 64 << 20}, dspool.JobSucceeded, "out of memory (limit 64 MiB): the kernel killed a process")
	ends(dspool.JobSpec{Command: []string{"oom-child"}, Memory: 64 << 20, Array: "1-3"}, dspool.JobSucceeded, "out of memory (limit 64 MiB): the kernel killed some of 3 tasks of 3")
	ends(dspool.JobSpec{Command: []string{"exit", "7"}}, dspool.JobFailed, "exit code 7")
	ends(dspool.JobSpec{Command: []string{"forever"}, TimeLimit: dspool.Duration(50e6)}, dspool.JobFailed, "time limit of 50ms exceeded")
	ends(dspool.JobSpec{Command: []string{"true"}, CPUs: 4}, dspool.JobSucceeded, "")
	ends(dspool.JobSpec{Command: []string{"true"}, Size: "large", CPUs: 0.001, Memory: dspool.MinMemory}, dspool.JobSucceeded, "")
	ends(dspool.JobSpec{Command: []string{"true"}, Array: "0,5,2147483647", Env: map[string]string{"A": "$(x)\n;"}}, dspool.JobSucceeded, "")
	for _, m := range machineNames(t, s) {
		for _, spec := range s.Inside(m).Spawned() {
			if spec.UID < 20000 || spec.GID < 20000 || spec.User != "ada" {
				t.Errorf("attempt %d ran as %s with %d:%d", spec.ID, spec.User, spec.UID, spec.GID)
			}
			if want := fmt.Sprintf("/mnt/team/jobs/ada/%d/%d", spec.Job, spec.Index); spec.Dir != want || spec.Home != "/home/ada" {
				t.Errorf("attempt %d ran in %s with home %s, want %s", spec.ID, spec.Dir, spec.Home, want)
			}
		}
	}
	s.AtRest()
}

func TestKillsForMemoryAreToldWhileATaskRuns(t *testing.T) {
	t.Parallel()
	s := servertest.New(t, servertest.Options{})
	job := s.MustSubmit(dspool.JobSpec{Command: []string{"oom-worker"}, Memory: 64 << 20})
	s.Until("an event tells of the kill", func() bool { return len(s.EventsOf("task.killed")) == 1 })
	if r := s.EventsOf("task.killed")[0].Reason; !r.Is(dspool.WhyKilledSome) || r.Count != 1 || r.Bytes != 64<<20 {
		t.Errorf("the event says %+v", r)
	}
	list, err := s.Jobs(t.Context(), client.JobFilter{})
	if err != nil || len(list.Items) != 1 || !list.Items[0].Reason.Is(dspool.WhyKilledTasks) || list.Items[0].State != dspool.JobRunning {
		t.Errorf("the list of jobs says %+v, %v", list.Items, err)
	}
	if tasks := s.Running(job.ID, 1); !tasks[0].Reason.Is(dspool.WhyKilledSome) {
		t.Errorf("its task says %+v", tasks[0].Reason)
	}
	if _, err := s.CancelJob(t.Context(), job.ID); err != nil {
		t.Fatal(err)
	}
	if j := s.MustEnd(job.ID); j.State != dspool.JobCancelled || !j.Reason.Is(dspool.WhyKilledTasks) || len(j.Reason.Because) != 1 {
		t.Errorf("in the end the job says %+v", j.Reason)
	}
	task, err := s.Task(t.Context(), job.ID, 0)
	if err != nil || !task.Reason.Is(dspool.WhyKilledSome) || len(task.Reason.Because) != 1 {
		t.Errorf("in the end the task says %+v, %v", task.Reason, err)
	}
}
