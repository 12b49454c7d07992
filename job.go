package dspool

import (
	"regexp"
	"slices"
	"strings"
)

// JobSpec is what a user submits.
type JobSpec struct {
	Name       string            `json:"name,omitempty" doc:"For people; the command's first word unless given." maxLength:"128"`
	Pool       string            `json:"pool,omitempty" doc:"The default pool unless given."`
	Size       string            `json:"size,omitempty" doc:"Size of machine; unless given, the pool's first that one task fits."`
	Command    []string          `json:"command" doc:"Program and arguments; no shell unless it is one." minItems:"1"`
	Env        map[string]string `json:"env,omitempty"`
	CPUs       float64           `json:"cpus,omitempty" doc:"Cores per task, in steps of 0.001; 1 unless given."`
	Memory     int64             `json:"memory,omitempty" doc:"Bytes per task; unless given, the task's share of the machine by its cpus."`
	GPUs       int               `json:"gpus,omitempty"`
	Array      string            `json:"array,omitempty" doc:"Task indices; one task with index 0 unless given." example:"1-1000"`
	MaxRunning int               `json:"max_running,omitempty" doc:"Tasks of this job that may run at once; 0 is no limit."`
	TimeLimit  Duration          `json:"time_limit,omitempty" doc:"A task running longer is ended; 0 is no limit."`
	After      []int64           `json:"after,omitempty" doc:"Jobs that must succeed first; this one is cancelled when one of them does not."`
}

// Request returns what one task claims.
func (s JobSpec) Request() Resources {
	return Resources{CPUs: s.CPUs, Memory: s.Memory, GPUs: s.GPUs}
}

// Limits of a job.
const (
	MaxCommandBytes = 128 << 10
	MaxEnvBytes     = 128 << 10
)

