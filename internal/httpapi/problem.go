package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"

	"github.com/danielgtaylor/huma/v2"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/control"
)

// states is the one table from error codes to HTTP states.
var states = map[dspool.Code]int{
	dspool.Invalid:         http.StatusUnprocessableEntity,
	dspool.Unauthenticated: http.StatusUnauthorized,
	dspool.NotFound:        http.StatusNotFound,
	dspool.Forbidden:       http.StatusForbidden,
	dspool.Conflict:        http.StatusConflict,
	dspool.Unavailable:     http.StatusServiceUnavailable,
	dspool.Internal:        http.StatusInternalServerError,
}

// problem is api.Problem as huma wants its errors.
type problem struct{ api.Problem }

func (p *problem) Error() string             { return p.Detail }
func (p *problem) GetStatus() int            { return p.Status }
func (p *problem) ContentType(string) string { return "application/problem+json" }

func problemOf(err error) *problem {
	var p *problem
	if errors.As(err, &p) {
		return p
	}
	var e *dspool.Error
	switch {
	case errors.As(err, &e):
	case errors.Is(err, context.Canceled):
		e = dspool.Errorf(dspool.Unavailable, "the request was given up")
	default:
		// What went wrong inside may name files and keys: it is for the log, not for callers.
		slog.Error("request failed", "err", err)
		e = dspool.Errorf(dspool.Internal, "the server failed to do this").WithHint("its log says more")
	}
	p = &problem{api.Problem{Title: http.StatusText(states[e.Code]), Status: states[e.Code], Detail: e.Message, Code: e.Code, Hint: e.Hint}}
	var many *control.Problems
	if errors.As(err, &many) {
		p.Errors = many.Fields
	}
	return p
}

func asProblem(err error) error {
	if err == nil {
		return nil
	}
	return problemOf(err)
}

func writeProblem(w http.ResponseWriter, p *problem) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.Status)
	json.NewEncoder(w).Encode(p.Problem)
}

func notFound(r *http.Request) error {
	return dspool.Errorf(dspool.NotFound, "the API has no %s %s", r.Method, dspool.Quote(r.URL.Path)).
		WithHint("%s/openapi.json lists what it has", prefix)
}

// useProblems makes huma's own errors (a body that does not match its schema) problems too. It
// leaves out the offending value, which may be long or secret.
var useProblems = sync.OnceFunc(func() {
	huma.NewError = func(status int, message string, errs ...error) huma.StatusError {
		p := &problem{api.Problem{Title: http.StatusText(status), Status: status, Detail: message, Code: dspool.Invalid}}
		if status >= http.StatusInternalServerError {
			p.Code = dspool.Internal
		}
		for _, err := range errs {
			var d *huma.ErrorDetail
			if errors.As(err, &d) {
				p.Errors = append(p.Errors, api.FieldProblem{Location: d.Location, Message: d.Message})
			} else if err != nil {
				p.Errors = append(p.Errors, api.FieldProblem{Message: err.Error()})
			}
		}
		if len(p.Errors) > 0 {
			first := p.Errors[0]
			if p.Detail = "the request is wrong: " + first.Message; first.Location != wholeBody {
				p.Detail = fmt.Sprintf("the request is wrong: %s: %s", first.Location, first.Message)
			}
		}
		return p
	}
})

// unmarshal is encoding/json's Unmarshal with errors that say where in the body they are: of an error huma keeps the
// text, with the location wholeBody. A number that its field cannot hold passes huma's schema and fails here.
func unmarshal(b []byte, v any) error {
	err := json.Unmarshal(b, v)
	var wrong *json.UnmarshalTypeError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &wrong):
		return fmt.Errorf("%s.%s: the %s is not possible", wholeBody, wrong.Field[strings.LastIndex(wrong.Field, ".")+1:], wrong.Value)
	}
	return fmt.Errorf("%s: %w", wholeBody, err)
}

const wholeBody = "body"
