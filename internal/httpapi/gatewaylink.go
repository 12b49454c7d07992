package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/control"
)

// GatewayHandler serves the gateway link (see package api). Only the host's root reaches its socket.
func GatewayHandler(c *control.Control) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /gateway/v1/directives", func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		after, err1 := strconv.ParseInt(q.Get("after"), 10, 64)
		wait, err2 := time.ParseDuration(q.Get("wait"))
		if err1 != nil || (q.Get("wait") != "" && err2 != nil) {
			writeProblem(w, problemOf(dspool.Errorf(dspool.Invalid, "after or wait is wrong")))
			return
		}
		res, err := c.GatewayDirectives(r.Context(), after, min(wait, maxWait))
		reply(w, res, err)
	})
	mux.HandleFunc("POST /gateway/v1/authenticate", func(w http.ResponseWriter, r *http.Request) {
		var req api.Proof
		if readJSON(w, r, 64<<10, &req) {
			res, err := c.ProveWho(r.Context(), req)
			reply(w, res, err)
		}
	})
	mux.HandleFunc("POST /gateway/v1/sessions", func(w http.ResponseWriter, r *http.Request) {
		var req api.OpenSession
		if readJSON(w, r, 64<<10, &req) {
			openSession(c, w, r, req)
		}
	})
	mux.HandleFunc("POST /gateway/v1/certificate", func(w http.ResponseWriter, r *http.Request) {
		var req api.MachineLogin
		if readJSON(w, r, 64<<10, &req) {
			res, err := c.SignMachineLogin(r.Context(), req)
			reply(w, res, err)
		}
	})
	mux.HandleFunc("POST /gateway/v1/killed", func(w http.ResponseWriter, r *http.Request) {
		var req api.Killed
		if readJSON(w, r, 64<<10, &req) {
			res, err := c.KilledForMemory(r.Context(), req.Session)
			reply(w, res, err)
		}
	})
	mux.HandleFunc("POST /gateway/v1/connections", func(w http.ResponseWriter, r *http.Request) {
		var req []api.ConnectionReport
		if !readJSON(w, r, 16<<20, &req) {
			return
		}
		if err := c.ReportConnections(r.Context(), req); err != nil {
			writeProblem(w, problemOf(err))
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("POST /gateway/v1/web/login", func(w http.ResponseWriter, r *http.Request) {
		var req api.WebLogin
		if readJSON(w, r, 64<<10, &req) {
			res, err := c.GatewayWebLogin(r.Context(), req)
			reply(w, res, err)
		}
	})
	mux.HandleFunc("POST /gateway/v1/web/certificate", func(w http.ResponseWriter, r *http.Request) {
		var req api.WebCertificate
		if readJSON(w, r, 64<<10, &req) {
			res, err := c.SignWebCertificate(r.Context(), req)
			reply(w, res, err)
		}
	})
	mux.HandleFunc("POST /gateway/v1/web/connections", func(w http.ResponseWriter, r *http.Request) {
		var req []api.WebConnection
		if !readJSON(w, r, 16<<20, &req) {
			return
		}
		if err := c.OpenWebConnections(r.Context(), req); err != nil {
			writeProblem(w, problemOf(err))
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	return mux
}

// openSession streams how a session comes along, one JSON value a line; an error is the last line.
func openSession(c *control.Control, w http.ResponseWriter, r *http.Request, req api.OpenSession) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	f := &flusher{w: w, c: http.NewResponseController(w)}
	out := json.NewEncoder(f)
	err := c.OpenSession(r.Context(), req, func(st api.SessionStep) error { return out.Encode(st) })
	if err == nil || errors.Is(err, context.Canceled) {
		return
	}
	select {
	case <-c.Stopping():
		panic(http.ErrAbortHandler) // not this session's fault: the gateway asks the next server
	default:
	}
	p := problemOf(err)
	_ = out.Encode(api.SessionStep{Failed: &dspool.Error{Code: p.Code, Message: p.Detail, Hint: p.Hint}})
}
