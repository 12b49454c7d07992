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
}

// RenewRequest asks for a new certificate before the old one expires.
type RenewRequest struct {
	CSR string `json:"csr"`
}

// EnrolResponse carries the machine's certificate.
type EnrolResponse struct {
	Certificate string `json:"certificate" doc:"PEM."`
}

// Directives is what the server wants of a machine: rows of desired state with a
// revision. The agent keeps the highest revision it has seen and asks for what is
// newer; after=0 returns everything that is not settled.
type Directives struct {
	Revision int64              `json:"revision"`
	Attempts []AttemptDirective `json:"attempts,omitempty" doc:"In the order in which they should start."`
	Jobs     []TaskSpec         `json:"jobs,omitempty" doc:"Every job that Attempts names."`
}

// AttemptDirective is the wish for one attempt. It is idempotent by its identifier.
type AttemptDirective struct {
	ID     int64  `json:"id"`
	Job    int64  `json:"job"`
	Index  int64  `json:"index"`
	Cancel bool   `json:"cancel,omitempty" doc:"End it, or never start it."`
	Recall bool   `json:"recall,omitempty" doc:"With Cancel: only if it has not started; a started one runs on."`
	Reason string `json:"reason,omitempty" doc:"Why it is cancelled."`
}

// TaskSpec is what all attempts of a job have in common.
type TaskSpec struct {
	Job       int64             `json:"job"`
	User      string            `json:"user"`
	UID       int               `json:"uid"`
	GID       int               `json:"gid"`
	Home      string            `json:"home" doc:"On the machine."`
	Dir       string            `json:"dir" doc:"The job's directory on the machine; a task's is DIR/INDEX."`
	Command   []string          `json:"command"`
	Env       map[string]string `json:"env,omitempty"`
	Request   dspool.Resources  `json:"request"`
	Count     int64             `json:"count" doc:"Tasks in the job."`
	TimeLimit dspool.Duration   `json:"time_limit,omitempty"`
}

// Report is what an agent says about its machine, batched.
type Report struct {
	Attempts []AttemptReport `json:"attempts,omitempty"`
	Health   dspool.Health   `json:"health"`
	Reason   string          `json:"reason,omitempty"`
}

// AttemptReport says how far an attempt came. Reporting twice changes nothing.
type AttemptReport struct {
	ID       int64            `json:"id"`
	State    dspool.TaskState `json:"state" enum:"running,succeeded,failed,cancelled"`
	ExitCode *int             `json:"exit_code,omitempty"`
	Reason   string           `json:"reason,omitempty" doc:"Such as \"out of memory (limit 1 GiB)\"."`
	Started  *dspool.Time     `json:"started,omitempty"`
	Ended    *dspool.Time     `json:"ended,omitempty"`
}
