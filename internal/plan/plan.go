// Package plan decides what should happen. It is pure: a snapshot and a time go in,
// a plan comes out; it imports nothing but the nouns and does no I/O.
package plan

import (
	"time"

	"github.com/dspool/dspool"
)

// Snapshot is everything that decisions depend on.
type Snapshot struct {
	Pools       []Pool
	Machines    []Machine // every machine that has not ended
	Jobs        []Job     // every job with pending or placed tasks
	Sessions    []Session // every session that has not closed, by identifier
	Capacity    dspool.Resources
	MaxMachines int // of the provider; 0 is no limit
}

// Pool is a pool with its sizes resolved, in the pool's order.
type Pool struct {
	dspool.Pool
	Sizes        []dspool.Size
	Blocked      dspool.Reason // why no machine can be created at all, such as an image that is not built
	BackoffUntil time.Time     // after failed creations; zero if none
	LastFailure  dspool.Reason // of the latest creation
	// Held is why tasks cannot start, whatever the machine; none if they can. Nothing is tried before HeldUntil, then
	// one task at a time: attempts above HeldAfter.
	Held      dspool.Reason
	HeldUntil time.Time
	HeldAfter int64
}

// Machine is a machine with the attempts placed on it.
type Machine struct {
	Name, Pool, Size string
	Resources        dspool.Resources
	State            dspool.MachineState
	Cordoned         bool
	DrainBy          *time.Time
	Health           dspool.Health
	HealthReason     dspool.Reason
	IdleSince        time.Time     // since when it has had no claim; its creation if it never had one
	FaultUntil       time.Time     // no task starts on it before then; zero if they do
	Used             bool          // it has had a claim that ended
	Remove           dspool.Reason // why somebody asked for its removal; none if nobody did
	Attempts         []Attempt     // in order of identifier
}

// Session is a session that has not closed. From placed to closing it holds Request of its Machine, as
// an attempt's claim does; it never ends by itself while it has a connection or anything in it lives.
type Session struct {
	ID          int64 // who came first has a lower one, and comes first
	User        string
	Pool        string
	Size        string // that its machine must have; "" is any
	Machine     string // "" while it waits
	State       dspool.SessionState
	Request     dspool.Resources // its part of a machine; while it waits, all of one that it asks for
	Connections int
	// Awaited says that an app of it has not begun yet: somebody waits for it, as somebody connected does.
	Awaited bool
	// Kept says that it is there for an app that runs for ever: it ends only to leave a machine that goes.
	Kept       bool
	Active     bool
	LastActive time.Time
	KeepUntil  time.Time // zero if nobody asked to keep it
	Since      time.Time // its creation
}

// Attempt is an attempt placed on a machine and not ended. Those of a machine that fit it
// together, running ones first, hold claims; the others are placed ahead: the agent starts
// them, in order, the moment there is room, without asking the server.
type Attempt struct {
	ID      int64
	Job     int64
	Request dspool.Resources
	Running bool
	Recall  bool // already asked back
	Since   time.Time
}

// Job is a job with what of it waits.
type Job struct {
	ID         int64
	User       string
	Pool       string
	Size       string // "" means the pool's first that Request fits
	Request    dspool.Resources
	Pending    int64
	Placed     int64
	MaxRunning int           // 0 is no limit
	Blocked    dspool.Reason // why none of it may start, such as a job it waits for
	Created    time.Time
	TaskTime   time.Duration // mean run time of its ended tasks; 0 if none has ended
	Served     int64         // a number that grows whenever a task of it is placed; 0 if none was lately
}

// Plan is what should happen, every action with the reason that people see.
type Plan struct {
	Place   []Place
	Recall  []Recall
	Create  []Create
	Destroy []Destroy
	Seat    []Seat         // waiting sessions that get a machine
	Close   []CloseSession // sessions in which nothing lives any more
	Queue   []Queued       // for every session that still waits, in order
	Waiting []Waiting      // for every job with pending tasks left after Place
	Notes   []Note         // for every pool that should grow and does not
	// WakeAt is when time alone will change the plan (a machine's idle time ends, a
	// back-off passes); zero if never.
	WakeAt time.Time
}

// Place puts the job's Count lowest pending tasks on a machine.
type Place struct {
	Job     int64
	Machine string
	Count   int
	Try     bool // of a pool that is held: any of the job's tasks, not the lowest
	Reason  dspool.Reason
}

// Recall asks an attempt placed ahead and not started back into the queue.
type Recall struct {
	Attempt int64
	Reason  dspool.Reason
}

// Create makes a machine.
type Create struct {
	Pool   string
	Size   dspool.Size
	Reason dspool.Reason
}

// Destroy removes a machine; Job and session claims on it have ended, or its deadline has passed.
type Destroy struct {
	Machine string
	Reason  dspool.Reason
}

// Seat gives a waiting session a machine that is ready.
type Seat struct {
	Session int64
	Machine string
	Request dspool.Resources // what it holds of that machine
	Reason  dspool.Reason
}

// CloseSession ends a session.
type CloseSession struct {
	Session int64
	Reason  dspool.Reason
}

// Queued is why a session waits, and its place among those that wait in its pool, from 1.
type Queued struct {
	Session  int64
	Position int
	Reason   dspool.Reason
}

// Waiting is why a job's pending tasks wait.
type Waiting struct {
	Job    int64
	Reason dspool.Reason
}

// Note is what a pool's owner should know.
type Note struct {
	Pool   string
	Reason dspool.Reason
}
