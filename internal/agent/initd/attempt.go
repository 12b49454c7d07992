package initd

import (
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
)

// Spec is all that init needs to run an attempt.
type Spec struct {
	ID    int64 `json:"id"`
	Job   int64 `json:"job"`
	Index int64 `json:"index"`
	Count int64 `json:"count"` // tasks in the job
	api.Account
	Mount     string            `json:"mount,omitempty"` // of the share that Dir lies in
	Dir       string            `json:"dir"`             // the task's own; made as the user when missing
	Command   []string          `json:"command"`
	Env       map[string]string `json:"env,omitempty"`
	Request   dspool.Resources  `json:"request"`
	Quota     bool              `json:"quota,omitempty"`      // hold it to its cpus even when others are idle
	TimeLimit dspool.Duration   `json:"time_limit,omitempty"` // kept for a later agent; init does not enforce it
}

// State is where an attempt stands in init's table.
type State string

const (
	Starting State = "starting"
	Running  State = "running"
	Ended    State = "ended" // nothing of it lives any more
)

// Cause is why an attempt was ended from outside.
type Cause string

const (
	Cancelled Cause = "cancelled"
	OverTime  Cause = "over time"
	Shutdown  Cause = "shutdown" // init itself was told to end
)

// Status is what init knows about an attempt.
type Status struct {
	ID        int64            `json:"id"`
	State     State            `json:"state"`
	Request   dspool.Resources `json:"request"`
	TimeLimit dspool.Duration  `json:"time_limit,omitempty"`
	Started   *time.Time       `json:"started,omitempty"` // nil if no process ever ran
	Elapsed   dspool.Duration  `json:"elapsed,omitempty"` // run time until now or its end, by a clock that nobody sets
	Over      dspool.Duration  `json:"over,omitempty"`    // time since its end, by the same
	ExitCode  *int             `json:"exit_code,omitempty"`
	Signal    int              `json:"signal,omitempty"`     // that ended the main process; ExitCode is 128 more
	OOMKills  int64            `json:"oom_kills,omitempty"`  // processes of it that the kernel killed for memory
	Fault     dspool.Reason    `json:"fault,omitzero"`       // why it could not start
	HostFault bool             `json:"host_fault,omitempty"` // … which was none of its own
	Stuck     int              `json:"stuck,omitempty"`      // processes of it that the kernel did not end
	Cause     Cause            `json:"cause,omitempty"`      // "" if it ended by itself
	Reason    dspool.Reason    `json:"reason,omitzero"`      // of Cause
}

// Kill asks for the end of an attempt's whole process tree: SIGTERM, and SIGKILL after Grace.
// Of several for one attempt the first counts.
type Kill struct {
	ID     int64         `json:"id"`
	Cause  Cause         `json:"cause"`
	Reason dspool.Reason `json:"reason,omitzero"`
	Grace  time.Duration `json:"grace"`
}

// WithStuck returns why something ended, with the number of its processes that the kernel did not end.
func WithStuck(r dspool.Reason, stuck int) dspool.Reason {
	if stuck == 0 {
		return r
	}
	return dspool.Why(dspool.WhyStuck, dspool.ReasonParams{Count: int64(stuck)}).With(r)
}

// SignalName is a signal's name, such as SIGKILL.
func SignalName(number int) string {
	if name := unix.SignalName(syscall.Signal(number)); name != "" {
		return name
	}
	return "signal " + strconv.Itoa(number)
}
