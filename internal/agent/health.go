package agent

import (
	"bufio"
	"context"
	"errors"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/dspool/dspool"
)

// watchHealth looks at the machine until ctx is done.
func (a *Agent) watchHealth(ctx context.Context) {
	for {
		health, reason := a.cfg.Check()
		if health == dspool.Healthy {
			asked, cancel := context.WithTimeout(ctx, checkEvery)
			_, err := a.cfg.Executor.List(asked)
			cancel()
			if ctx.Err() != nil {
				return
			}
			if err != nil {
				health, reason = dspool.Unhealthy, dspool.Reason{Code: dspool.WhyInitSilent}
			} else {
				health, reason = a.cfg.Host.Health(ctx)
			}
		}
		a.healthMu.Lock()
		changed := health != a.health || reason.IsZero() != a.reason.IsZero()
		a.health, a.reason = health, reason
		a.healthMu.Unlock()
		if changed {
			a.log.Warn("the machine's health changed", "health", health, "reason", reason.Code)
			signal(a.changed)
		}
		if !sleep(ctx, a.cfg.CheckEvery) {
			return
		}
	}
}

// Limits of a healthy machine.
const (
	fullDisk   = 0.95 // used part of the disk of /
	leastSpare = 0.01 // part of the host's memory that is available
)

// CheckMachine is the check of a real machine: room on its disk, and memory on its host.
func CheckMachine() (dspool.Health, dspool.Reason) {
	var st unix.Statfs_t
	if err := unix.Statfs("/", &st); err != nil {
		return dspool.Unhealthy, dspool.Why(dspool.WhyDiskSilent, dspool.ReasonParams{Detail: err.Error()})
	}
	if st.Blocks > 0 {
		// Bavail is what others than root may still write.
		if used := 1 - float64(st.Bavail)/float64(st.Blocks-st.Bfree+st.Bavail); used > fullDisk {
			return dspool.Unhealthy, dspool.Why(dspool.WhyDiskFull, dspool.ReasonParams{Count: int64(used * 100)})
		}
	}
	if total, available, err := memory(); err == nil && float64(available) < leastSpare*float64(total) {
		return dspool.Unhealthy, dspool.Why(dspool.WhyMemoryLow, dspool.ReasonParams{Bytes: available})
	}
	return dspool.Healthy, dspool.Reason{}
}

// memory returns bytes of memory that /proc/meminfo shows, and those available.
func memory() (total, available int64, err error) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 {
			continue
		}
		kib, _ := strconv.ParseInt(fields[1], 10, 64)
		switch fields[0] {
		case "MemTotal:":
			total = kib << 10
		case "MemAvailable:":
			available = kib << 10
		}
	}
	if total == 0 {
		return 0, 0, errors.New("no MemTotal in /proc/meminfo")
	}
	return total, available, nil
}
