package httpapi

import (
	"context"
	"net/http"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/auth"
)

func (s *Server) people() {
	c := s.control
	route(s, http.MethodGet, "/users", "list-users", "Accounts", 200,
		func(ctx context.Context, who auth.Subject, _ *none) (api.List[dspool.User], error) {
			return c.Users(ctx, who)
		})
	route(s, http.MethodPost, "/users", "add-user", "Make an account", 201,
		func(ctx context.Context, who auth.Subject, in *struct{ Body api.AddUserRequest }) (dspool.User, error) {
			return c.AddUser(ctx, who, in.Body)
		})
	route(s, http.MethodDelete, "/users/{name}", "remove-user", "Remove an account; its files stay", 204,
		func(ctx context.Context, who auth.Subject, in *ByName) (none, error) {
			return none{}, c.RemoveUser(ctx, who, in.Name)
		})
	route(s, http.MethodGet, "/tokens", "list-tokens", "Tokens, without their secrets", 200,
		func(ctx context.Context, who auth.Subject, in *struct {
			User string `query:"user" maxLength:"64"`
		}) (api.List[dspool.Token], error) {
			return c.Tokens(ctx, who, in.User)
		})
	route(s, http.MethodPost, "/tokens", "create-token", "Make a token; its secret is shown this once", 201,
		func(ctx context.Context, who auth.Subject, in *struct{ Body api.AddTokenRequest }) (api.NewToken, error) {
			return c.AddToken(ctx, who, in.Body)
		})
	route(s, http.MethodDelete, "/tokens/{id}", "revoke-token", "End a token at once", 204,
		func(ctx context.Context, who auth.Subject, in *struct {
			ID string `path:"id" maxLength:"64"`
		}) (none, error) {
			return none{}, c.RevokeToken(ctx, who, in.ID)
		})
}
