package httpapi

import (
	"context"
	"net/http"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/auth"
)

// ByName is a request about one named thing. It is exported because huma only looks into
// embedded structs that are.
type ByName struct {
	Name string `path:"name" maxLength:"64"`
}

func (s *Server) config() {
	c := s.control
	route(s, http.MethodGet, "/status", "status", "The whole system in short", 200,
		func(ctx context.Context, who auth.Subject, _ *none) (api.Status, error) { return c.Status(ctx, who) })
	route(s, http.MethodGet, "/whoami", "whoami", "As whom the server sees the caller", 200,
		func(_ context.Context, who auth.Subject, _ *none) (api.Whoami, error) {
			return api.Whoami{User: who.User, Admin: who.Admin}, nil
		})
	route(s, http.MethodPost, "/apply", "apply", "Make the configuration that of a file, or say what would change", 200,
		func(ctx context.Context, who auth.Subject, in *struct{ Body api.ApplyRequest }) (api.ApplyResult, error) {
			return c.Apply(ctx, who, in.Body)
		})
	route(s, http.MethodGet, "/images", "list-images", "Images", 200,
		func(ctx context.Context, who auth.Subject, _ *none) (api.List[dspool.Image], error) {
			return c.ListImages(ctx, who)
		})
	route(s, http.MethodPost, "/images/{name}/build", "build-image", "Build an image from its recipe", 202,
		func(ctx context.Context, who auth.Subject, in *ByName) (dspool.Operation, error) {
			return c.BuildImage(ctx, who, in.Name)
		})
	route(s, http.MethodDelete, "/images/{name}", "remove-image", "Delete what an image was built to", 204,
		func(ctx context.Context, who auth.Subject, in *ByName) (none, error) {
			return none{}, c.RemoveImage(ctx, who, in.Name)
		})
	route(s, http.MethodGet, "/sizes", "list-sizes", "Sizes of machines and their prices", 200,
		func(ctx context.Context, _ auth.Subject, _ *none) (api.List[dspool.Size], error) { return c.Sizes(ctx) })
	route(s, http.MethodGet, "/shares", "list-shares", "Shares and their space", 200,
		func(ctx context.Context, _ auth.Subject, _ *none) (api.List[api.ShareStatus], error) {
			return c.Shares(ctx)
		})
	route(s, http.MethodGet, "/pools", "list-pools", "Pools and what stands in them", 200,
		func(ctx context.Context, who auth.Subject, _ *none) (api.List[api.PoolStatus], error) {
			return c.Pools(ctx, who)
		})
	route(s, http.MethodGet, "/pools/{name}", "show-pool", "One pool", 200,
		func(ctx context.Context, who auth.Subject, in *ByName) (api.PoolStatus, error) {
			return c.Pool(ctx, who, in.Name)
		})
	route(s, http.MethodPost, "/pools/{name}/resize", "resize-pool", "Change a pool's min, max and spare", 200,
		func(ctx context.Context, who auth.Subject, in *struct {
			ByName
			Body api.ResizeRequest
		}) (api.PoolStatus, error) {
			return c.Resize(ctx, who, in.Name, in.Body)
		})
}
