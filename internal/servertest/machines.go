package servertest

import (
	"context"
	"os"
	"time"

	"github.com/dspool/dspool/internal/agent"
	"github.com/dspool/dspool/internal/agent/agenttest"
	"github.com/dspool/dspool/internal/provider"
)

// boot is a machine's inside: an init that outlives agents, and the agent, restarted when it is killed.
func (s *System) boot(ctx context.Context, spec provider.MachineSpec) {
	m := agenttest.NewMachine(s.o.Tasks)
	s.mu.Lock()
	s.machines[spec.Name] = m
	s.mu.Unlock()
	dir, err := os.MkdirTemp("", "dspool-agent-*")
	if err != nil {
		s.t.Error(err)
		return
	}
	defer os.RemoveAll(dir)
	for ctx.Err() == nil {
		life, kill := context.WithCancel(ctx)
		s.mu.Lock()
		s.kills[spec.Name] = kill
		s.mu.Unlock()
		if s.Steps.pass(life, Enrol, spec.Name) == nil {
			err = agent.New(agent.Config{Boot: spec.Agent, Executor: m, Host: m, Dir: dir, Grace: 20 * time.Millisecond}).Run(life)
		}
		kill()
		if err != nil {
			restart := time.NewTimer(50 * time.Millisecond) // init waits before it starts what fails
			select {
			case <-restart.C:
			case <-ctx.Done():
			}
			restart.Stop()
		}
	}
}

// KillAgent ends the machine's agent; init starts the next one.
func (s *System) KillAgent(machine string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if kill := s.kills[machine]; kill != nil {
		kill()
	}
}

// Inside returns the inside of a machine; nil before it has booted.
func (s *System) Inside(name string) *agenttest.Machine {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.machines[name]
}

// Spawned returns how often every task of a job was started, on any machine.
func (s *System) Spawned(job int64) map[int64]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := map[int64]int{}
	for _, m := range s.machines {
		for _, spec := range m.Spawned() {
			if spec.Job == job {
				n[spec.Index]++
			}
		}
	}
	return n
}
