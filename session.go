package dspool

import "slices"

// SessionState is where a session stands.
type SessionState string

const (
	SessionWaiting SessionState = "waiting" // it has no machine yet; Reason says why
	SessionPlaced  SessionState = "placed"  // it holds a machine, which is being made ready for it
	SessionOpen    SessionState = "open"    // its user can work there
	SessionClosing SessionState = "closing" // what is left of it on the machine is being ended
	SessionClosed  SessionState = "closed"
)

var sessionMoves = map[SessionState][]SessionState{
	SessionWaiting: {SessionPlaced, SessionClosed},
	SessionPlaced:  {SessionOpen, SessionClosing, SessionClosed},
	SessionOpen:    {SessionClosing, SessionClosed},
	SessionClosing: {SessionClosed},
}

// CanBecome says whether a session in state s may move to state to.
func (s SessionState) CanBecome(to SessionState) bool { return slices.Contains(sessionMoves[s], to) }

// Session is a user's hold on a machine of a pool. A user has at most one in a pool; logins,
// notebooks and terminals are its connections.
type Session struct {
	ID          int64        `json:"id"`
	User        string       `json:"user"`
	Pool        string       `json:"pool"`
	Size        string       `json:"size,omitempty" doc:"The size of machine that was asked for; empty takes any of the pool's."`
	Machine     string       `json:"machine,omitempty"`
	State       SessionState `json:"state" enum:"waiting,placed,open,closing,closed"`
	Reason      Reason       `json:"reason,omitzero" doc:"Why it waits, or why it ended."`
	Position    int          `json:"position,omitempty" doc:"Place in the queue while it waits, from 1."`
	Request     Resources    `json:"request" doc:"What it holds of its machine."`
	Connections int          `json:"connections"`
	Active      bool         `json:"active" doc:"Whether anything of it lives, by the agent's verdict."`
	Activity    Reason       `json:"activity,omitzero" doc:"The reason of that verdict."`
	LastActive  Time         `json:"last_active"`
	KeepUntil   *Time        `json:"keep_until,omitempty" doc:"Somebody asked not to end it before then."`
	Created     Time         `json:"created"`
	Placed      *Time        `json:"placed,omitempty" doc:"From then to Ended it is paid for."`
	Opened      *Time        `json:"opened,omitempty"`
	Ended       *Time        `json:"ended,omitempty"`
}

// Protocol is how a connection came in.
type Protocol string

const (
	ProtocolSSH Protocol = "ssh"
	ProtocolWeb Protocol = "web"
	ProtocolTCP Protocol = "tcp"
)

// Connection is one login of a session, through a door.
type Connection struct {
	ID       string   `json:"id"`
	Session  int64    `json:"session"`
	User     string   `json:"user"`
	Protocol Protocol `json:"protocol" enum:"ssh,web,tcp"`
	From     string   `json:"from" doc:"Address and port of the other end."`
	Auth     string   `json:"auth" doc:"How the user proved who they are, such as \"key SHA256:…\" or \"password\"."`
	Login    string   `json:"login,omitempty" doc:"The login at the portal by which it came; it ends with that."`
	BytesIn  int64    `json:"bytes_in" doc:"From the user."`
	BytesOut int64    `json:"bytes_out"`
	Started  Time     `json:"started"`
	Ended    *Time    `json:"ended,omitempty"`
}

// Door is a place where people come in.
type Door struct {
	Listen   string   `json:"listen" doc:"Address and port, such as :2222."`
	Protocol Protocol `json:"protocol" enum:"ssh,web,tcp"`
	Pool     string   `json:"pool" doc:"Where people land who name no other."`
}

// UserKey is a public key with which a user logs in.
type UserKey struct {
	Fingerprint string `json:"fingerprint" doc:"SHA256:…, as ssh-keygen -l prints it."`
	User        string `json:"user"`
	Key         string `json:"key" doc:"In the form of authorized_keys, without options."`
	Comment     string `json:"comment,omitempty"`
	Added       Time   `json:"added"`
}
