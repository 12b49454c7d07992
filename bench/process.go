package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// tick is the kernel's unit of process times as user space sees it (USER_HZ).
const tick = 10 * time.Millisecond

// usage is a process's own time on a core, and that of the children it has waited for.
type usage struct{ own, children time.Duration }

func usageOf(pid int) (usage, error) {
	f, err := statOf(pid)
	if err != nil {
		return usage{}, err
	}
	const utime = 11 // counted from the state, proc_pid_stat(5)
	var n [4]time.Duration
	for i := range n {
		v, err := strconv.ParseInt(f[utime+i], 10, 64)
		if err != nil {
			return usage{}, err
		}
		n[i] = time.Duration(v) * tick
	}
	return usage{own: n[0] + n[1], children: n[2] + n[3]}, nil
}

// statOf returns the fields from the state on.
func statOf(pid int) ([]string, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, err
	}
	// The command, in parentheses, may itself hold spaces and parentheses.
	f := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	if len(f) < 20 {
		return nil, fmt.Errorf("process %d: unexpected stat", pid)
	}
	return f, nil
}

// childrenOf returns the pids of a process's children.
func childrenOf(pid int) ([]int, error) {
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, t := range tasks {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", pid, t.Name()))
		if err != nil {
			continue // the thread has ended
		}
		for _, word := range strings.Fields(string(data)) {
			child, err := strconv.Atoi(word)
			if err != nil {
				return nil, err
			}
			pids = append(pids, child)
		}
	}
	return pids, nil
}

// memory is a process's resident memory in bytes, split as the kernel does.
type memory struct{ anonymous, files int64 }

func (m memory) total() int64 { return m.anonymous + m.files }

func memoryOf(pid int) (m memory, err error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return m, err
	}
	for line := range strings.Lines(string(data)) {
		name, value, _ := strings.Cut(line, ":")
		kib, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		switch name {
		case "RssAnon":
			m.anonymous = kib << 10
		case "RssFile", "RssShmem":
			m.files += kib << 10
		}
	}
	return m, nil
}

// hostBusy is the time that all cores together have worked since the host's start.
func hostBusy() (time.Duration, error) {
	data, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	line, _, _ := strings.Cut(string(data), "\n")
	var busy int64
	const idle, iowait, steal = 3, 4, 7
	for i, word := range strings.Fields(line)[1:] {
		n, err := strconv.ParseInt(word, 10, 64)
		if err != nil {
			return 0, err
		}
		if i != idle && i != iowait && i <= steal { // guests' time is in the others already
			busy += n
		}
	}
	return time.Duration(busy) * tick, nil
}
