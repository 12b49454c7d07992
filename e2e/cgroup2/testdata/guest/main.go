// Command guest is the first process of an emulated computer: it boots, runs dspool in every
// place that a server may have in the unified control group hierarchy, reports what it saw on
// the second serial line, and switches the computer off.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

func main() {
	var err error
	switch {
	case len(os.Args) > 1 && os.Args[1] == "cases":
		err = cases()
	case len(os.Args) > 1 && os.Args[1] == "first":
		err = first()
	case len(os.Args) > 1 && os.Args[1] == "clone3":
		err = clone3()
	default:
		err = boot() // does not return when all is well
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "guest:", err)
	}
	if os.Getpid() != 1 {
		if err != nil {
			os.Exit(1)
		}
		return
	}
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

// first is PID 1 in the real root: it starts the cases and reaps what others leave.
func first() error {
	cmd := exec.Command("/guest", "cases")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, 0, nil)
		if err != nil && err != unix.EINTR {
			return err
		}
		if pid == cmd.Process.Pid {
			return nil
		}
	}
}

// argument reads NAME=VALUE from the kernel's command line.
func argument(name string) string {
	line, _ := os.ReadFile("/proc/cmdline")
	for word := range strings.FieldsSeq(string(line)) {
		if value, ok := strings.CutPrefix(word, name+"="); ok {
			return value
		}
	}
	return ""
}

// clone3 tries, in a machine, to make namespaces with the call that is let through for init.
func clone3() error {
	for _, flag := range []uintptr{unix.CLONE_NEWUSER, unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWNET, unix.CLONE_NEWNS, unix.CLONE_NEWNET, unix.CLONE_NEWCGROUP, unix.CLONE_NEWPID} {
		args := [11]uint64{0: uint64(flag), 4: uint64(unix.SIGCHLD)}
		pid, _, errno := unix.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&args)), unsafe.Sizeof(args), 0)
		if errno == 0 {
			if pid == 0 {
				unix.RawSyscall(unix.SYS_EXIT, 0, 0, 0)
			}
			return fmt.Errorf("made a namespace: flags %#x", flag)
		}
		if errno != unix.ENOSPC && errno != unix.EPERM {
			return fmt.Errorf("flags %#x: %w", flag, errno)
		}
		fmt.Printf("flags %#x: %v\n", flag, errno)
	}
	return nil
}
