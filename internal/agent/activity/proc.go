package activity

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// ticksPerSecond is USER_HZ, which is 100 on every Linux that Go runs on.
const ticksPerSecond = 100

// mostArgs is how many bytes of a command line are looked at.
const mostArgs = 1024

// Processes reads what /proc shows of pids to the calling thread, and returns those that it
// does not show: they have ended, or belong to others and hide.
func Processes(pids []int) (seen []Process, unseen []int) {
	for _, pid := range pids {
		dir := "/proc/" + strconv.Itoa(pid)
		stat, err := os.ReadFile(dir + "/stat")
		if err != nil {
			unseen = append(unseen, pid)
			continue
		}
		p, err := parseStat(stat)
		if err != nil {
			unseen = append(unseen, pid)
			continue
		}
		p.Args = arguments(dir + "/cmdline")
		seen = append(seen, p)
	}
	return seen, unseen
}

func parseStat(stat []byte) (p Process, err error) {
	open, end := bytes.IndexByte(stat, '('), bytes.LastIndexByte(stat, ')')
	if open < 0 || end < open {
		return p, fmt.Errorf("read process status: %q", stat)
	}
	f := strings.Fields(string(stat[end+1:]))
	if len(f) < 20 {
		return p, fmt.Errorf("read process status: %d fields", len(f))
	}
	number := func(s string) int64 { n, _ := strconv.ParseInt(s, 10, 64); return n }
	p.PID, _ = strconv.Atoi(strings.TrimSpace(string(stat[:open])))
	p.Name = string(stat[open+1 : end])
	p.State = f[0][0]
	p.Parent, p.Leader = int(number(f[1])), int(number(f[3]))
	p.Terminal = terminalName(uint32(number(f[4])))
	p.CPU = time.Duration(number(f[11])+number(f[12])) * time.Second / ticksPerSecond
	p.Begun = uint64(number(f[19]))
	return p, nil
}

// terminalName of the device number that /proc shows; "" is none, or not a pseudo terminal.
func terminalName(dev uint32) string {
	major, minor := dev>>8&0xfff, dev&0xff|dev>>12&0xfff00
	if major < 136 || major > 143 {
		return ""
	}
	return "pts/" + strconv.Itoa(int(minor+(major-136)<<8))
}

func arguments(path string) []string {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	buf := make([]byte, mostArgs)
	n, _ := f.Read(buf)
	if n == 0 {
		return nil
	}
	return strings.Split(strings.TrimRight(string(buf[:n]), "\x00"), "\x00")
}

// Terminals lists the pseudo terminals of the user with the id uid.
func Terminals(uid int) []Terminal {
	entries, err := os.ReadDir("/dev/pts")
	if err != nil {
		return nil
	}
	var list []Terminal
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err != nil {
			continue
		}
		var st syscall.Stat_t
		if syscall.Lstat(filepath.Join("/dev/pts", e.Name()), &st) != nil || int(st.Uid) != uid {
			continue
		}
		list = append(list, Terminal{Name: "pts/" + e.Name(), Stamp: time.Unix(st.Atim.Unix())})
	}
	return list
}
