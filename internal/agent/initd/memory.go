package initd

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// What may stay charged to a slot that is used again: page cache, which the kernel takes back, and of
// memory that it cannot take back only what is not worth a look.
const (
	heavyBytes = 32 << 20
	keptBytes  = 2 << 20
)

// heavyGroup judges a slot's memory by its usage and, where that is worth it, by its statistics.
func heavyGroup(dir, usage string) bool {
	n, err := readControl(dir, usage)
	if err != nil || n > heavyBytes {
		return true
	}
	if n <= keptBytes {
		return false
	}
	n, err = statistic(dir, "shmem")
	return err != nil || n > keptBytes
}

// statistic of a memory cgroup. Its shmem is files on memory and segments of System V: what outlives processes.
func statistic(dir, key string) (int64, error) {
	f, err := openControl(dir, "memory.stat", unix.O_RDONLY)
	if err != nil {
		return 0, err
	}
	defer f.close()
	return f.count(key)
}

// Unowned is what of the machine's memory is held by files and segments of attempts and sessions that have
// ended: it is charged to the machine and to none of those that are there.
func Unowned() (int64, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return 0, err
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return 0, err
	}
	v1, v2 := cgroupDirs(string(mounts), string(own))
	if dir := v1["memory"]; dir != "" {
		return unownedIn(dir, "total_shmem")
	}
	return unownedIn(strings.TrimSuffix(v2, "/"+ownGroup), "shmem")
}

// unownedIn reads the cgroup of a machine; key is the statistic that counts those below, too.
func unownedIn(dir, key string) (int64, error) {
	slots, err := leftSlots(dir)
	if err != nil {
		return 0, err
	}
	held := int64(0)
	for _, name := range slots {
		n, err := statistic(filepath.Join(dir, name), key)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENODEV) { // it has just been removed
			return 0, err
		}
		held += n
	}
	all, err := statistic(dir, key)
	return max(0, all-held), err
}
