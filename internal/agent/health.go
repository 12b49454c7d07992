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
	"github.com/dspool/dspool/internal/agent/initd"
)

// watchHealth looks at the machine until ctx is done.
func (a *Agent) watchHealth(ctx context.Context, whole dspool.Resources) {
	for {
		health, reason := a.cfg.Check(whole)
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
	fullDisk    = 0.95 // used part of the disk of /
	mostUnowned = 8    // one part in so many of the size's memory is held by what has ended
)

// CheckMachine is the check of a real machine of a size: room on its disk, and memory for what its size promises.
func CheckMachine(size dspool.Resources) (dspool.Health, dspool.Reason) {
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
	if held, err := initd.Unowned(); err == nil && held > size.Memory/mostUnowned {
		return dspool.Unhealthy, dspool.Why(dspool.WhyMemoryLow, dspool.ReasonParams{Bytes: held, Capacity: size})
	}
	return dspool.Healthy, dspool.Reason{}
}

// memory returns bytes of memory that /proc/meminfo shows.
func memory() (total int64, err error) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) > 1 && fields[0] == "MemTotal:" {
			kib, err := strconv.ParseInt(fields[1], 10, 64)
			return kib << 10, err
		}
	}
	return 0, errors.New("no MemTotal in /proc/meminfo")
}
