package client

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"net/http"
	"strconv"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
)

// AppFilter selects apps; what is zero selects everything that has not ended.
type AppFilter struct {
	User   string
	All    bool  // also those that have ended
	Before int64 // only apps with a lower id
	Limit  int
}

// Apps lists apps, newest first.
func (c *Client) Apps(ctx context.Context, f AppFilter) (api.List[dspool.App], error) {
	return get[api.List[dspool.App]](ctx, c, query("user", f.User, "all", strconv.FormatBool(f.All), "before", number(f.Before), "limit", strconv.Itoa(f.Limit)), "apps")
}

// App returns one app.
func (c *Client) App(ctx context.Context, id int64) (dspool.App, error) {
	return get[dspool.App](ctx, c, nil, "apps", number(id))
}

// wantAppWait is how long the server may wait for the end of the session before.
const wantAppWait = 30 * time.Second

// WantApp has an app run in a user's session. It returns at once; AppSteps tells how it comes along.
func (c *Client) WantApp(ctx context.Context, req api.AppRequest) (dspool.App, error) {
	var out dspool.App
	return out, c.do(ctx, call{method: http.MethodPost, path: []string{"apps"}, in: req, wait: wantAppWait}, &out)
}

// StopApp begins an app's end; one that has ended stays as it is.
func (c *Client) StopApp(ctx context.Context, id int64) (dspool.App, error) {
	var out dspool.App
	return out, c.do(ctx, call{method: http.MethodDelete, path: []string{"apps", number(id)}, repeat: true}, &out)
}

// AppSteps yields how an app comes along, over broken connections too, until it runs (the last step is
// Ready) or has ended (Failed). It ends with an error, that of ctx included, or when the caller stops.
func (c *Client) AppSteps(ctx context.Context, id int64) iter.Seq2[api.SessionStep, error] {
	return func(yield func(api.SessionStep, error) bool) {
		back := returning{c: c}
		for {
			done, err := c.stepsOnce(ctx, id, &back, func(st api.SessionStep) bool { return yield(st, nil) })
			if done {
				return
			}
			if err = back.again(ctx, err); err != nil {
				yield(api.SessionStep{}, err)
				return
			}
		}
	}
}

func (c *Client) stepsOnce(ctx context.Context, id int64, back *returning, yield func(api.SessionStep) bool) (done bool, err error) {
	resp, err := c.open(ctx, call{method: http.MethodGet, path: []string{"apps", number(id), "steps"}}, "application/x-ndjson")
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	in := json.NewDecoder(resp.Body)
	for {
		var st api.SessionStep
		var wrong *json.SyntaxError
		err := in.Decode(&st)
		switch {
		case errors.As(err, &wrong):
			return false, dspool.Errorf(dspool.Internal, "the server sends a step that cannot be read: %w", err)
		case errors.Is(err, io.EOF):
			return false, c.unreachable(ctx, errStreamEnded)
		case err != nil:
			return false, c.unreachable(ctx, err)
		}
		back.ok()
		if !yield(st) || st.Ready != nil || st.Failed != nil {
			return true, nil
		}
	}
}
