package dspool

import "slices"

// AppState is where an app stands.
type AppState string

const (
	AppWaiting  AppState = "waiting"  // its session is not open yet
	AppStarting AppState = "starting" // its machine was told to start it
	AppRunning  AppState = "running"  // the agent has seen that its port is the user's
	AppStopping AppState = "stopping" // its machine was told to end it
	AppEnded    AppState = "ended"    // Reason and ExitCode say how
)

var appMoves = map[AppState][]AppState{
	AppWaiting:  {AppStarting, AppEnded},
	AppStarting: {AppRunning, AppStopping, AppEnded},
	AppRunning:  {AppStarting, AppStopping, AppEnded}, // starting: one that is kept running begins anew
	AppStopping: {AppEnded},
}

// CanBecome says whether an app in state s may move to state to.
func (s AppState) CanBecome(to AppState) bool { return slices.Contains(appMoves[s], to) }

// App is a program with a web page of its own that runs in a user's session, such as a notebook
// server. A session has at most one of a name that has not ended.
type App struct {
	ID       int64    `json:"id"`
	Name     string   `json:"name" doc:"Such as jupyter."`
	User     string   `json:"user"`
	Pool     string   `json:"pool"`
	Session  int64    `json:"session"`
	Machine  string   `json:"machine,omitempty"`
	State    AppState `json:"state" enum:"waiting,starting,running,stopping,ended"`
	Reason   Reason   `json:"reason,omitzero" doc:"Why it waits, or why it ended."`
	ExitCode *int     `json:"exit_code,omitempty"`
	// Port is where it listens on its machine: a socket there belongs to its user, by the agent's word.
	Port    int    `json:"port,omitempty"`
	URL     string `json:"url,omitempty" doc:"Where the web door and JupyterHub reach it."`
	Created Time   `json:"created"`
	Started *Time  `json:"started,omitempty" doc:"When it first listened."`
	Ended   *Time  `json:"ended,omitempty"`
}
