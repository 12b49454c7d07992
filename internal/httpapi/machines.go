package httpapi

import (
	"context"
	"net/http"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/auth"
	"github.com/dspool/dspool/internal/control"
)

// maxWait is how long a request may wait for something to change.
const maxWait = time.Minute

func (s *Server) machines() {
	c := s.control
	route(s, http.MethodGet, "/machines", "list-machines", "Machines, newest first", 200,
		func(ctx context.Context, who auth.Subject, in *struct {
			Pool string `query:"pool" maxLength:"64"`
			All  bool   `query:"all" doc:"Also those that are gone."`
		}) (api.List[dspool.Machine], error) {
			return c.Machines(ctx, who, in.Pool, in.All)
		})
	route(s, http.MethodGet, "/machines/{name}", "show-machine", "One machine, what is placed on it, and why", 200,
		func(ctx context.Context, who auth.Subject, in *ByName) (api.MachineDetail, error) {
			return c.Machine(ctx, who, in.Name)
		})
	route(s, http.MethodDelete, "/machines/{name}", "remove-machine", "Remove a machine when nothing runs on it any more, or now", 202,
		func(ctx context.Context, who auth.Subject, in *struct {
			ByName
			Force bool `query:"force" doc:"Do not wait for what runs on it."`
		}) (dspool.Operation, error) {
			return c.RemoveMachine(ctx, who, in.Name, in.Force)
		})
	route(s, http.MethodGet, "/operations/{id}", "show-operation", "A slow action; with wait, once it has changed", 200,
		func(ctx context.Context, who auth.Subject, in *struct {
			ID   string `path:"id" maxLength:"64"`
			Wait string `query:"wait" maxLength:"16" doc:"Such as 30s: answer when it has ended or its progress has changed, at the latest then."`
		}) (dspool.Operation, error) {
			return s.operation(ctx, who, in.ID, in.Wait)
		})
	route(s, http.MethodGet, "/events", "list-events", "Events, oldest first", 200,
		func(ctx context.Context, who auth.Subject, in *struct {
			After   int64  `query:"after" doc:"Identifier of the last event already seen."`
			Latest  bool   `query:"latest" doc:"The newest ones."`
			Limit   int    `query:"limit"`
			Pool    string `query:"pool" maxLength:"64"`
			Machine string `query:"machine" maxLength:"64"`
			Job     int64  `query:"job"`
		}) (api.List[dspool.Event], error) {
			return c.Events(ctx, who, control.EventQuery{After: in.After, Latest: in.Latest, Limit: in.Limit, Pool: in.Pool, Machine: in.Machine, Job: in.Job})
		})
	route(s, http.MethodGet, "/usage", "usage", "What was used and what it cost", 200,
		func(ctx context.Context, who auth.Subject, in *struct {
			By   string    `query:"by" enum:"user,pool,job" default:"user"`
			From time.Time `query:"from" doc:"Beginning; this month's, in UTC, unless given."`
			To   time.Time `query:"to" doc:"End; now unless given."`
		}) (api.Usage, error) {
			return c.Usage(ctx, who, in.By, in.From, in.To)
		})
}

// operation answers at once, or with wait when the operation has changed since.
func (s *Server) operation(ctx context.Context, who auth.Subject, id, wait string) (dspool.Operation, error) {
	var d dspool.Duration
	if wait != "" {
		var err error
		if d, err = dspool.ParseDuration(wait); err != nil {
			return dspool.Operation{}, err
		}
	}
	timer := time.NewTimer(min(time.Duration(d), maxWait))
	defer timer.Stop()
	changed := s.control.Changed(control.TopicOperation(id))
	op, err := s.control.Operation(ctx, who, id)
	if err != nil || op.State != dspool.OperationRunning || d == 0 {
		return op, err
	}
	select {
	case <-changed:
	case <-timer.C:
	case <-ctx.Done():
	case <-s.control.Stopping():
	}
	return s.control.Operation(ctx, who, id)
}
