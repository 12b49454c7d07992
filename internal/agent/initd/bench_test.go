package initd_test

import (
	"sync"
	"testing"

	"github.com/dspool/dspool/internal/agent/initd"
)

// One iteration is spawn, exit and forgetting of /bin/true as a user in its cgroup.
func BenchmarkTrue(b *testing.B) {
	for name, at := range map[string]int{"one at a time": 1, "eight at once": 8} {
		b.Run(name, func(b *testing.B) {
			m := startMachine(b)
			next := make(chan int64)
			ends := make(map[int64]chan struct{})
			var mu sync.Mutex
			go func() {
				_ = m.Exits(b.Context(), func(s initd.Status) {
					mu.Lock()
					defer mu.Unlock()
					if ch := ends[s.ID]; ch != nil {
						close(ch)
						delete(ends, s.ID)
					}
				})
			}()
			b.ResetTimer()
			var workers sync.WaitGroup
			for w := range at {
				workers.Go(func() {
					for id := range next {
						over := make(chan struct{})
						mu.Lock()
						ends[id] = over
						mu.Unlock()
						s := m.spec(id, "/bin/true")
						s.Dir = m.dir + "/jobs/" + string(rune('a'+w))
						if _, err := m.Spawn(b.Context(), s); err != nil {
							b.Error(err)
							return
						}
						<-over
						if err := m.Forget(b.Context(), []int64{id}); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			for id := range int64(b.N) {
				next <- id
			}
			close(next)
			workers.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "tasks/s")
			b.ReportMetric(m.residentMiB(), "init-MiB")
		})
	}
}
