package asuser

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// setThreadGroups sets the calling thread's supplementary groups only. The functions of
// syscall and x/sys would set them for every thread of the process.
func setThreadGroups(groups []int) error {
	ids := make([]uint32, len(groups), len(groups)+1)
	for i, g := range groups {
		ids[i] = uint32(g)
	}
	_, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(ids)), uintptr(unsafe.Pointer(unsafe.SliceData(ids))), 0)
	if errno != 0 {
		return errno
	}
	return nil
}
