package store

import (
	"time"

	"github.com/dspool/dspool"
)

// MachineRow is a machine with what the server alone knows of it.
type MachineRow struct {
	dspool.Machine
	Disk       int64
	ImageKey   string        // of the image's content that it was made from
	TokenHash  string        // of the single-use enrolment token
	AgentKey   string        // hash of the public key that used the token; "" until then
	Seen       time.Time     // last word of the agent; zero if none
	Remove     dspool.Reason // why somebody asked for its removal; none if nobody did
	Tries      int           // of the provider action under way
	RetryAt    time.Time     // not before then
	AgentReady bool          // the agent has joined, perhaps before Create returned
	HostKey    string        // public host key of its sshd, in the form of authorized_keys
	Sighted    time.Time     // when it was last seen to be there; see Tx.Sight
}

// JobRow is a job with what the server alone knows of it.
type JobRow struct {
	dspool.Job
	UID     int
	Dir     string        // its directory, relative to the share of jobs
	Share   string        // name of that share
	Key     string        // the submit's idempotency key, unique per user; "" if none
	TaskSum time.Duration // sum of run times of its ended tasks
	// TaskEnded is when the latest of its tasks to end did, whenever that became known; nil while none has.
	TaskEnded *time.Time
	Blocked   dspool.Reason // why none of it may start; none if it may
	Killed    int64         // its tasks of which the kernel killed some for memory
}

// Desired is what the server wants of a placed attempt.
type Desired string

const (
	Run    Desired = "run"
	Cancel Desired = "cancel"
	Recall Desired = "recall" // back into the queue if it has not started
)

// AttemptRow is one try of a task. A task's state is that of its latest attempt. An attempt holds
// 1..N machines by its claims; Machine is the first's.
type AttemptRow struct {
	ID       int64
	Job      int64
	Index    int64
	Number   int // 1 for the first try
	User     string
	State    dspool.TaskState
	ExitCode *int
	Reason   dspool.Reason
	Assigned time.Time
	Started  *time.Time
	Ended    *time.Time
	Claims   []ClaimRow // in order of rank
}

// ClaimRow is a hold of a machine's resources. From Started to Ended it is also the row that
// money is computed from.
type ClaimRow struct {
	Attempt  int64
	Rank     int
	Machine  string
	Request  dspool.Resources
	Desired  Desired
	Why      dspool.Reason // for Desired
	Revision int64         // of Desired; grows over all claims of the installation
	Started  *time.Time
	Ended    *time.Time
}

// ClaimInterval is a claim as usage sees it.
type ClaimInterval struct {
	Machine string
	User    string
	UID     int
	Job     int64
	Carried bool // it began before From, which is cut
	Again   bool // another part of it is in the list already
	Request dspool.Resources
	From    time.Time
	To      time.Time // now, while it lasts
}

// MachineInterval is a machine as usage sees it.
type MachineInterval struct {
	Machine   string
	Pool      string
	Size      string
	Resources dspool.Resources
	Price     float64 // per hour
	From      time.Time
	To        time.Time // now, while it lasts
}

// SessionRow is a session with what the server alone knows of it. From Placed to Ended it is also the
// row that money is computed from: a session has one machine for its life.
type SessionRow struct {
	dspool.Session
	UID      int
	Share    float64       // part of its machine that it holds
	Revision int64         // of what is wanted of it on its machine
	Close    dspool.Reason // why its end is wanted; none if it is not
	Rights   string        // that its machine says it has, in the words of the directive; "" before it has said so
}

// SessionInterval is a session as usage sees it.
type SessionInterval struct {
	Machine string
	User    string
	UID     int
	Session int64
	Request dspool.Resources
	From    time.Time
	To      time.Time // now, while it lasts
}

// AppRow is an app with what the server alone knows of it.
type AppRow struct {
	dspool.App
	UID     int
	Restart bool      // it is started again whenever it ends
	Since   time.Time // when it came into its state
	Spec    AppSpec   // only for InsertApp; see Tx.AppSpec
}

// AppSpec is what an app runs, with its secrets.
type AppSpec struct {
	Command []string          `json:"command"`
	Env     map[string]string `json:"env,omitempty"`
	Dir     string            `json:"dir,omitempty"`
	Kernels string            `json:"kernels,omitempty"`
	Token   string            `json:"token,omitempty"`
}

// TokenKind is what a token is for.
type TokenKind string

const (
	TokenAPI     TokenKind = ""
	TokenSpawner TokenKind = "spawner" // apps of any user
	TokenWeb     TokenKind = "web"     // a browser's login at the portal; never good for the API itself
)

// TokenRow is a token with what the server alone knows of it.
type TokenRow struct {
	dspool.Token
	Kind   TokenKind
	Parent string // the token by which it was made, and with which it ends; "" if by none
}
