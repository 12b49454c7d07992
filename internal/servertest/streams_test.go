package servertest_test

import (
	"context"
	"encoding/json"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/client"
	"github.com/dspool/dspool/internal/servertest"
	"github.com/dspool/dspool/internal/store"
)

func TestStreams(t *testing.T) {
	t.Parallel()
	s := servertest.New(t, servertest.Options{})
	ctx, cancel := context.WithTimeout(t.Context(), servertest.Patience)
	defer cancel()
	t.Run("a job's stream ends with its final state, over a restart too", func(t *testing.T) {
		job := s.MustSubmit(dspool.JobSpec{Command: []string{"forever"}})
		task := s.Running(job.ID, 1)[0]
		seen := make(chan dspool.Job, 100)
		go func() {
			defer close(seen)
			for j, err := range s.StreamJob(ctx, job.ID) {
				if err != nil {
					t.Error(err)
					return
				}
				seen <- j
			}
		}()
		if j := <-seen; j.State != dspool.JobRunning {
			t.Errorf("it began with %s", j.State)
		}
		s.Restart()
		s.Inside(task.Machine).End(task.Attempt, 0)
		last := dspool.Job{}
		for j := range seen {
			last = j
		}
		if last.State != dspool.JobSucceeded || last.Tasks.Succeeded != 1 {
			t.Errorf("it ended with %s, %+v", last.State, last.Tasks)
		}
	})
	t.Run("the raw stream of an ended job is its final state, and ends", func(t *testing.T) {
		status, body := raw(t, s, "GET", "/jobs/1/stream", "")
		if status != 200 || strings.Count(string(body), "event: job\n") != 1 || !strings.Contains(string(body), `"state":"succeeded"`) {
			t.Errorf("%d %s", status, body)
		}
	})
	t.Run("events resume after the last seen, each once and in order", func(t *testing.T) {
		all, err := s.Events(ctx, client.EventFilter{Limit: 1000})
		if err != nil {
			t.Fatal(err)
		}
		after := all.Items[2].ID
		for _, header := range []string{"", "later"} {
			next := after + 1
			for e, err := range s.StreamEvents(ctx, client.EventFilter{After: after}) {
				if err != nil {
					t.Fatal(err)
				}
				if e.ID != next {
					t.Fatalf("%s event %d after %d", header, e.ID, next-1)
				}
				if next++; e.ID == all.Items[len(all.Items)-1].ID {
					break
				}
			}
		}
	})
	t.Run("output follows until the task has ended, over a restart too", func(t *testing.T) {
		job := s.MustSubmit(dspool.JobSpec{Command: []string{"forever"}})
		task := s.Running(job.ID, 1)[0]
		dir := filepath.Join(s.Dir, "shares", "team", "jobs", "ada", "2", "0")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, "stdout.txt")
		write := func(text string) {
			f, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
			if err != nil {
				t.Fatal(err)
			}
			f.WriteString(text)
			f.Close()
		}
		own(t, filepath.Dir(dir), dir)
		write("one\n")
		own(t, file)
		r, w := io.Pipe()
		done := make(chan error, 1)
		go func() {
			_, err := s.CopyOutput(ctx, client.Output{Job: job.ID, Stream: "stdout", Follow: true}, w)
			w.Close()
			done <- err
		}()
		line := make([]byte, 4)
		if _, err := io.ReadFull(r, line); err != nil || string(line) != "one\n" {
			t.Fatalf("%q, %v", line, err)
		}
		s.Restart()
		write("two\n")
		if _, err := io.ReadFull(r, line); err != nil || string(line) != "two\n" {
			t.Fatalf("%q, %v", line, err)
		}
		write("end\n")
		s.Inside(task.Machine).End(task.Attempt, 0)
		rest, err := io.ReadAll(r)
		if err != nil || string(rest) != "end\n" || <-done != nil {
			t.Errorf("%q, %v", rest, err)
		}
	})
	t.Run("output that was replaced by a link is refused with a sentence", func(t *testing.T) {
		file := filepath.Join(s.Dir, "shares", "team", "jobs", "ada", "2", "0", "stdout.txt")
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("/etc/shadow", file); err != nil {
			t.Fatal(err)
		}
		_, err := s.CopyOutput(ctx, client.Output{Job: 2, Stream: "stdout"}, io.Discard)
		if dspool.ErrorCode(err) != dspool.Conflict || !strings.Contains(err.Error(), "link") {
			t.Error(err)
		}
	})
	t.Run("a server with people listening stops at once", func(t *testing.T) {
		streams, end := context.WithCancel(ctx)
		first := make(chan bool, 1)
		go func() {
			for range s.StreamEvents(streams, client.EventFilter{After: 1}) {
				select {
				case first <- true:
				default:
				}
			}
		}()
		<-first
		job := s.MustSubmit(dspool.JobSpec{Command: []string{"forever"}})
		task := s.Running(job.ID, 1)[0] // and an agent in its long poll
		op, err := s.RemoveMachine(ctx, task.Machine, false)
		if err != nil {
			t.Fatal(err)
		}
		waits := make(chan bool)
		go func() {
			defer close(waits)
			_, _ = s.Operation(streams, op.ID, time.Minute)
		}()
		begun := time.Now()
		s.Stop()
		if took := time.Since(begun); took > 3*time.Second {
			t.Errorf("stopping took %s", took)
		}
		end()
		<-waits
		s.Start()
		s.Inside(task.Machine).End(task.Attempt, 0)
		s.MustEnd(job.ID)
	})
	s.AtRest()
}