var envName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,127}$`)

// Check refuses a job that could never be right, wherever it runs. It does not
// fill defaults and knows no pools.
func (s JobSpec) Check() error {
	if err := CheckTitle("job name", s.Name); err != nil {
		return err
	}
	if len(s.Command) == 0 || s.Command[0] == "" {
		return Errorf(Invalid, "the job has no command").WithHint("give a program and its arguments after --")
	}
	size := 0
	for _, arg := range s.Command {
		if size += len(arg) + 1; strings.ContainsRune(arg, 0) {
			return Errorf(Invalid, "the command holds a NUL byte")
		}
	}
	if size > MaxCommandBytes {
		return Errorf(Invalid, "the command is %s long", FormatBytes(int64(size))).
			WithHint("at most %s; put the data into a file on a share", FormatBytes(MaxCommandBytes))
	}
	size = 0
	for k, v := range s.Env {
		if !envName.MatchString(k) {
			return Errorf(Invalid, "environment variable name %s is not allowed", Quote(k)).WithHint("letters, digits and _, not beginning with a digit")
		}
		if strings.HasPrefix(k, "DSPOOL_") {
			return Errorf(Invalid, "environment variable %s is dspool's own", k).WithHint("choose a name without DSPOOL_")
		}
		if size += len(k) + len(v) + 2; strings.ContainsRune(v, 0) {
			return Errorf(Invalid, "environment variable %s holds a NUL byte", k)
		}
	}
	if size > MaxEnvBytes {
		return Errorf(Invalid, "the environment is %s long", FormatBytes(int64(size))).WithHint("at most %s", FormatBytes(MaxEnvBytes))
	}
	if s.CPUs != 0 {
		if err := CheckCPUs(s.CPUs); err != nil {
			return err
		}
	}
	if s.Memory != 0 {
		if err := CheckMemory(s.Memory); err != nil {
			return err
		}
	}
	if s.GPUs < 0 || s.GPUs > 64 {
		return Errorf(Invalid, "%d gpus are not possible", s.GPUs)
	}
	if s.MaxRunning < 0 || s.MaxRunning > MaxArray {
		return Errorf(Invalid, "max running %d is not possible", s.MaxRunning).WithHint("0 means no limit")
	}
	if len(s.After) > 100 {
		return Errorf(Invalid, "the job waits for %d jobs", len(s.After)).WithHint("at most 100")
	}
	_, err := ParseIndexSet(s.Array)
	return err
}

// JobState is where a job as a whole stands.
type JobState string

const (
	JobQueued    JobState = "queued"    // nothing of it has run yet
	JobRunning   JobState = "running"   // some of it has run or runs
	JobSucceeded JobState = "succeeded" // every task succeeded
	JobFailed    JobState = "failed"    // ended, and some task failed or was lost
	JobCancelled JobState = "cancelled" // ended because somebody or a rule cancelled it
)

// Ended says whether nothing of the job will run any more.
func (s JobState) Ended() bool { return s == JobSucceeded || s == JobFailed || s == JobCancelled }

// Job is a submitted job. Its tasks that have never been placed exist only as
// the index set Pending.
type Job struct {
	ID         int64    `json:"id"`
	User       string   `json:"user"`
	Spec       JobSpec  `json:"spec"`
	State      JobState `json:"state" enum:"queued,running,succeeded,failed,cancelled"`
	Reason     Reason   `json:"reason,omitzero" doc:"Why it waits, or how it ended."`
	Cancelling bool     `json:"cancelling,omitempty" doc:"Cancelled, but tasks still end."`
	Pending    IndexSet `json:"pending" doc:"Indices not placed yet."`
	Tasks      Counts   `json:"tasks"`
	Created    Time     `json:"created"`
	Started    *Time    `json:"started,omitempty"`
	Ended      *Time    `json:"ended,omitempty"`
}

// Counts counts a job's tasks by state.
type Counts struct {
	Total     int64 `json:"total"`
	Pending   int64 `json:"pending"`
	Assigned  int64 `json:"assigned"`
	Running   int64 `json:"running"`
	Succeeded int64 `json:"succeeded"`
	Failed    int64 `json:"failed"`
	Cancelled int64 `json:"cancelled"`
	Lost      int64 `json:"lost"`
}

// Active is the number of tasks placed and not ended.
func (c Counts) Active() int64 { return c.Assigned + c.Running }

// TaskState is where a task, or one attempt at it, stands.
type TaskState string

const (
	TaskPending   TaskState = "pending"   // not placed
	TaskAssigned  TaskState = "assigned"  // placed on a machine, not started there yet
	TaskRunning   TaskState = "running"   // its process lives
	TaskSucceeded TaskState = "succeeded" // exit code 0
	TaskFailed    TaskState = "failed"    // other exit code, signal, limit, or it could not start
	TaskCancelled TaskState = "cancelled"
	TaskLost      TaskState = "lost" // its machine vanished; nobody knows how far it came
)

var taskMoves = map[TaskState][]TaskState{
	TaskPending:  {TaskAssigned, TaskCancelled},
	TaskAssigned: {TaskPending, TaskRunning, TaskSucceeded, TaskFailed, TaskCancelled, TaskLost},
	TaskRunning:  {TaskSucceeded, TaskFailed, TaskCancelled, TaskLost},
}

// CanBecome says whether a task in state s may move to state to.
func (s TaskState) CanBecome(to TaskState) bool { return slices.Contains(taskMoves[s], to) }

// Ended says whether the state is final.
func (s TaskState) Ended() bool {
	return s == TaskSucceeded || s == TaskFailed || s == TaskCancelled || s == TaskLost
}

// Task is one unit of a job, with its latest attempt.
type Task struct {
	Job      int64     `json:"job"`
	Index    int64     `json:"index"`
	State    TaskState `json:"state" enum:"pending,assigned,running,succeeded,failed,cancelled,lost"`
	Reason   Reason    `json:"reason,omitzero" doc:"Why it waits or where it is, or how it ended."`
	Attempt  int64     `json:"attempt,omitempty" doc:"Identifier of the latest attempt."`
	Machine  string    `json:"machine,omitempty"`
	ExitCode *int      `json:"exit_code,omitempty" doc:"128 plus the signal's number where a signal ended it."`
	Started  *Time     `json:"started,omitempty"`
	Ended    *Time     `json:"ended,omitempty"`
}
