package httpapi

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/auth"
	"github.com/dspool/dspool/internal/control"
)

// AgentHandler serves the agent link (see package api) over mutual TLS.
func AgentHandler(c *control.Control) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /agent/v1/enrol", func(w http.ResponseWriter, r *http.Request) {
		var req api.EnrolRequest
		if !readJSON(w, r, 64<<10, &req) {
			return
		}
		res, err := c.Enrol(r.Context(), req)
		reply(w, res, err)
	})
	mux.HandleFunc("POST /agent/v1/renew", asMachine(func(machine string, w http.ResponseWriter, r *http.Request) {
		var req api.RenewRequest
		if !readJSON(w, r, 64<<10, &req) {
			return
		}
		res, err := c.Renew(r.Context(), machine, req)
		reply(w, res, err)
	}))
	mux.HandleFunc("GET /agent/v1/directives", asMachine(func(machine string, w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		after, err1 := strconv.ParseInt(q.Get("after"), 10, 64)
		wait, err2 := time.ParseDuration(q.Get("wait"))
		if err1 != nil || (q.Get("wait") != "" && err2 != nil) {
			writeProblem(w, problemOf(dspool.Errorf(dspool.Invalid, "after or wait is wrong")))
			return
		}
		res, err := c.Directives(r.Context(), machine, after, min(wait, maxWait))
		reply(w, res, err)
	}))
	mux.HandleFunc("POST /agent/v1/reports", asMachine(func(machine string, w http.ResponseWriter, r *http.Request) {
		var req api.Report
		if !readJSON(w, r, 4<<20, &req) {
			return
		}
		if err := c.Report(r.Context(), machine, req); err != nil {
			writeProblem(w, problemOf(err))
			return
		}
		w.WriteHeader(http.StatusNoContent)
	}))
	return mux
}

// asMachine lets only machines with a certificate of ours through.
func asMachine(fn func(string, http.ResponseWriter, *http.Request)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		machine, ok := auth.MachineOf(r.TLS)
		if !ok {
			writeProblem(w, problemOf(auth.ErrUnauthenticated))
			return
		}
		fn(machine, w, r)
	}
}

// bodyWithin is how long the body of a request may take to come; huma has a limit of its own.
const bodyWithin = 10 * time.Second

func readJSON(w http.ResponseWriter, r *http.Request, most int64, into any) bool {
	c := http.NewResponseController(w)
	_ = c.SetReadDeadline(time.Now().Add(bodyWithin)) // where it is not possible, it is a test
	defer c.SetReadDeadline(time.Time{})
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, most)).Decode(into)
	if err == nil {
		return true
	}
	if errors.Is(err, io.ErrUnexpectedEOF) && r.Context().Err() != nil {
		return false
	}
	writeProblem(w, problemOf(dspool.Errorf(dspool.Invalid, "the request is not the JSON that is wanted: %w", err)))
	return false
}

func reply(w http.ResponseWriter, v any, err error) {
	if err != nil {
		writeProblem(w, problemOf(err))
		return
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v)
}
