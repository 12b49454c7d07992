package agent_test

import (
	"testing"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/agent/agenttest"
)

// One iteration is an attempt that takes no time, from directive to the server's
// acknowledgement over TLS; all directives are there when the agent comes.
func BenchmarkAttempts(b *testing.B) {
	s, m := newServer(b), agenttest.NewMachine(nil)
	spec := api.TaskSpec{Job: 1, Command: []string{"true"}, Request: dspool.Resources{CPUs: 1, Memory: 1 << 20}}
	s.mu.Lock()
	s.jobs[1], s.revision = spec, 1
	for id := range int64(b.N) {
		s.rows = append(s.rows, row{api.AttemptDirective{ID: id + 1, Job: 1, Index: id}, 1})
	}
	s.mu.Unlock()
	b.ResetTimer()
	s.agent(config(s, m, b.TempDir()))
	for id := range int64(b.N) {
		s.ended(id + 1)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "attempts/s")
	s.mu.Lock()
	b.ReportMetric(float64(b.N)/float64(len(s.reports)), "attempts/report")
	s.mu.Unlock()
}

// One iteration is a new machine's agent from its start to its first report.
func BenchmarkEnrol(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		s, m, dir := newServer(b), agenttest.NewMachine(nil), b.TempDir()
		b.StartTimer()
		begun := time.Now()
		a := s.agent(config(s, m, dir))
		s.await("the first report", func() bool { return len(s.reports) > 0 })
		b.ReportMetric(float64(time.Since(begun).Microseconds()), "last-µs")
		b.StopTimer()
		a.kill()
		s.http.Close()
		b.StartTimer()
	}
}
