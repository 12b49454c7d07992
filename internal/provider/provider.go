// Package provider is the seam between dspool and whatever makes machines.
// Each provider lives in its own folder and passes the suite in providertest.
package provider

import (
	"context"
	"net/netip"

	"github.com/dspool/dspool"
)

// Provider makes and destroys machines. All methods are safe for concurrent use.
type Provider interface {
	// Create makes and starts the machine. It is idempotent on spec.Name: a
	// second call returns the first machine. When it fails, nothing that List
	// would not show is left behind.
	Create(ctx context.Context, spec MachineSpec) (Handle, error)
	// Destroy removes the machine and everything it had outside its shares; nil if it is already gone.
	Destroy(ctx context.Context, name string) error
	// List returns everything that carries this installation's owner tag, also
	// half-made and dead machines, or an error; never a part.
	List(ctx context.Context) ([]Observed, error)
	Capabilities() Capabilities
}

// MachineSpec is all that a provider needs to make a machine.
type MachineSpec struct {
	Name      string // also its host name
	Resources dspool.Resources
	Disk      int64  // bytes it may write outside its shares; 0 is no limit
	Image     string // directory of the image's root file system
	Mounts    []Mount
	UIDs      dspool.UIDRange // mapped to itself
	Reach     Reach
	Agent     AgentBoot
}

// Reach is which networks beside that of machines a machine reaches.
type Reach int

const (
	Nowhere    Reach = iota
	Public           // the internet, and nothing of private networks
	Everywhere       // also private networks that the host reaches
)

// Mount is a share as one machine sees it.
type Mount struct {
	Source, Target string
	ReadOnly       bool
	// Empty mounts, instead of the source, an empty directory that nobody in the machine writes.
	Empty bool
	// Cover names folders of the source that the machine sees as empty, as with Empty; they are
	// made where they are missing, and belong to the host's root.
	Cover []string
	// Sub is the folder below the source that is mounted, only for Mounter: no link on the way
	// is followed, since users may write there.
	Sub string
}

// AgentBoot is what a new machine's agent needs to join. It reaches the machine as
// a file that only its root reads and that the agent removes once enrolled.
type AgentBoot struct {
	URL        string `json:"url"`         // of the agent link, https
	ServerName string `json:"server_name"` // in the server's certificate
	CA         string `json:"ca"`          // PEM of the authority to trust
	Machine    string `json:"machine"`
	Token      string `json:"token"` // single use, bound to the machine

	Resources dspool.Resources `json:"resources"` // what the agent may give to attempts together
}

// Handle is what the provider knows about a machine it made.
type Handle struct {
	Address netip.Addr // where the gateway reaches it; invalid if nowhere
}

// Observed is a machine as the provider sees it now.
type Observed struct {
	Name    string
	Running bool
	Handle  Handle
	Detail  string // for people, such as "init exited"
}

// Capabilities says what a provider can give. The planner never asks for more.
type Capabilities struct {
	// Capacity of all hosts together, with the allowed overcommit already multiplied in.
	Capacity dspool.Resources
	// AgentListen is the address at which the server must serve the agent link
	// so that machines reach it ("10.80.0.1:8444").
	AgentListen string
	// DoorListen is the address at which the gateway serves machines likewise ("10.80.0.1:8445"); "" if
	// they reach no such address.
	DoorListen  string
	MaxMachines int // more cannot exist at once; 0 is no limit
}

// Stopper is for providers that can switch a machine off and on.
type Stopper interface {
	Stop(ctx context.Context, name string) error
	Start(ctx context.Context, name string) (Handle, error)
}

// Mounter is for providers that can change what a machine mounts while it runs.
type Mounter interface {
	// Mount makes mounts all that is mounted below what a machine sees as empty (see Mount.Empty
	// and Mount.Cover): what is missing is added, what is not named is taken away. Idempotent.
	Mount(ctx context.Context, machine string, mounts []Mount) error
}

// Checker says what the host lacks for this provider.
type Checker interface {
	Check(ctx context.Context) []Finding
}

// Finding is one line of `dspool doctor`.
type Finding struct {
	Subject string `json:"subject"` // what was looked at
	OK      bool   `json:"ok"`
	Fatal   bool   `json:"fatal"`         // nothing works without it
	Detail  string `json:"detail"`        // what was found
	Fix     string `json:"fix,omitempty"` // how to get it
}
