package runc

import "time"

// SetFault makes f be called before every step; an error is that step's.
func (p *Provider) SetFault(f func(step string) error) { p.fault = f }

// PID returns the init of a machine.
func (p *Provider) PID(name string) (int, error) {
	r, _, err := load(p.cfg, name)
	return r.PID, err
}

// KillAndWait kills a process that need not be a child.
func KillAndWait(pid int) error {
	if err := kill(pid); err != nil {
		return err
	}
	return waitDead(pid, 10*time.Second)
}

// InMountNamespace runs fn in a mount namespace of its own.
var InMountNamespace = inMountNamespace
