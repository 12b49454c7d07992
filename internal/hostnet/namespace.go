package hostnet

import (
	"fmt"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/dspool/dspool"
)

// openNamespace opens the network namespace of a machine's process.
func openNamespace(machine string, pid int) (*os.File, error) {
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return nil, fmt.Errorf("open network namespace of process %d: %w", pid, err)
	}
	same, err := isHostNamespace(ns)
	if err == nil && same {
		err = dspool.Errorf(dspool.Invalid, "process %d of machine %s has the host's own network", pid, machine)
	}
	if err != nil {
		ns.Close()
		return nil, err
	}
	return ns, nil
}

// isPeer says whether the other end of the host's veth is the eth0 in ns.
func isPeer(ns *os.File, outer netlink.Link) bool {
	peer := false
	err := inNamespace(ns, func(h *netlink.Handle) error {
		nic, err := h.LinkByName(machineNIC)
		peer = err == nil && nic.Attrs().ParentIndex == outer.Attrs().Index && nic.Attrs().Index == outer.Attrs().ParentIndex
		return err
	})
	return err == nil && peer
}

func isHostNamespace(ns *os.File) (bool, error) {
	var a, b unix.Stat_t
	if err := unix.Fstat(int(ns.Fd()), &a); err != nil {
		return false, fmt.Errorf("look at network namespace: %w", err)
	}
	// Not /proc/self: the process's first thread may just be in a machine's.
	if err := unix.Stat("/proc/thread-self/ns/net", &b); err != nil {
		return false, fmt.Errorf("look at network namespace: %w", err)
	}
	return a.Dev == b.Dev && a.Ino == b.Ino, nil
}

// inNamespace runs f on a thread that is in ns. A thread that cannot come back
// ends with its goroutine.
func inNamespace(ns *os.File, f func(*netlink.Handle) error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			runtime.UnlockOSThread()
			done <- fmt.Errorf("open own network namespace: %w", err)
			return
		}
		defer home.Close()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			runtime.UnlockOSThread()
			done <- fmt.Errorf("enter network namespace: %w", err)
			return
		}
		err = func() error {
			h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
			if err != nil {
				return fmt.Errorf("open netlink in network namespace: %w", err)
			}
			defer h.Close()
			return f(h)
		}()
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}