// own gives files to ada, as the machine's agent makes them.
func own(t *testing.T, paths ...string) {
	t.Helper()
	for _, p := range paths {
		if err := os.Chown(p, 20000, 20000); err != nil {
			t.Fatal(err)
		}
	}
}

func TestEventsAreForgottenAfterTheirTime(t *testing.T) {
	t.Parallel()
	s := servertest.New(t, servertest.Options{})
	s.MustEnd(s.MustSubmit(dspool.JobSpec{Command: []string{"true"}}).ID)
	s.AtRest()
	before := len(s.EventsOf("machine.create"))
	if err := s.Server.Control.Tidy(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := len(s.EventsOf("machine.create")); n != before || n == 0 {
		t.Errorf("young events: %d of %d are left", n, before)
	}
	keep := func(text string) error {
		err := s.Server.Control.Store.Write(t.Context(), func(tx *store.Tx) error { return tx.SetSetting("retention", `{"Events":"`+text+`"}`) })
		if err != nil {
			t.Fatal(err)
		}
		return s.Server.Control.Tidy(t.Context())
	}
	if err := keep("for ever"); err == nil {
		t.Error("a retention that is none was taken")
	}
	if err := keep("1ns"); err != nil {
		t.Fatal(err)
	}
	if n := len(s.EventsOf("machine.create")); n != 0 {
		t.Errorf("%d old events are left", n)
	}
	if u, err := s.Usage(t.Context(), "user", time.Time{}, time.Time{}); err != nil || u.Cost <= 0 {
		t.Errorf("the bill is %v, %v", u.Cost, err)
	}
}

func TestOpenAPI(t *testing.T) {
	t.Parallel()
	s := servertest.New(t, servertest.Options{})
	status, text := raw(t, s, "GET", "/openapi.json", "")
	var doc struct {
		OpenAPI string
		Info    struct{ Title, Version string }
		Paths   map[string]map[string]struct {
			OperationID string
			Parameters  []struct{ Name, In string }
			Responses   map[string]any
		}
		Components struct{ Schemas map[string]any }
	}
	if err := json.Unmarshal(text, &doc); err != nil || status != 200 {
		t.Fatalf("%d, %v", status, err)
	}
	if !strings.HasPrefix(doc.OpenAPI, "3.1") || doc.Info.Title == "" || doc.Info.Version == "" {
		t.Errorf("openapi %q of %+v", doc.OpenAPI, doc.Info)
	}
	for _, ref := range regexp.MustCompile(`"\$ref":"([^"]*)"`).FindAllStringSubmatch(string(text), -1) {
		name, ok := strings.CutPrefix(ref[1], "#/components/schemas/")
		if _, there := doc.Components.Schemas[name]; !ok || !there {
			t.Errorf("%s leads nowhere", ref[1])
		}
	}
	ids, routes := map[string]bool{}, map[string]bool{}
	for path, item := range doc.Paths {
		for method, op := range item {
			routes[strings.ToUpper(method)+" "+strings.TrimPrefix(path, "/api/v1")] = true
			if op.OperationID == "" || ids[op.OperationID] || len(op.Responses) == 0 {
				t.Errorf("%s %s has id %q and responses %v", method, path, op.OperationID, op.Responses)
			}
			ids[op.OperationID] = true
			for _, p := range regexp.MustCompile(`\{([^}]*)\}`).FindAllStringSubmatch(path, -1) {
				if !slices.ContainsFunc(op.Parameters, func(q struct{ Name, In string }) bool { return q.Name == p[1] && q.In == "path" }) {
					t.Errorf("%s %s does not describe %s", method, path, p[1])
				}
			}
		}
	}
	// The comment in package api is the contract that the client is written to.
	source, err := os.ReadFile("../../api/rest.go")
	if err != nil {
		t.Fatal(err)
	}
	rows := regexp.MustCompile(`(?m)^//\s+(GET|POST|DELETE|PUT|PATCH)\s+(/[^\s?]*)`).FindAllStringSubmatch(string(source), -1)
	if len(rows) < 30 {
		t.Fatalf("only %d routes are documented", len(rows))
	}
	known := slices.Sorted(maps.Keys(routes))
	for _, r := range rows {
		route := r[1] + " " + regexp.MustCompile(`\{stdout\|stderr\}`).ReplaceAllString(r[2], "{stream}")
		if !routes[route] {
			t.Errorf("%s is documented and not in the OpenAPI document, which has %v", route, known)
		}
	}
	var problem api.Problem
	if status, text := raw(t, s, "GET", "/nothing", ""); status != 404 || json.Unmarshal(text, &problem) != nil || problem.Code != dspool.NotFound {
		t.Errorf("an unknown path: %d %s", status, text)
	}
}
