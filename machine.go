package dspool

import (
	"slices"
	"time"
)

// Time is a moment in UTC.
type Time = time.Time

// MachineState is where a machine stands in its life. Idle and busy are no states:
// they follow from the machine's claims.
type MachineState string

const (
	Creating   MachineState = "creating"   // the provider is asked for it, or will be again
	Starting   MachineState = "starting"   // it exists, its agent has not joined yet
	Ready      MachineState = "ready"      // its agent has joined: it takes claims
	Stopped    MachineState = "stopped"    // it exists, switched off (providers that can)
	Destroying MachineState = "destroying" // the provider is asked to remove it, or will be again
	Gone       MachineState = "gone"       // removed; the row stays for usage
	Failed     MachineState = "failed"     // removed after a fault; Failure says which
)

var machineMoves = map[MachineState][]MachineState{
	Creating:   {Starting, Destroying},
	Starting:   {Ready, Destroying},
	Ready:      {Stopped, Destroying},
	Stopped:    {Starting, Destroying},
	Destroying: {Gone, Failed},
}

// CanBecome says whether a machine in state s may move to state to.
func (s MachineState) CanBecome(to MachineState) bool { return slices.Contains(machineMoves[s], to) }

// Ended says whether nothing of the machine is left on any host.
func (s MachineState) Ended() bool { return s == Gone || s == Failed }

// Health is the agent's word on its machine.
type Health string

const (
	HealthUnknown Health = "unknown" // not joined yet
	Healthy       Health = "healthy"
	Unhealthy     Health = "unhealthy" // HealthReason says why; it takes no new claims
)

// Machine is one computer of a pool.
type Machine struct {
	Name string `json:"name" doc:"Pool and number; never used again."`
	Pool string `json:"pool"`
	Size string `json:"size"`
	Resources
	Price        float64      `json:"price" doc:"Per hour, fixed at creation."`
	Image        string       `json:"image"`
	State        MachineState `json:"state" enum:"creating,starting,ready,stopped,destroying,gone,failed"`
	Reason       Reason       `json:"reason,omitzero" doc:"Why it was made or, once it goes, why it goes."`
	Failure      Reason       `json:"failure,omitzero" doc:"What went wrong with it."`
	Cordoned     bool         `json:"cordoned,omitempty" doc:"Takes no new claims."`
	DrainBy      *Time        `json:"drain_by,omitempty" doc:"Draining: it goes when nothing lives on it, or then."`
	Health       Health       `json:"health" enum:"unknown,healthy,unhealthy"`
	HealthReason Reason       `json:"health_reason,omitzero"`
	Address      string       `json:"address,omitempty"`
	Used         Resources    `json:"used" doc:"Sum of its claims."`
	Claims       int          `json:"claims"`
	Created      Time         `json:"created"`
	ReadyAt      *Time        `json:"ready_at,omitempty"`
	IdleSince    *Time        `json:"idle_since,omitempty"`
	Ended        *Time        `json:"ended,omitempty"`
}
