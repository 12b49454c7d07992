package httpapi

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/auth"
	"github.com/dspool/dspool/internal/control"
)

func (s *Server) apps() {
	c := s.control
	route(s, http.MethodGet, "/apps", "list-apps", "Apps, newest first", 200,
		func(ctx context.Context, who auth.Subject, in *struct {
			User   string `query:"user" maxLength:"64"`
			All    bool   `query:"all" doc:"Also those that have ended."`
			Before int64  `query:"before" doc:"Identifier of the last app already seen."`
			Limit  int    `query:"limit"`
		}) (api.List[dspool.App], error) {
			return c.ListApps(ctx, who, control.AppQuery{User: in.User, All: in.All, Before: in.Before, Limit: in.Limit})
		})
	route(s, http.MethodPost, "/apps", "want-app", "Run an app in a user's session; one of that name is ended first", 201,
		func(ctx context.Context, who auth.Subject, in *struct{ Body api.AppRequest }) (dspool.App, error) {
			return c.WantApp(ctx, who, in.Body)
		})
	route(s, http.MethodGet, "/apps/{id}", "show-app", "One app", 200,
		func(ctx context.Context, who auth.Subject, in *ByID) (dspool.App, error) {
			return c.App(ctx, who, in.ID)
		})
	route(s, http.MethodDelete, "/apps/{id}", "stop-app", "End an app", 200,
		func(ctx context.Context, who auth.Subject, in *ByID) (dspool.App, error) {
			return c.StopApp(ctx, who, in.ID)
		})
	stream(s, "/apps/{id}/steps", "app-steps", "How an app comes along: a step a line, until it runs (ready) or has ended (failed)", "application/x-ndjson",
		func(ctx context.Context, who auth.Subject, in *ByID) (func(context.Context, *flusher) error, error) {
			if _, err := c.App(ctx, who, in.ID); err != nil {
				return nil, err
			}
			return func(ctx context.Context, f *flusher) error {
				out := json.NewEncoder(f)
				return c.AppSteps(ctx, who, in.ID, func(st api.SessionStep) error { return out.Encode(st) })
			}, nil
		})
}
