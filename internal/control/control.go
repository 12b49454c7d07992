// Package control holds the use cases, a file per noun. Each validates, authorises and
// writes what is intended in one transaction; making the world match is reconcile's work.
package control

import (
	"context"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/auth"
	"github.com/dspool/dspool/internal/store"
)

// Options is what a Control is made of.
type Options struct {
	Store     *store.Store
	Authority *auth.Authority
	SSH       *auth.SSHAuthority
	HostNames []string // by which people reach the doors
	Images    Images
	StateDir  string // shares without a path lie in its folder shares
	Version   string
	Capacity  dspool.Resources // of the hosts, overcommit multiplied in
	// DoorListen is where the gateway serves machines, such as 10.80.0.1:8445; "" is nowhere.
	DoorListen string
	Log        *slog.Logger
	// Prepare makes these all that a machine on which people become root mounts of what is
	// private to users.
	Prepare func(ctx context.Context, machine string, folders []PrivateFolder) error
}

// Control is the one entrance to everything that people and programs may do.
type Control struct {
	Options
	hub     *hub
	started time.Time
	builds  sync.WaitGroup
	base    context.Context // ends when the server stops; builds run under it
	stop    context.CancelFunc

	releasing sync.Mutex // held by ReleaseImages

	mu       sync.Mutex
	problems func() []dspool.Reason // see WatchProblems

	gateway *gatewayState
	wrong   *wrongs
	devices *devices
	lanes   *lanes
	spaces  *spaces
	jupyter hubState
	faults  *faults

	preparing *lanes // of what machines mount
}

// New makes a Control. Close ends what it does in the background.
func New(o Options) *Control {
	c := &Control{Options: o, hub: newHub(), started: time.Now(), gateway: newGatewayState(), wrong: newWrongs(), devices: newDevices(), lanes: newLanes(), preparing: newLanes(), spaces: newSpaces(), faults: newFaults()}
	c.base, c.stop = context.WithCancel(context.Background())
	return c
}

// Stop lets go of everybody who waits for something to change and ends image builds, without
// waiting for them.
func (c *Control) Stop() { c.stop() }

// Close is Stop, and waits for the image builds. They begin anew at the next start.
func (c *Control) Close() {
	c.stop()
	c.builds.Wait()
}

// WatchProblems has Status ask fn for what an administrator should look at beyond what the store
// knows, such as a provider that does not answer.
func (c *Control) WatchProblems(fn func() []dspool.Reason) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.problems = fn
}

func (c *Control) otherProblems() []dspool.Reason {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := c.jupyter.problems()
	if c.problems == nil {
		return list
	}
	for _, r := range c.problems() {
		list = append(list, r.Clipped())
	}
	return list
}

// Stopping returns a channel that closes when the server stops.
func (c *Control) Stopping() <-chan struct{} { return c.base.Done() }

// ReconcileWanted returns a channel that closes when the plan should be computed anew.
func (c *Control) ReconcileWanted() <-chan struct{} { return c.hub.wait(topicPlan) }

// Changed returns a channel that closes when a topic's thing has changed.
func (c *Control) Changed(topic string) <-chan struct{} { return c.hub.wait(topic) }

const (
	topicPlan   = "plan"
	TopicEvents = "events"
	TopicAccess = "access" // tokens end, people are removed or lose rights
)

// TopicJob is the topic of a job and its tasks.
func TopicJob(id int64) string { return "job " + strconv.FormatInt(id, 10) }

// TopicMachine is the topic of a machine's directives.
func TopicMachine(name string) string { return "machine " + name }

// topicLeft is the topic of claims on a machine that have ended.
func topicLeft(machine string) string { return "left " + machine }

// TopicOperation is the topic of an operation.
func TopicOperation(id string) string { return "operation " + id }

// work collects what a transaction should wake once it is durable.
type work struct {
	*store.Tx
	wakes     map[string]bool
	authority *auth.Authority
}

func (w *work) wake(topics ...string) {
	for _, t := range topics {
		w.wakes[t] = true
	}
}

// event appends a fact.
func (w *work) event(e dspool.Event) error {
	w.wake(TopicEvents)
	return w.AddEvent(e)
}

// write runs fn in one durable transaction and then wakes whom fn named.
func (c *Control) write(ctx context.Context, fn func(*work) error) error {
	var w *work
	err := c.Store.Write(ctx, func(tx *store.Tx) error {
		w = &work{Tx: tx, wakes: map[string]bool{}, authority: c.Authority}
		return fn(w)
	})
	if err != nil {
		return err
	}
	for t := range w.wakes {
		c.hub.wake(t)
	}
	return nil
}

// hidden is the answer for a thing that is missing or that the subject may not see: the
// same words, so that ids tell outsiders nothing.
func hidden(kind, name string) error {
	return dspool.Errorf(dspool.NotFound, "there is no %s %s", kind, name)
}

// forbid is the answer to an action that only administrators may do.
func forbid(what string) error {
	return dspool.Errorf(dspool.Forbidden, "only administrators may %s", what).
		WithHint("ask an administrator, or run it as root on the server's host")
}
