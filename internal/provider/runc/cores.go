package runc

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// cores shares the host's cores among machines: each gets as many as it has cpus, the
// least loaded ones, so that nproc and everything that counts cores is right in it.
type cores struct {
	mu    sync.Mutex
	ids   []int              // that this process may use
	load  map[int]float64    // cpus sold on each core
	taken map[string]claimed // by machine
}

type claimed struct {
	cores []int
	each  float64
}

func newCores() (*cores, error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return nil, fmt.Errorf("read cores: %w", err)
	}
	c := &cores{load: map[int]float64{}, taken: map[string]claimed{}}
	for id := range len(set) * 64 {
		if set.IsSet(id) {
			c.ids = append(c.ids, id)
		}
	}
	return c, nil
}

func (c *cores) count() int { return len(c.ids) }

// choose takes the least loaded cores for a machine; all of them where it wants more.
func (c *cores) choose(machine string, cpus float64) []int {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.release(machine)
	ids := slices.Clone(c.ids)
	slices.SortStableFunc(ids, func(a, b int) int {
		switch d := c.load[a] - c.load[b]; {
		case d < -1e-9:
			return -1
		case d > 1e-9:
			return 1
		}
		return 0
	})
	ids = ids[:min(len(ids), int(math.Ceil(cpus)))]
	slices.Sort(ids)
	c.add(machine, ids, cpus)
	return ids
}

// take books cores that a machine has already.
func (c *cores) take(machine string, ids []int, cpus float64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.release(machine)
	c.add(machine, ids, cpus)
}

func (c *cores) free(machine string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.release(machine)
}

func (c *cores) add(machine string, ids []int, cpus float64) {
	if len(ids) == 0 {
		return
	}
	t := claimed{ids, cpus / float64(len(ids))}
	c.taken[machine] = t
	for _, id := range ids {
		c.load[id] += t.each
	}
}

func (c *cores) release(machine string) {
	t := c.taken[machine]
	for _, id := range t.cores {
		c.load[id] -= t.each
	}
	delete(c.taken, machine)
}

func formatCores(ids []int) string {
	s := make([]string, len(ids))
	for i, id := range ids {
		s[i] = strconv.Itoa(id)
	}
	return strings.Join(s, ",")
}
