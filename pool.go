package dspool

import "slices"

// PoolKind is a default for a pool's policy, not a type: any pool may take both
// sorts of claim.
type PoolKind string

const (
	Batch       PoolKind = "batch"
	Interactive PoolKind = "interactive"
	Service     PoolKind = "service"
)

// Pool is a named set of like machines.
type Pool struct {
	Name     string     `json:"name"`
	Kind     PoolKind   `json:"kind" enum:"batch,interactive,service"`
	Image    string     `json:"image" doc:"Name of the image its machines start from."`
	Sizes    []string   `json:"sizes" doc:"Names of the sizes its machines may have; the first is the default."`
	Min      int        `json:"min" doc:"Machines kept even when nobody needs them."`
	Max      int        `json:"max" doc:"Machines never exceeded."`
	Spare    int        `json:"spare" doc:"Machines without claims kept ready beyond those in use."`
	Shares   []string   `json:"shares" doc:"Names of the shares mounted on its machines."`
	Internet bool       `json:"internet" doc:"Whether its machines reach other networks, by NAT."`
	Policy   PoolPolicy `json:"policy"`
	// PublicOnly narrows Internet.
	PublicOnly bool `json:"public_only,omitempty" doc:"Whether its machines, of other networks, reach only the public internet."`
	// Runs is the app that dspool itself keeps running on the pool's machine.
	Runs string `json:"runs,omitempty" enum:"jupyterhub" doc:"The app that runs on its one machine; for kind service."`
}

// RunsJupyterHub is the app of a service pool whose machine is the JupyterHub.
const RunsJupyterHub = "jupyterhub"

// PoolPolicy holds the rules by which a pool grows and shrinks.
type PoolPolicy struct {
	IdleAfter    Duration `json:"idle_after" doc:"How long a machine beyond min and spare may have no claim before it is destroyed."`
	StartTimeout Duration `json:"start_timeout" doc:"How long a created machine may take to join before it counts as failed."`

	SessionsPerMachine int      `json:"sessions_per_machine" doc:"People on one machine; each holds that part of it. 4 unless given."`
	SessionIdle        Duration `json:"session_idle" doc:"A session with no connection in which nothing lives ends after this."`
	KeepMost           Duration `json:"keep_most" doc:"The longest that people may keep a session or put off a drain."`
	Sudo               bool     `json:"sudo,omitempty" doc:"Whether people become root on its machines; these then mount only the homes of who is there."`
	Record             bool     `json:"record,omitempty" doc:"Whether terminals are recorded; people are told."`
}

// Limits of a pool's numbers.
const MaxMachines = 1000

// Check refuses a pool whose own numbers cannot be; whether its image, sizes
// and shares exist is for the caller.
func (p Pool) Check() error {
	if err := CheckName("pool", p.Name); err != nil {
		return err
	}
	if !slices.Contains([]PoolKind{Batch, Interactive, Service}, p.Kind) {
		return Errorf(Invalid, "pool %s has kind %s", p.Name, Quote(string(p.Kind))).WithHint("use batch, interactive or service")
	}
	if len(p.Sizes) == 0 {
		return Errorf(Invalid, "pool %s has no size", p.Name).WithHint("name at least one under sizes")
	}
	switch {
	case p.Min < 0 || p.Spare < 0:
		return Errorf(Invalid, "pool %s has a negative min or spare", p.Name)
	case p.Max < 1 || p.Max > MaxMachines:
		return Errorf(Invalid, "pool %s has max %d", p.Name, p.Max).WithHint("from 1 to %d", MaxMachines)
	case p.Min > p.Max:
		return Errorf(Invalid, "pool %s has min %d above max %d", p.Name, p.Min, p.Max)
	}
	return nil
}

// Size is a named shape of machine and its price.
type Size struct {
	Name string `json:"name"`
	Resources
	Disk  int64   `json:"disk" doc:"Bytes a machine may write outside its shares."`
	Price float64 `json:"price" doc:"Cost of one machine of this size for an hour."`
}

// Share is a named file tree mounted on machines. Kind "dir" is a directory of the
// server's host. The share named by Mount "/home" holds the users' homes.
type Share struct {
	Name  string `json:"name"`
	Kind  string `json:"kind" enum:"dir"`
	Path  string `json:"path" doc:"Where the tree lies on the host."`
	Mount string `json:"mount" doc:"Where machines see it; /mnt/NAME unless set."`
}

// HomeMount is where the share of homes is mounted.
const HomeMount = "/home"

// ImageState says whether machines can start from an image.
type ImageState string

const (
	ImageMissing  ImageState = "missing"  // known by its recipe, never built
	ImageBuilding ImageState = "building" // a build runs
	ImageReady    ImageState = "ready"
	ImageFailed   ImageState = "failed" // the last build failed; Reason says where
)

// Image is a root file system that machines start from, built from a recipe.
type Image struct {
	Name   string     `json:"name"`
	Recipe string     `json:"recipe" doc:"Path of the recipe file on the server's host."`
	Key    string     `json:"key,omitempty" doc:"Hash of everything the image is built from."`
	State  ImageState `json:"state" enum:"missing,building,ready,failed"`
	Reason Reason     `json:"reason,omitzero" doc:"Why it is not there."`
	Bytes  int64      `json:"bytes,omitempty"`
	Built  *Time      `json:"built,omitempty"`
}
