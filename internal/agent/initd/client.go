package initd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// Client speaks to init. It connects when it is used and again after a failure; all methods
// are safe for concurrent use and may be repeated.
type Client struct {
	dial func(ctx context.Context) (net.Conn, error)
	mu   sync.Mutex
	link *link
	next int64
}

// NewClient returns a client of the init that listens on the socket at path.
func NewClient(path string) *Client {
	var d net.Dialer
	return NewClientFunc(func(ctx context.Context) (net.Conn, error) { return d.DialContext(ctx, "unix", path) })
}

// NewClientFunc returns a client that connects by dial.
func NewClientFunc(dial func(ctx context.Context) (net.Conn, error)) *Client {
	return &Client{dial: dial}
}

// link is one connection; it fails as a whole.
type link struct {
	conn    net.Conn
	send    sync.Mutex // writes of whole requests
	mu      sync.Mutex
	waiting map[int64]chan reply
	err     error
}

// Refused says why init, which understood a request, did not do it.
type Refused struct{ Why string }

func (e *Refused) Error() string { return "init refused: " + e.Why }

func (c *Client) connect(ctx context.Context) (*link, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.link != nil && c.link.failed() == nil {
		return c.link, nil
	}
	conn, err := c.dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("reach init: %w", err)
	}
	c.link = &link{conn: conn, waiting: map[int64]chan reply{}}
	go c.link.read()
	return c.link, nil
}

func (l *link) failed() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

func (l *link) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return
	}
	l.err = fmt.Errorf("talk to init: %w", err)
	l.conn.Close()
	for _, ch := range l.waiting {
		close(ch)
	}
	l.waiting = nil
}

func (l *link) read() {
	dec := json.NewDecoder(l.conn)
	for {
		var r reply
		if err := dec.Decode(&r); err != nil {
			l.fail(err)
			return
		}
		l.mu.Lock()
		if ch := l.waiting[r.ID]; ch != nil {
			delete(l.waiting, r.ID)
			ch <- r
		}
		l.mu.Unlock()
	}
}

func (c *Client) call(ctx context.Context, r request) (reply, error) {
	l, err := c.connect(ctx)
	if err != nil {
		return reply{}, err
	}
	c.mu.Lock()
	c.next++
	r.ID = c.next
	c.mu.Unlock()
	line, err := json.Marshal(r)
	if err != nil {
		return reply{}, err
	}
	ch := make(chan reply, 1)
	l.mu.Lock()
	if err := l.err; err != nil {
		l.mu.Unlock()
		return reply{}, err
	}
	l.waiting[r.ID] = ch
	l.mu.Unlock()
	l.send.Lock()
	_, err = l.conn.Write(append(line, '\n'))
	l.send.Unlock()
	if err != nil {
		l.fail(err)
	}
	select {
	case answer, ok := <-ch:
		if !ok {
			return reply{}, l.failed()
		}
		if answer.Error != "" {
			return reply{}, &Refused{answer.Error}
		}
		return answer, nil
	case <-ctx.Done():
		l.mu.Lock()
		delete(l.waiting, r.ID)
		l.mu.Unlock()
		return reply{}, context.Cause(ctx)
	}
}

// Spawn starts an attempt and returns its status once it runs or could not start. For an
// attempt that init knows it starts nothing and returns its status.
func (c *Client) Spawn(ctx context.Context, s Spec) (Status, error) {
	r, err := c.call(ctx, request{Op: "spawn", Spec: &s})
	if err != nil {
		return Status{}, err
	}
	if r.Status == nil {
		return Status{}, errors.New("init gave no status")
	}
	return *r.Status, nil
}

// Kill begins the end of an attempt; its end is told by Exits.
func (c *Client) Kill(ctx context.Context, k Kill) error {
	_, err := c.call(ctx, request{Op: "kill", Kill: &k})
	return err
}

// List returns every attempt that is not forgotten, by identifier.
func (c *Client) List(ctx context.Context) ([]Status, error) {
	r, err := c.call(ctx, request{Op: "list"})
	return r.List, err
}

// Forget drops attempts that have ended.
func (c *Client) Forget(ctx context.Context, ids []int64) error {
	_, err := c.call(ctx, request{Op: "forget", Forget: ids})
	return err
}

// Open makes a user's session on the machine, or brings it up to date. The answer says how
// logins join it.
func (c *Client) Open(ctx context.Context, s Session) (SessionStatus, error) {
	r, err := c.call(ctx, request{Op: "open", Open: &s})
	if err != nil {
		return SessionStatus{}, err
	}
	if r.Session == nil {
		return SessionStatus{}, errors.New("init gave no status")
	}
	return *r.Session, nil
}

// Close ends everything in a session and returns when nothing of it lives, or what does is
// stuck in the kernel. One that is not there is closed.
func (c *Client) Close(ctx context.Context, e Closing) error {
	_, err := c.call(ctx, request{Op: "close", Close: &e})
	return err
}

// Sessions returns the sessions that are not closed, by identifier.
func (c *Client) Sessions(ctx context.Context) ([]SessionStatus, error) {
	r, err := c.call(ctx, request{Op: "sessions"})
	return r.Sessions, err
}

// WantApps makes the apps of an open session those of a.
func (c *Client) WantApps(ctx context.Context, a Apps) error {
	_, err := c.call(ctx, request{Op: "apps", Apps: &a})
	return err
}

// Apps returns the apps that are not forgotten, by identifier, and the version of that list. It waits
// until another version than seen is there, but not longer than wait, and a minute at most.
func (c *Client) Apps(ctx context.Context, seen int64, wait time.Duration) ([]AppStatus, int64, error) {
	r, err := c.call(ctx, request{Op: "app-list", Seen: seen, Wait: wait})
	return r.Apps, r.Version, err
}

// EndApp begins the end of one run of an app.
func (c *Client) EndApp(ctx context.Context, e AppEnd) error {
	_, err := c.call(ctx, request{Op: "app-end", AppEnd: &e})
	return err
}

// ForgetApps drops apps that have ended.
func (c *Client) ForgetApps(ctx context.Context, ids []int64) error {
	_, err := c.call(ctx, request{Op: "app-forget", Forget: ids})
	return err
}

// Serve has init keep a service running, or not.
func (c *Client) Serve(ctx context.Context, s Service) error {
	_, err := c.call(ctx, request{Op: "service", Service: &s})
	return err
}

// Services returns the services that init keeps, by name.
func (c *Client) Services(ctx context.Context) ([]ServiceStatus, error) {
	r, err := c.call(ctx, request{Op: "services"})
	return r.Services, err
}

// Exits calls each with every attempt that has ended and is not forgotten, then with each that
// ends or has something killed for memory, until ctx is done or the connection fails, which it returns.
func (c *Client) Exits(ctx context.Context, each func(Status)) error {
	conn, err := c.dial(ctx)
	if err != nil {
		return fmt.Errorf("reach init: %w", err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if _, err := conn.Write([]byte(`{"op":"exits"}` + "\n")); err != nil {
		return fmt.Errorf("talk to init: %w", err)
	}
	dec := json.NewDecoder(conn)
	for {
		var r reply
		if err := dec.Decode(&r); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return fmt.Errorf("talk to init: %w", err)
		}
		if r.Status != nil {
			each(*r.Status)
		}
	}
}
