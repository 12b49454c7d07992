package client

import (
	"context"
	"io"
	"net/http"
	"strconv"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
)

// SessionFilter selects sessions; what is zero selects everything that has not closed.
type SessionFilter struct {
	User, Pool string
	All        bool  // also those that have closed
	Before     int64 // only sessions with a lower id
	Limit      int
}

// Sessions lists sessions, newest first.
func (c *Client) Sessions(ctx context.Context, f SessionFilter) (api.List[dspool.Session], error) {
	return get[api.List[dspool.Session]](ctx, c, query("user", f.User, "pool", f.Pool, "all", strconv.FormatBool(f.All),
		"before", number(f.Before), "limit", strconv.Itoa(f.Limit)), "sessions")
}

// Session returns one session with its connections.
func (c *Client) Session(ctx context.Context, id int64) (api.SessionDetail, error) {
	return get[api.SessionDetail](ctx, c, nil, "sessions", number(id))
}

// KeepSession asks not to end a session for a time from now; 0 takes a former wish back.
func (c *Client) KeepSession(ctx context.Context, id int64, d dspool.Duration) (dspool.Session, error) {
	return post[dspool.Session](ctx, c, true, api.KeepRequest{For: d}, "sessions", number(id), "keep")
}

// CloseSession begins to end a session and everything of it on its machine.
func (c *Client) CloseSession(ctx context.Context, id int64) (dspool.Operation, error) {
	var op dspool.Operation
	return op, c.do(ctx, call{method: http.MethodDelete, path: []string{"sessions", number(id)}}, &op)
}

// Doors lists the places where people come in.
func (c *Client) Doors(ctx context.Context) (api.List[dspool.Door], error) {
	return get[api.List[dspool.Door]](ctx, c, nil, "doors")
}

// CordonMachine keeps new claims off a machine; what is there stays.
func (c *Client) CordonMachine(ctx context.Context, name string) (dspool.Machine, error) {
	return post[dspool.Machine](ctx, c, true, nil, "machines", name, "cordon")
}

// UncordonMachine lets claims on a machine again and takes a drain back.
func (c *Client) UncordonMachine(ctx context.Context, name string) (dspool.Machine, error) {
	return post[dspool.Machine](ctx, c, true, nil, "machines", name, "uncordon")
}

// DrainMachine begins to remove a machine: once nothing lives on it, or at the deadline (from now; 0 is never).
func (c *Client) DrainMachine(ctx context.Context, name string, deadline dspool.Duration) (dspool.Operation, error) {
	return post[dspool.Operation](ctx, c, false, api.DrainRequest{Deadline: deadline}, "machines", name, "drain")
}

// RecordingFilter selects recordings of terminals; what is zero selects everything.
type RecordingFilter struct {
	User   string
	Before string // the last one already seen
	Limit  int
}

// Recordings lists what terminals showed, newest first; for administrators.
func (c *Client) Recordings(ctx context.Context, f RecordingFilter) (api.List[api.Recording], error) {
	return get[api.List[api.Recording]](ctx, c, query("user", f.User, "before", f.Before, "limit", strconv.Itoa(f.Limit)), "recordings")
}

// Recording returns one recording's particulars.
func (c *Client) Recording(ctx context.Context, id string) (api.Recording, error) {
	return get[api.Recording](ctx, c, nil, "recordings", id)
}

// ReadRecording reads one as the asciicast, version 2, that it is; of one that is still being made, what is
// there by now. The caller closes it.
func (c *Client) ReadRecording(ctx context.Context, id string) (io.ReadCloser, error) {
	resp, err := c.open(ctx, call{method: http.MethodGet, path: []string{"recordings", id, "cast"}}, "application/x-asciicast")
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}
