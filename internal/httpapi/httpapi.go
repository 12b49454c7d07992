// Package httpapi serves the REST API and the agent link over control's use cases. It only
// translates: requests to calls, errors to states, changes to streams.
package httpapi

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/dspool/dspool/internal/auth"
	"github.com/dspool/dspool/internal/control"
)

const (
	prefix  = "/api/v1"
	maxBody = 8 << 20
)

// Server is the REST API.
type Server struct {
	control *control.Control
	ca      []byte
	api     huma.API
	mux     *http.ServeMux
}

// New makes the REST API; ca is the PEM text that GET /ca answers with.
func New(c *control.Control, ca []byte) *Server {
	useProblems()
	s := &Server{control: c, ca: ca, mux: http.NewServeMux()}
	cfg := huma.DefaultConfig("dspool", c.Version)
	cfg.Info.Description = "One shared pool of data-science machines. Slow actions answer 202 with an operation; " +
		"errors are problem+json with a code for programs and a hint for people."
	cfg.OpenAPIPath, cfg.DocsPath, cfg.SchemasPath = prefix+"/openapi", "", prefix+"/schemas"
	format := huma.Format{Marshal: huma.DefaultJSONFormat.Marshal, Unmarshal: unmarshal}
	cfg.Formats = map[string]huma.Format{"application/json": format, "json": format}
	cfg.CreateHooks = nil // answers carry no $schema links
	cfg.Components.SecuritySchemes = map[string]*huma.SecurityScheme{"token": {Type: "http", Scheme: "bearer"}}
	cfg.Security = []map[string][]string{{"token": {}}}
	s.api = humago.New(s.mux, cfg)
	s.config()
	s.machines()
	s.people()
	s.jobs()
	s.sessions()
	s.apps()
	s.streams()
	s.mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("ok\n")) })
	s.plain(huma.Operation{OperationID: "ca", Method: http.MethodGet, Path: "/ca", Summary: "The authority that signs the server's certificate"},
		"application/x-pem-file", func(w http.ResponseWriter, _ *http.Request) { w.Write(s.ca) })
	s.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		writeProblem(w, problemOf(notFound(r)))
	})
	return s
}

// plain registers an operation that needs no credential, and so cannot be a route of huma's, and
// describes it nevertheless.
func (s *Server) plain(op huma.Operation, media string, h http.HandlerFunc) {
	op.Path, op.Security = prefix+op.Path, []map[string][]string{}
	op.Responses = map[string]*huma.Response{"200": {Description: "OK", Content: map[string]*huma.MediaType{media: {}}}}
	s.api.OpenAPI().AddOperation(&op)
	s.mux.HandleFunc(op.Method+" "+op.Path, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", media)
		h(w, r)
	})
}

// open are the paths that need no credential.
var open = map[string]bool{"/healthz": true, prefix + "/ca": true, prefix + "/login": true, prefix + "/login/device": true, prefix + "/login/device/token": true, prefix + "/ssh/known_hosts": true, prefix + "/openapi.json": true, prefix + "/openapi.yaml": true}

// Handler serves the API to callers who show a token.
func (s *Server) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		secure(w)
		if open[r.URL.Path] {
			s.mux.ServeHTTP(w, r)
			return
		}
		secret, ok := bearer(r)
		if !ok {
			unauthenticated(w, auth.ErrUnauthenticated)
			return
		}
		who, err := s.control.Authenticate(r.Context(), secret)
		if err != nil {
			unauthenticated(w, err)
			return
		}
		ctx := withSubject(r.Context(), who)
		ctx = context.WithValue(ctx, stillKey{}, func() bool {
			now, err := s.control.Authenticate(r.Context(), secret)
			return err == nil && now == who
		})
		s.mux.ServeHTTP(w, r.WithContext(ctx))
	})
}

// SocketHandler serves the API to callers on the server's socket, which are the host's root:
// the listener has asked the kernel.
func (s *Server) SocketHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		secure(w)
		s.mux.ServeHTTP(w, r.WithContext(withSubject(r.Context(), auth.Subject{Admin: true})))
	})
}

func secure(w http.ResponseWriter) {
	h := w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
}

func bearer(r *http.Request) (string, bool) {
	const scheme = "Bearer "
	h := r.Header.Get("Authorization")
	if len(h) <= len(scheme) || len(h) > 512 || h[:len(scheme)] != scheme {
		return "", false
	}
	return h[len(scheme):], true
}

func unauthenticated(w http.ResponseWriter, err error) {
	w.Header().Set("WWW-Authenticate", `Bearer realm="dspool"`)
	writeProblem(w, problemOf(err))
}

type subjectKey struct{}

func withSubject(ctx context.Context, who auth.Subject) context.Context {
	return context.WithValue(ctx, subjectKey{}, who)
}

// subject is who asks; the handlers above have put it there before any route is reached.
func subject(ctx context.Context) auth.Subject { return ctx.Value(subjectKey{}).(auth.Subject) }

type stillKey struct{}

// still says whether who asks may still do what it might when it asked.
func still(ctx context.Context) bool {
	fn, ok := ctx.Value(stillKey{}).(func() bool)
	return !ok || fn()
}

// answer is a response with a JSON body.
type answer[T any] struct{ Body T }

// none is a request or response without a body.
type none struct{}

// route registers one operation. Errors of any kind become problems.
func route[I, O any](s *Server, method, path, id, summary string, status int, fn func(context.Context, auth.Subject, *I) (O, error)) {
	op := huma.Operation{
		OperationID: id, Method: method, Path: prefix + path, Summary: summary, DefaultStatus: status, MaxBodyBytes: maxBody,
	}
	if status == http.StatusNoContent {
		huma.Register(s.api, op, func(ctx context.Context, in *I) (*none, error) {
			_, err := fn(ctx, subject(ctx), in)
			return nil, asProblem(err)
		})
		return
	}
	huma.Register(s.api, op, func(ctx context.Context, in *I) (*answer[O], error) {
		out, err := fn(ctx, subject(ctx), in)
		if err != nil {
			return nil, asProblem(err)
		}
		return &answer[O]{Body: out}, nil
	})
}
