package client

import (
	"context"
	"crypto/rand"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
)

func get[T any](ctx context.Context, c *Client, query url.Values, path ...string) (T, error) {
	var out T
	return out, c.do(ctx, call{method: http.MethodGet, path: path, query: query, repeat: true}, &out)
}

func post[T any](ctx context.Context, c *Client, repeat bool, in any, path ...string) (T, error) {
	var out T
	return out, c.do(ctx, call{method: http.MethodPost, path: path, in: in, repeat: repeat}, &out)
}

func (c *Client) remove(ctx context.Context, path ...string) error {
	return c.do(ctx, call{method: http.MethodDelete, path: path}, nil)
}

func number(n int64) string { return strconv.FormatInt(n, 10) }

// query leaves out what is empty or "0".
func query(pairs ...string) url.Values {
	q := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		if v := pairs[i+1]; v != "" && v != "0" && v != "false" {
			q.Set(pairs[i], v)
		}
	}
	return q
}

// Status returns the server's own state.
func (c *Client) Status(ctx context.Context) (api.Status, error) {
	return get[api.Status](ctx, c, nil, "status")
}

// Whoami returns as whom the server sees this client.
func (c *Client) Whoami(ctx context.Context) (api.Whoami, error) {
	return get[api.Whoami](ctx, c, nil, "whoami")
}

// CA returns the PEM of the server's own authority.
func (c *Client) CA(ctx context.Context) ([]byte, error) {
	var pem []byte
	return pem, c.do(ctx, call{method: http.MethodGet, path: []string{"ca"}, repeat: true}, &pem)
}

// Apply applies a configuration, or says what it would change.
func (c *Client) Apply(ctx context.Context, req api.ApplyRequest) (api.ApplyResult, error) {
	return post[api.ApplyResult](ctx, c, req.DryRun, req, "apply")
}

// Images lists images.
func (c *Client) Images(ctx context.Context) (api.List[dspool.Image], error) {
	return get[api.List[dspool.Image]](ctx, c, nil, "images")
}

// BuildImage begins to build an image.
func (c *Client) BuildImage(ctx context.Context, name string) (dspool.Operation, error) {
	return post[dspool.Operation](ctx, c, false, nil, "images", name, "build")
}

// RemoveImage removes an image's files.
func (c *Client) RemoveImage(ctx context.Context, name string) error {
	return c.remove(ctx, "images", name)
}

// Sizes lists sizes.
func (c *Client) Sizes(ctx context.Context) (api.List[dspool.Size], error) {
	return get[api.List[dspool.Size]](ctx, c, nil, "sizes")
}

// Pools lists pools.
func (c *Client) Pools(ctx context.Context) (api.List[api.PoolStatus], error) {
	return get[api.List[api.PoolStatus]](ctx, c, nil, "pools")
}

// Pool returns one pool.
func (c *Client) Pool(ctx context.Context, name string) (api.PoolStatus, error) {
	return get[api.PoolStatus](ctx, c, nil, "pools", name)
}

// ResizePool changes a pool's numbers.
func (c *Client) ResizePool(ctx context.Context, name string, req api.ResizeRequest) (api.PoolStatus, error) {
	return post[api.PoolStatus](ctx, c, true, req, "pools", name, "resize")
}

// Machines lists the machines of a pool, or of all when it is ""; all also gives those that are gone.
func (c *Client) Machines(ctx context.Context, pool string, all bool) (api.List[dspool.Machine], error) {
	return get[api.List[dspool.Machine]](ctx, c, query("pool", pool, "all", strconv.FormatBool(all)), "machines")
}

// Machine returns one machine with its tasks and latest events.
func (c *Client) Machine(ctx context.Context, name string) (api.MachineDetail, error) {
	return get[api.MachineDetail](ctx, c, nil, "machines", name)
}

// RemoveMachine begins to remove a machine: at once with force, else when its tasks have ended.
func (c *Client) RemoveMachine(ctx context.Context, name string, force bool) (dspool.Operation, error) {
	var op dspool.Operation
	return op, c.do(ctx, call{method: http.MethodDelete, path: []string{"machines", name}, query: query("force", strconv.FormatBool(force))}, &op)
}

// Shares lists shares.
func (c *Client) Shares(ctx context.Context) (api.List[api.ShareStatus], error) {
	return get[api.List[api.ShareStatus]](ctx, c, nil, "shares")
}

// Users lists users.
func (c *Client) Users(ctx context.Context) (api.List[dspool.User], error) {
	return get[api.List[dspool.User]](ctx, c, nil, "users")
}

