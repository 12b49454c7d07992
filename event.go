package dspool

// Event is an append-only fact.
type Event struct {
	ID      int64  `json:"id"`
	Time    Time   `json:"time"`
	Actor   string `json:"actor" doc:"A user's name, \"planner\", \"machine NAME\" or \"server\"."`
	Kind    string `json:"kind" doc:"Noun and verb, such as machine.created."`
	Pool    string `json:"pool,omitempty"`
	Machine string `json:"machine,omitempty"`
	Job     int64  `json:"job,omitempty"`
	User    string `json:"user,omitempty" doc:"Whose thing it is about; other users do not see it."`
	Message string `json:"message" doc:"What happened."`
	Reason  Reason `json:"reason,omitzero" doc:"Why."`
}

// OperationState is where an operation stands.
type OperationState string

const (
	OperationRunning   OperationState = "running"
	OperationSucceeded OperationState = "succeeded"
	OperationFailed    OperationState = "failed"
)

// Operation is a slow action that the API answered with 202.
type Operation struct {
	ID       string         `json:"id"`
	Kind     string         `json:"kind" doc:"Such as image.build or machine.remove."`
	Target   string         `json:"target"`
	User     string         `json:"user"`
	State    OperationState `json:"state" enum:"running,succeeded,failed"`
	Progress string         `json:"progress,omitempty" doc:"What it does now."`
	Error    *Error         `json:"error,omitempty"`
	Created  Time           `json:"created"`
	Ended    *Time          `json:"ended,omitempty"`
}

// UsageRow is one line of the bill.
type UsageRow struct {
	Key            string  `json:"key" doc:"User, pool or job; \"(idle)\" is what nobody claimed."`
	Pool           string  `json:"pool,omitempty"`
	User           string  `json:"user,omitempty"`
	MachineSeconds float64 `json:"machine_seconds" doc:"Claimed part of machines times seconds."`
	CPUSeconds     float64 `json:"cpu_seconds"`
	GiBSeconds     float64 `json:"gib_seconds"`
	GPUSeconds     float64 `json:"gpu_seconds"`
	Tasks          int64   `json:"tasks"`
	Cost           float64 `json:"cost"`
}
