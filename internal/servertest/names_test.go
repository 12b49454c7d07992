package servertest_test

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/servertest"
	"github.com/dspool/dspool/internal/store"
)

// TestNoAnswerNamesOthers puts a reason that names somebody else wherever a reason can lie, and reads every
// address of the API that can be read. A new one is among them by itself.
func TestNoAnswerNamesOthers(t *testing.T) {
	t.Parallel()
	s := servertest.New(t, servertest.Options{})
	ctx := t.Context()
	job := s.MustEnd(s.MustSubmit(dspool.JobSpec{Command: []string{"true"}}).ID)
	task, err := s.Task(ctx, job.ID, 0)
	if err != nil {
		t.Fatal(err)
	}
	leak := dspool.Why(dspool.WhyMakesRoomJob, dspool.ReasonParams{User: "mallory", Job: 424242, Detail: "hush", Pool: "batch", Size: "small"})
	leak = leak.With(leak.With(leak))
	var session, app int64
	err = s.Server.Control.Store.Write(ctx, func(tx *store.Tx) error {
		machine, err := tx.Machine(task.Machine)
		if err != nil {
			return err
		}
		machine.Reason, machine.Failure, machine.HealthReason = leak, leak, leak
		if err := tx.UpdateMachine(machine); err != nil {
			return err
		}
		row, err := tx.Job(job.ID)
		if err != nil {
			return err
		}
		row.Reason = leak
		if err := tx.UpdateJob(row); err != nil {
			return err
		}
		attempts, err := tx.Attempts([]int64{task.Attempt})
		if err != nil {
			return err
		}
		attempts[0].Reason = leak
		if err := tx.UpdateAttempts(attempts); err != nil {
			return err
		}
		r := store.SessionRow{Session: dspool.Session{User: "ada", Pool: "batch", State: dspool.SessionClosed, Reason: leak, Activity: leak}}
		if err := tx.InsertSession(&r); err != nil {
			return err
		}
		session = r.ID
		a := store.AppRow{App: dspool.App{Name: "jupyter", User: "ada", Pool: "batch", Session: r.ID, State: dspool.AppEnded, Reason: leak}}
		if err := tx.InsertApp(&a); err != nil {
			return err
		}
		app = a.ID
		img, err := tx.Image("UbuntuDSVM")
		if err != nil {
			return err
		}
		img.State, img.Key, img.Reason = dspool.ImageFailed, "", leak // so that no machine can be made
		if err := tx.PutImage(img); err != nil {
			return err
		}
		failed := dspool.Errorf(dspool.Conflict, "it did not work").WithReason(leak)
		if err := tx.PutOperation(dspool.Operation{ID: "op", Kind: "x", User: "ada", State: dspool.OperationFailed, Error: failed}); err != nil {
			return err
		}
		for _, user := range []string{"", "ada"} {
			if err := tx.AddEvent(dspool.Event{Actor: "planner", Kind: "x", Pool: "batch", Machine: task.Machine, Job: job.ID, User: user, Message: "x", Reason: leak}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	s.MustSubmit(dspool.JobSpec{Command: []string{"forever"}, Array: "1-1000"})
	s.Until("the pool does not grow, and says why", func() bool {
		p, err := s.Pool(ctx, "batch")
		return err == nil && p.Note.Is(leak.Code)
	})
	fill := strings.NewReplacer("/jobs/{id}", "/jobs/"+strconv.FormatInt(job.ID, 10), "{index}", "0", "/machines/{name}", "/machines/"+task.Machine,
		"/pools/{name}", "/pools/batch", "/sessions/{id}", "/sessions/"+strconv.FormatInt(session, 10), "/apps/{id}", "/apps/"+strconv.FormatInt(app, 10),
		"/operations/{id}", "/operations/op", "/users/{name}", "/users/ada", "/recordings/{id}", "/recordings/1")
	status, doc := raw(t, s, "GET", "/openapi.json", "")
	var openapi struct{ Paths map[string]map[string]any }
	if err := json.Unmarshal(doc, &openapi); err != nil || status != http.StatusOK {
		t.Fatalf("%d, %v", status, err)
	}
	ca, err := s.CA(ctx)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	https := &http.Client{Timeout: servertest.Patience, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	secrets := map[string]string{}
	for _, who := range []string{"ada", "grace"} {
		token, err := s.AddToken(ctx, api.AddTokenRequest{User: who})
		if err != nil {
			t.Fatal(err)
		}
		secrets[who] = token.Secret
	}
	var shown []string // to an administrator: where a reason can lie at all
	for path, item := range openapi.Paths {
		if item["get"] == nil {
			continue
		}
		path, query := strings.TrimPrefix(path, "/api/v1"), "?all=true"
		if strings.HasSuffix(path, "/stream") {
			query = "?after=1" // from the beginning
		}
		for who, secret := range secrets {
			req, err := http.NewRequestWithContext(ctx, "GET", "https://"+s.Server.Addr().String()+"/api/v1"+fill.Replace(path)+query, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", "Bearer "+secret)
			resp, err := https.Do(req)
			if err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			var body strings.Builder
			events := 0
			lines := bufio.NewScanner(resp.Body)
			for lines.Buffer(nil, 1<<20); events < 2 && lines.Scan(); {
				body.WriteString(lines.Text() + "\n")
				if path == "/events/stream" && strings.Contains(lines.Text(), `"kind":"x"`) {
					events++ // a stream goes on for ever
				}
			}
			resp.Body.Close()
			if err := lines.Err(); err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			named := slices.ContainsFunc([]string{"mallory", "424242", "hush"}, func(secret string) bool { return strings.Contains(body.String(), secret) })
			switch {
			case who == "ada" && named:
				t.Errorf("%s names others to ada: %s", path, body.String())
			case who == "grace" && named:
				shown = append(shown, path)
			}
		}
	}
	slices.Sort(shown)
	want := []string{"/apps", "/apps/{id}", "/events", "/events/stream", "/images", "/jobs", "/jobs/{id}", "/jobs/{id}/stream", "/jobs/{id}/tasks", "/jobs/{id}/tasks/{index}", "/machines",
		"/machines/{name}", "/operations/{id}", "/pools", "/pools/{name}", "/sessions", "/sessions/{id}", "/status"}
	if !slices.Equal(shown, want) {
		t.Errorf("an administrator reads reasons at %q, and not at %q: a new address with reasons belongs into the list", shown, want)
	}
}
