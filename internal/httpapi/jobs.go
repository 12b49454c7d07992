package httpapi

import (
	"context"
	"net/http"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/auth"
	"github.com/dspool/dspool/internal/control"
)

// ByJob is a request about one job.
type ByJob struct {
	ID int64 `path:"id"`
}

func (s *Server) jobs() {
	c := s.control
	route(s, http.MethodPost, "/jobs", "submit-job", "Submit a job", 201,
		func(ctx context.Context, who auth.Subject, in *struct{ Body api.SubmitRequest }) (dspool.Job, error) {
			return c.Submit(ctx, who, in.Body)
		})
	route(s, http.MethodGet, "/jobs", "list-jobs", "Jobs, newest first", 200,
		func(ctx context.Context, who auth.Subject, in *struct {
			User   string   `query:"user" maxLength:"64"`
			Pool   string   `query:"pool" maxLength:"64"`
			State  []string `query:"state" enum:"queued,running,succeeded,failed,cancelled"`
			Before int64    `query:"before" doc:"Identifier of the last job already seen."`
			Limit  int      `query:"limit"`
		}) (api.List[dspool.Job], error) {
			q := control.JobQuery{User: in.User, Pool: in.Pool, Before: in.Before, Limit: in.Limit}
			for _, st := range in.State {
				q.States = append(q.States, dspool.JobState(st))
			}
			return c.Jobs(ctx, who, q)
		})
	route(s, http.MethodGet, "/jobs/{id}", "show-job", "One job", 200,
		func(ctx context.Context, who auth.Subject, in *ByJob) (dspool.Job, error) {
			return c.Job(ctx, who, in.ID)
		})
	route(s, http.MethodPost, "/jobs/{id}/cancel", "cancel-job", "Cancel a job: what waits never starts, what runs is ended", 200,
		func(ctx context.Context, who auth.Subject, in *ByJob) (dspool.Job, error) {
			return c.Cancel(ctx, who, in.ID)
		})
	route(s, http.MethodGet, "/jobs/{id}/tasks", "list-tasks", "A job's tasks, by index", 200,
		func(ctx context.Context, who auth.Subject, in *struct {
			ByJob
			State string `query:"state" enum:"pending,assigned,running,succeeded,failed,cancelled,lost"`
			After int64  `query:"after" default:"-1" doc:"Index of the last task already seen."`
			Limit int    `query:"limit"`
		}) (api.List[dspool.Task], error) {
			return c.Tasks(ctx, who, in.ID, control.TaskQuery{State: dspool.TaskState(in.State), After: in.After, Limit: in.Limit})
		})
	route(s, http.MethodGet, "/jobs/{id}/tasks/{index}", "show-task", "One task", 200,
		func(ctx context.Context, who auth.Subject, in *struct {
			ByJob
			Index int64 `path:"index"`
		}) (dspool.Task, error) {
			return c.Task(ctx, who, in.ID, in.Index)
		})
}