// AddUser makes an account.
func (c *Client) AddUser(ctx context.Context, req api.AddUserRequest) (dspool.User, error) {
	return post[dspool.User](ctx, c, false, req, "users")
}

// RemoveUser removes an account; its number is never given to another.
func (c *Client) RemoveUser(ctx context.Context, name string) error {
	return c.remove(ctx, "users", name)
}

// Tokens lists a user's tokens; "" is the caller's own, or all for an administrator.
func (c *Client) Tokens(ctx context.Context, user string) (api.List[dspool.Token], error) {
	return get[api.List[dspool.Token]](ctx, c, query("user", user), "tokens")
}

// AddToken makes a token. Its secret is in the answer and nowhere else.
func (c *Client) AddToken(ctx context.Context, req api.AddTokenRequest) (api.NewToken, error) {
	return post[api.NewToken](ctx, c, false, req, "tokens")
}

// RevokeToken ends a token.
func (c *Client) RevokeToken(ctx context.Context, id string) error {
	return c.remove(ctx, "tokens", id)
}

// Submit submits a job. Unless req has a Key it gets one, so that a broken connection never
// submits twice.
func (c *Client) Submit(ctx context.Context, req api.SubmitRequest) (dspool.Job, error) {
	if req.Key == "" {
		req.Key = rand.Text()
	}
	return post[dspool.Job](ctx, c, true, req, "jobs")
}

// JobFilter selects jobs; what is zero selects everything.
type JobFilter struct {
	User, Pool string
	State      dspool.JobState
	Before     int64 // only jobs with a lower id
	Limit      int
}

// Jobs lists jobs, newest first.
func (c *Client) Jobs(ctx context.Context, f JobFilter) (api.List[dspool.Job], error) {
	return get[api.List[dspool.Job]](ctx, c, query("user", f.User, "pool", f.Pool, "state", string(f.State),
		"before", number(f.Before), "limit", strconv.Itoa(f.Limit)), "jobs")
}

// Job returns one job.
func (c *Client) Job(ctx context.Context, id int64) (dspool.Job, error) {
	return get[dspool.Job](ctx, c, nil, "jobs", number(id))
}

// CancelJob cancels a job; one that has ended stays as it is.
func (c *Client) CancelJob(ctx context.Context, id int64) (dspool.Job, error) {
	return post[dspool.Job](ctx, c, true, nil, "jobs", number(id), "cancel")
}

// TaskFilter selects a job's tasks; what is zero selects everything.
type TaskFilter struct {
	State dspool.TaskState
	After *int64 // only tasks with a higher index
	Limit int
}

// Tasks lists a job's tasks by index.
func (c *Client) Tasks(ctx context.Context, job int64, f TaskFilter) (api.List[dspool.Task], error) {
	q := query("state", string(f.State), "limit", strconv.Itoa(f.Limit))
	if f.After != nil {
		q.Set("after", number(*f.After))
	}
	return get[api.List[dspool.Task]](ctx, c, q, "jobs", number(job), "tasks")
}

// Task returns one task.
func (c *Client) Task(ctx context.Context, job, index int64) (dspool.Task, error) {
	return get[dspool.Task](ctx, c, nil, "jobs", number(job), "tasks", number(index))
}

// EventFilter selects events; what is zero selects everything.
type EventFilter struct {
	After         int64 // only events with a higher id
	Latest        bool  // the newest Limit ones instead of the oldest
	Limit         int
	Pool, Machine string
	Job           int64
}

func (f EventFilter) query() url.Values {
	return query("after", number(f.After), "latest", strconv.FormatBool(f.Latest), "limit", strconv.Itoa(f.Limit),
		"pool", f.Pool, "machine", f.Machine, "job", number(f.Job))
}

// Events lists events, oldest first.
func (c *Client) Events(ctx context.Context, f EventFilter) (api.List[dspool.Event], error) {
	return get[api.List[dspool.Event]](ctx, c, f.query(), "events")
}

// Usage returns the bill of a time by "user", "pool" or "job". Zero times leave the choice to the server.
func (c *Client) Usage(ctx context.Context, by string, from, to time.Time) (api.Usage, error) {
	return get[api.Usage](ctx, c, query("by", by, "from", stamp(from), "to", stamp(to)), "usage")
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

// Operation returns an operation. With wait the server answers when it has ended or that time has passed.
func (c *Client) Operation(ctx context.Context, id string, wait time.Duration) (dspool.Operation, error) {
	var op dspool.Operation
	k := call{method: http.MethodGet, path: []string{"operations", id}, repeat: true, wait: wait}
	if wait > 0 {
		k.query = query("wait", dspool.Duration(wait).String())
	}
	return op, c.do(ctx, k, &op)
}
