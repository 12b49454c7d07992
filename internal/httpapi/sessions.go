package httpapi

import (
	"context"
	"io"
	"net"
	"net/http"
	"reflect"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/auth"
	"github.com/dspool/dspool/internal/control"
)

func (s *Server) sessions() {
	s.accounts()
	s.drains()
	s.recordings()
	c := s.control
	route(s, http.MethodGet, "/sessions", "list-sessions", "Sessions, newest first", 200,
		func(ctx context.Context, who auth.Subject, in *struct {
			User   string `query:"user" maxLength:"64"`
			Pool   string `query:"pool" maxLength:"64"`
			All    bool   `query:"all" doc:"Also those that have closed."`
			Before int64  `query:"before" doc:"Identifier of the last session already seen."`
			Limit  int    `query:"limit"`
		}) (api.List[dspool.Session], error) {
			return c.ListSessions(ctx, who, control.SessionQuery{User: in.User, Pool: in.Pool, All: in.All, Before: in.Before, Limit: in.Limit})
		})
	route(s, http.MethodGet, "/sessions/{id}", "show-session", "One session and its connections", 200,
		func(ctx context.Context, who auth.Subject, in *ByID) (api.SessionDetail, error) {
			return c.Session(ctx, who, in.ID)
		})
	route(s, http.MethodPost, "/sessions/{id}/keep", "keep-session", "Ask not to end a session for a time", 200,
		func(ctx context.Context, who auth.Subject, in *struct {
			ByID
			Body api.KeepRequest
		}) (dspool.Session, error) {
			return c.KeepSession(ctx, who, in.ID, time.Duration(in.Body.For))
		})
	route(s, http.MethodDelete, "/sessions/{id}", "close-session", "End a session and everything of it on its machine", 202,
		func(ctx context.Context, who auth.Subject, in *ByID) (dspool.Operation, error) {
			return c.CloseSession(ctx, who, in.ID)
		})
	route(s, http.MethodGet, "/doors", "list-doors", "Places where people come in", 200,
		func(ctx context.Context, _ auth.Subject, _ *none) (api.List[dspool.Door], error) { return c.Doors(ctx) })
	s.plain(huma.Operation{OperationID: "known-hosts", Method: http.MethodGet, Path: "/ssh/known_hosts", Summary: "Host keys of the doors, in the form of known_hosts"},
		"text/plain; charset=utf-8", func(w http.ResponseWriter, r *http.Request) {
			text, err := c.KnownHosts(r.Context())
			if err != nil {
				writeProblem(w, problemOf(err))
				return
			}
			_, _ = io.WriteString(w, text)
		})
}

// ByID is a request about one numbered thing.
type ByID struct {
	ID int64 `path:"id"`
}

func (s *Server) accounts() {
	c := s.control
	route(s, http.MethodGet, "/users/{name}", "show-user", "One account, its keys and sessions", 200,
		func(ctx context.Context, who auth.Subject, in *ByName) (api.UserDetail, error) {
			return c.User(ctx, who, in.Name)
		})
	route(s, http.MethodPatch, "/users/{name}", "change-user", "Change an account", 200,
		func(ctx context.Context, who auth.Subject, in *struct {
			ByName
			Body api.ChangeUserRequest
		}) (api.ChangedUser, error) {
			return c.ChangeUser(ctx, who, in.Name, in.Body)
		})
	route(s, http.MethodPut, "/users/{name}/password", "set-password", "Set or remove a password", 204,
		func(ctx context.Context, who auth.Subject, in *struct {
			ByName
			Body api.PasswordRequest
		}) (none, error) {
			return none{}, c.SetPassword(ctx, who, in.Name, in.Body)
		})
	route(s, http.MethodPut, "/users/{name}/oidc", "link-user", "Say who somebody is to an OpenID provider", 204,
		func(ctx context.Context, who auth.Subject, in *struct {
			ByName
			Body api.LinkRequest
		}) (none, error) {
			return none{}, c.LinkOIDC(ctx, who, in.Name, in.Body.Issuer, in.Body.Subject)
		})
	route(s, http.MethodGet, "/users/{name}/keys", "list-keys", "Public keys of an account", 200,
		func(ctx context.Context, who auth.Subject, in *ByName) (api.List[dspool.UserKey], error) {
			return c.UserKeys(ctx, who, in.Name)
		})
	route(s, http.MethodPost, "/users/{name}/keys", "add-key", "Add a public key", 201,
		func(ctx context.Context, who auth.Subject, in *struct {
			ByName
			Body api.AddKeyRequest
		}) (dspool.UserKey, error) {
			return c.AddUserKey(ctx, who, in.Name, in.Body)
		})
	route(s, http.MethodDelete, "/users/{name}/keys", "remove-key", "Remove a public key", 204,
		func(ctx context.Context, who auth.Subject, in *struct {
			ByName
			Fingerprint string `query:"fingerprint" required:"true" maxLength:"128"`
		}) (none, error) {
			return none{}, c.RemoveUserKey(ctx, who, in.Name, in.Fingerprint)
		})
	route(s, http.MethodGet, "/groups", "list-groups", "Groups and their members", 200,
		func(ctx context.Context, who auth.Subject, _ *none) (api.List[dspool.Group], error) {
			return c.Groups(ctx, who)
		})
	route(s, http.MethodPost, "/ssh/certificate", "sign-certificate", "A short-lived SSH certificate for the caller", 200,
		func(ctx context.Context, who auth.Subject, in *struct{ Body api.CertificateRequest }) (api.Certificate, error) {
			return c.SignUserCertificate(ctx, who, in.Body)
		})
	route(s, http.MethodPost, "/ssh/revocations", "revoke", "End a certificate or key at once", 204,
		func(ctx context.Context, who auth.Subject, in *struct{ Body api.RevocationRequest }) (none, error) {
			return none{}, c.Revoke(ctx, who, in.Body)
		})
	login := s.api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[api.LoginRequest](), true, "LoginRequest")
	s.plain(huma.Operation{
		OperationID: "login", Method: http.MethodPost, Path: "/login", Summary: "Trade a password for a token",
		RequestBody: &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{"application/json": {Schema: login}}},
	}, "application/json", s.login)
	s.deviceLogins()
}

// login trades a password for a token. It is no route of huma's because nobody is authenticated yet.
func (s *Server) login(w http.ResponseWriter, r *http.Request) {
	var req api.LoginRequest
	if !readJSON(w, r, 16<<10, &req) {
		return
	}
	res, err := s.control.Login(r.Context(), cameFrom(r), req)
	reply(w, res, err)
}

// cameFrom is the address of who asks.
func cameFrom(r *http.Request) string {
	if _, _, err := net.SplitHostPort(r.RemoteAddr); err != nil {
		return "the server's socket"
	}
	return r.RemoteAddr
}

func (s *Server) drains() {
	c := s.control
	for path, cordoned := range map[string]bool{"cordon": true, "uncordon": false} {
		route(s, http.MethodPost, "/machines/{name}/"+path, path+"-machine", "Keep new claims off a machine, or let them on it again", 200,
			func(ctx context.Context, who auth.Subject, in *ByName) (dspool.Machine, error) {
				return c.Cordon(ctx, who, in.Name, cordoned)
			})
	}
	route(s, http.MethodPost, "/machines/{name}/drain", "drain-machine", "Remove a machine once nothing lives on it, or at the deadline", 202,
		func(ctx context.Context, who auth.Subject, in *struct {
			ByName
			Body api.DrainRequest
		}) (dspool.Operation, error) {
			return c.Drain(ctx, who, in.Name, time.Duration(in.Body.Deadline))
		})
}
