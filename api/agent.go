package api

import "github.com/dspool/dspool"

// The agent link. The agent dials the server over mutual TLS and speaks JSON:
//
//	POST /agent/v1/enrol       EnrolRequest → EnrolResponse   (no client certificate yet)
//	POST /agent/v1/renew       RenewRequest → EnrolResponse
//	GET  /agent/v1/directives?after=REVISION&wait=25s         → Directives
//	POST /agent/v1/reports     Report → 204 once it is durable
//
// The machine is named by the client certificate's common name, never by the body.

// EnrolRequest asks for a certificate with a machine's single-use token.
type EnrolRequest struct {
	Machine string `json:"machine"`
	Token   string `json:"token"`
	CSR     string `json:"csr" doc:"PEM. The key never leaves the machine."`
	HostKey string `json:"host_key,omitempty" doc:"Public host key of the machine's sshd, in the form of authorized_keys."`
}

// RenewRequest asks for a new certificate before the old one expires.
type RenewRequest struct {
	CSR string `json:"csr"`
}

// EnrolResponse carries the machine's certificate.
type EnrolResponse struct {
	Certificate string `json:"certificate" doc:"PEM."`
	SSHTrust    string `json:"ssh_trust,omitempty" doc:"The authority whose user certificates sshd accepts, in the form of authorized_keys; no sshd without it."`
}

// Directives is what the server wants of a machine: rows of desired state with a
// revision. The agent keeps the highest revision it has seen and asks for what is
// newer; after=0 returns everything that is not settled.
type Directives struct {
	Revision int64              `json:"revision"`
	Attempts []AttemptDirective `json:"attempts,omitempty" doc:"In the order in which they should start."`
	Jobs     []TaskSpec         `json:"jobs,omitempty" doc:"Every job that Attempts names."`
	Sessions []SessionDirective `json:"sessions,omitempty"`
}

// SessionDirective is the wish for one session's part of a machine. It is idempotent by its identifier.
type SessionDirective struct {
	ID int64 `json:"id"`
	Account
	Links   []Link           `json:"links,omitempty" doc:"In the home, made as the user when missing."`
	Sudo    bool             `json:"sudo,omitempty"`
	Rights  string           `json:"rights,omitempty" doc:"Names what the user may do; reported once logins have it."`
	Request dspool.Resources `json:"request"`
	Motd    string           `json:"motd,omitempty" doc:"Greets the user's terminals."`
	Apps    []AppDirective   `json:"apps,omitempty" doc:"All that are to run in it; one that is not named is ended."`
	Close   bool             `json:"close,omitempty" doc:"End everything of the user's on this machine that is no attempt."`
	Reason  dspool.Reason    `json:"reason,omitzero" doc:"Why, as the user reads it."`
}

// AppDirective is the wish for one app of a session. It is idempotent by its identifier: another start
// is another identifier.
type AppDirective struct {
	ID      int64             `json:"id"`
	Name    string            `json:"name"`
	Command []string          `json:"command" doc:"The agent chooses a free port and writes it for every {port}."`
	Env     map[string]string `json:"env,omitempty" doc:"With {port} likewise."`
	Dir     string            `json:"dir,omitempty" doc:"Where it starts, below the home; the home unless given."`
	Restart bool              `json:"restart,omitempty" doc:"It is started again whenever it ends."`
	Stop    bool              `json:"stop,omitempty" doc:"End it, or never start it; either way it is reported ended. Only ID is needed."`
	// Kernels is the path of a Jupyter server's API (such as "/user/ada/api"), and Token what it lets
	// in: the agent asks it whether a kernel or a terminal is busy. A Jupyter server and its idle
	// kernels are otherwise not alive.
	Kernels string `json:"kernels,omitempty"`
	Token   string `json:"token,omitempty"`
}

// Account is who something is done as on a machine: in sessions, apps and tasks alike.
type Account struct {
	User   string    `json:"user"`
	UID    int       `json:"uid"`
	GID    int       `json:"gid"`
	Groups []GroupID `json:"groups,omitempty" doc:"All that the user is in, beside the own one."`
	Home   string    `json:"home" doc:"On the machine."`
}

