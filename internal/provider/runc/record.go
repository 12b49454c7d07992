package runc

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/dspool/dspool/internal/provider"
)

// record is what the provider remembers of a machine it made, in record.json of its
// directory. A directory without one is a machine half made.
type record struct {
	Name    string     `json:"name"`
	PID     int        `json:"pid"`     // of init, on the host
	Started uint64     `json:"started"` // start time of that process, in ticks: pids are used again
	Boot    string     `json:"boot"`    // of the host
	Address netip.Addr `json:"address"`
	CPUs    float64    `json:"cpus"`
	Cores   []int      `json:"cores"`
	Mounts  []string   `json:"mounts,omitempty"` // targets of the shares it was made with
}

func machinesDir(cfg Config) string          { return filepath.Join(cfg.StateDir, "machines") }
func machineDir(cfg Config, n string) string { return filepath.Join(machinesDir(cfg), n) }
func disksDir(cfg Config) string             { return filepath.Join(cfg.StateDir, "disks") }
func runcRoot(cfg Config) string             { return filepath.Join(cfg.StateDir, "runc") }

// fifo exists from the container's creation until its init is let go.
func fifo(cfg Config, name string) string { return filepath.Join(runcRoot(cfg), name, "exec.fifo") }

func (r record) save(cfg Config) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	file := filepath.Join(machineDir(cfg, r.Name), "record.json")
	if err := os.WriteFile(file+".new", data, 0o600); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// load reads a machine's record; ok is false for one half made.
func load(cfg Config, name string) (r record, ok bool, err error) {
	data, err := os.ReadFile(filepath.Join(machineDir(cfg, name), "record.json"))
	if errors.Is(err, os.ErrNotExist) {
		return record{}, false, nil
	}
	if err != nil {
		return record{}, false, fmt.Errorf("read record of machine %s: %w", name, err)
	}
	// A record that is not whole or another's is as good as none.
	if json.Unmarshal(data, &r) != nil || r.Name != name {
		return record{}, false, nil
	}
	return r, true, nil
}

func (p *Provider) records() ([]record, error) {
	names, err := subdirectories(machinesDir(p.cfg))
	if err != nil {
		return nil, err
	}
	var out []record
	for _, name := range names {
		r, ok, err := load(p.cfg, name)
		if err != nil {
			return nil, err
		}
		if ok {
			out = append(out, r)
		}
	}
	return out, nil
}

// state says whether the machine's init lives and was let go, and if not, why.
func (r record) state(cfg Config) (running bool, detail string) {
	if r.Boot != bootID() {
		return false, "the host was restarted"
	}
	if started, alive := startTime(r.PID); !alive || started != r.Started {
		return false, "init exited"
	}
	if _, err := os.Lstat(fifo(cfg, r.Name)); err == nil {
		return false, "created, never started"
	}
	return true, ""
}

func (r record) running(cfg Config) bool {
	running, _ := r.state(cfg)
	return running
}

func (r record) handle() provider.Handle { return provider.Handle{Address: r.Address} }

// startTime returns when the process started, in ticks since boot; alive is false for none and for a zombie.
func startTime(pid int) (ticks uint64, alive bool) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, false
	}
	// The command, in parentheses, may itself hold spaces and parentheses.
	fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	const state, start = 0, 19
	if len(fields) <= start || fields[state] == "Z" || fields[state] == "X" {
		return 0, false
	}
	ticks, err = strconv.ParseUint(fields[start], 10, 64)
	return ticks, err == nil
}

var bootID = sync.OnceValue(func() string {
	data, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(data))
})

// subdirectories returns the names of dir's directories; none if dir is missing.
func subdirectories(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}
