package client

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
)

// Error is a refusal by the server. It unwraps to the *dspool.Error that people see.
type Error struct {
	Status   int // of HTTP
	Problems []api.FieldProblem
	err      *dspool.Error
}

func (e *Error) Error() string { return e.err.Error() }

// Unwrap returns the *dspool.Error.
func (e *Error) Unwrap() error { return e.err }

// Problems returns the single problems that a server's refusal lists, or none.
func Problems(err error) []api.FieldProblem {
	var e *Error
	if errors.As(err, &e) {
		return e.Problems
	}
	return nil
}

// refused turns an answer that is no success into an *Error.
func (c *Client) refused(resp *http.Response) error {
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<20))
	var p api.Problem
	if !isJSON(resp.Header) || json.Unmarshal(text, &p) != nil {
		p = api.Problem{}
	}
	e := &dspool.Error{Code: p.Code, Message: cmp.Or(p.Detail, p.Title), Hint: p.Hint}
	if e.Code == "" {
		e.Code = codeOf(resp.StatusCode)
	}
	switch {
	case e.Message != "":
	case resp.StatusCode/100 == 3:
		e.Message = c.where + " sends callers elsewhere (to " + dspool.Quote(resp.Header.Get("Location")) + ")"
		e.Hint = "put the server's own address into DSPOOL_URL"
	default:
		e.Message = c.where + " answered " + cmp.Or(http.StatusText(resp.StatusCode), resp.Status)
		e.Hint = "is a dspool server at that address?"
	}
	if e.Code == dspool.Unauthenticated && p.Hint == "" && !strings.HasSuffix(resp.Request.URL.Path, "/api/v1/login") {
		e.Hint = "log in with `dspool login`, or put a valid token into DSPOOL_TOKEN"
	}
	return &Error{Status: resp.StatusCode, Problems: p.Errors, err: e}
}

// codeOf is for answers that are not dspool's own, such as a proxy's.
func codeOf(status int) dspool.Code {
	switch status {
	case http.StatusUnauthorized:
		return dspool.Unauthenticated
	case http.StatusForbidden:
		return dspool.Forbidden
	case http.StatusNotFound, http.StatusGone:
		return dspool.NotFound
	case http.StatusConflict, http.StatusPreconditionFailed:
		return dspool.Conflict
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout, http.StatusRequestTimeout:
		return dspool.Unavailable
	}
	if status >= 400 && status < 500 {
		return dspool.Invalid
	}
	return dspool.Internal
}

// errNobodyHome marks that nothing accepts connections at the address.
var errNobodyHome = errors.New("nothing accepts connections there")

func nobodyHome(err error) bool { return errors.Is(err, errNobodyHome) }

// mayWork says whether the same call may work a little later.
func mayWork(err error) bool { return dspool.ErrorCode(err) == dspool.Unavailable }

// unreachable puts a failed transport into words. What the caller's own context ended stays as it is.
func (c *Client) unreachable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return dspool.Errorf(dspool.Unavailable, "%s did not answer in time: %w", c.where, ctx.Err())
		}
		return context.Cause(ctx)
	}
	var op *net.OpError
	var cert *tls.CertificateVerificationError
	var name x509.HostnameError
	var record tls.RecordHeaderError
	switch {
	case errors.Is(err, fs.ErrPermission):
		return dspool.Errorf(dspool.Forbidden, "this account may not use %s", c.where).
			WithHint("run as root, or log in with `dspool login --url URL`")
	case errors.As(err, &name):
		return dspool.Errorf(dspool.Forbidden, "the certificate of %s is for other names: %w", c.where, name).
			WithHint("use one of them, or have the administrator add this one under server.names")
	case errors.As(err, &cert):
		return dspool.Errorf(dspool.Forbidden, "the certificate of %s is not to be trusted: %w", c.where, cert.Err).
			WithHint("log in with `dspool login`, which asks whether to trust it, or name in DSPOOL_CA a file with what `dspool ca` prints on the server's host")
	case errors.As(err, &record), errors.Is(err, http.ErrSchemeMismatch):
		return dspool.Errorf(dspool.Invalid, "%s does not speak TLS", c.where).WithHint("is a dspool server at that address?")
	case errors.As(err, &op) && op.Op == "dial":
		e := dspool.Errorf(dspool.Unavailable, "%w", &home{err})
		e.Message = "no dspool server answers at " + c.where
		return e.WithHint("start one with `dspool server --config FILE`, or set DSPOOL_URL to where one is")
	}
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err // without the long address
	}
	return dspool.Errorf(dspool.Unavailable, "the connection to %s broke: %w", c.where, err)
}

// home is a failed dial.
type home struct{ err error }

func (h *home) Error() string        { return h.err.Error() }
func (h *home) Unwrap() error        { return h.err }
func (h *home) Is(target error) bool { return target == errNobodyHome }