// GroupID is a group by name and number.
type GroupID struct {
	Name string `json:"name"`
	GID  int    `json:"gid"`
}

// Link is a symbolic link: Path, relative to the home, points to Target, which is a directory that is
// made, as the user, when it is missing and MakeTarget says so.
type Link struct {
	Path       string `json:"path"`
	Target     string `json:"target"`
	MakeTarget bool   `json:"make_target,omitempty"`
}

// AttemptDirective is the wish for one attempt. It is idempotent by its identifier.
type AttemptDirective struct {
	ID     int64         `json:"id"`
	Job    int64         `json:"job"`
	Index  int64         `json:"index"`
	Cancel bool          `json:"cancel,omitempty" doc:"End it, or never start it."`
	Recall bool          `json:"recall,omitempty" doc:"With Cancel: only if it has not started; a started one runs on."`
	Reason dspool.Reason `json:"reason,omitzero" doc:"Why it is cancelled, as its user reads it."`
}

// TaskSpec is what all attempts of a job have in common.
type TaskSpec struct {
	Job int64 `json:"job"`
	Account
	Mount     string            `json:"mount" doc:"Where the machine has mounted the share that Dir lies in."`
	Dir       string            `json:"dir" doc:"The job's directory on the machine; a task's is DIR/INDEX."`
	Command   []string          `json:"command"`
	Env       map[string]string `json:"env,omitempty"`
	Request   dspool.Resources  `json:"request"`
	Count     int64             `json:"count" doc:"Tasks in the job."`
	TimeLimit dspool.Duration   `json:"time_limit,omitempty"`
}

// Report is what an agent says about its machine, batched.
type Report struct {
	// Now is what the machine's clock says, which may be anything: the times in the report count by how long
	// before it they were. Agents that do not say it have the server's clock.
	Now      *dspool.Time    `json:"now,omitempty"`
	Attempts []AttemptReport `json:"attempts,omitempty"`
	Sessions []SessionReport `json:"sessions,omitempty"`
	Health   dspool.Health   `json:"health"`
	Reason   dspool.Reason   `json:"reason,omitzero" doc:"Why it is unhealthy."`
}

// AttemptReport says how far an attempt came. Reporting twice changes nothing.
type AttemptReport struct {
	ID       int64            `json:"id"`
	State    dspool.TaskState `json:"state" enum:"running,succeeded,failed,cancelled"`
	ExitCode *int             `json:"exit_code,omitempty"`
	Reason   dspool.Reason    `json:"reason,omitzero" doc:"How it ended."`
	// HostFault says that it failed before anything of it ran, for no fault of its own: Reason names the share or
	// what the host lacks, and the task may be tried again.
	HostFault bool         `json:"host_fault,omitempty"`
	Started   *dspool.Time `json:"started,omitempty"`
	Ended     *dspool.Time `json:"ended,omitempty"`
}

// SessionReport is the agent's verdict on one session.
type SessionReport struct {
	ID    int64               `json:"id"`
	State dspool.SessionState `json:"state" enum:"open,closed"`
	// Failed says why the session cannot be opened; State is then closed.
	Failed dspool.Reason `json:"failed,omitzero"`
	Rights string        `json:"rights,omitempty" doc:"Those of the directive that was carried out last."`
	// Active and Activity are one verdict from all signals: terminals with recent input, processes that use
	// the CPU, detached tmux, background processes.
	Active   bool          `json:"active,omitempty"`
	Activity dspool.Reason `json:"activity,omitzero"`

	Apps []AppReport `json:"apps,omitempty" doc:"Every app that was directed and is not forgotten."`
}

// AppReport says how an app stands. Reporting twice changes nothing.
type AppReport struct {
	ID       int64           `json:"id"`
	State    dspool.AppState `json:"state" enum:"starting,running,ended"`
	Port     int             `json:"port,omitempty" doc:"While running: a listening socket there belongs to the user."`
	ExitCode *int            `json:"exit_code,omitempty"`
	Reason   dspool.Reason   `json:"reason,omitzero" doc:"How it ended, with its last words."`
}
