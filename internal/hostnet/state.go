package hostnet

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

// record is what is remembered of a machine from its first Plug to its Unplug.
type record struct {
	Address    netip.Addr `json:"address"`
	Internet   bool       `json:"internet"`
	PublicOnly bool       `json:"public_only,omitempty"`
	MTU        int        `json:"mtu,omitempty"` // of both its ends; 0 in records of earlier versions
}

// state is the folder that outlives the server:
//
//	subnet           "10.80.16.0/20"
//	machines/NAME    record as JSON
//	pairs/A+B        empty; A sorts before B
//
// One small file per fact keeps a write independent of the number of machines.
type state struct{ dir string }

func openState(dir string) (state, error) {
	s := state{dir}
	for _, d := range []string{s.machines(), s.pairs()} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return s, fmt.Errorf("make network state: %w", err)
		}
	}
	return s, nil
}

func (s state) machines() string { return filepath.Join(s.dir, "machines") }
func (s state) pairs() string    { return filepath.Join(s.dir, "pairs") }
func (s state) subnet() string   { return filepath.Join(s.dir, "subnet") }

// readSubnet returns the zero prefix when none is remembered.
func (s state) readSubnet() (netip.Prefix, error) {
	b, err := os.ReadFile(s.subnet())
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(b) == 0 {
		return netip.Prefix{}, nil
	}
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("read subnet: %w", err)
	}
	p, err := netip.ParsePrefix(strings.TrimSpace(string(b)))
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("read subnet from %s: %w", s.subnet(), err)
	}
	return p, nil
}

func (s state) writeSubnet(p netip.Prefix) error {
	return write(s.subnet(), []byte(p.String()+"\n"), true)
}

func (s state) writeMachine(name string, r record) error {
	b, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("remember machine %s: %w", name, err)
	}
	return write(filepath.Join(s.machines(), name), b, false)
}

func (s state) removeMachine(name string) error {
	return gone(os.Remove(filepath.Join(s.machines(), name)))
}

// readMachines leaves out what a crash of the host tore (writeMachine does not
// sync): after such a crash no machine lives that could need its address.
func (s state) readMachines(within netip.Prefix) (map[string]record, error) {
	entries, err := os.ReadDir(s.machines())
	if err != nil {
		return nil, fmt.Errorf("read network state: %w", err)
	}
	out := map[string]record{}
	for _, e := range entries {
		name := e.Name()
		if checkMachine(name) != nil { // a temporary file
			continue
		}
		b, err := os.ReadFile(filepath.Join(s.machines(), name))
		if err != nil {
			return nil, fmt.Errorf("read network state: %w", err)
		}
		var r record
		if json.Unmarshal(b, &r) != nil || !r.Address.Is4() || !within.Contains(r.Address) {
			if err := s.removeMachine(name); err != nil {
				return nil, fmt.Errorf("forget machine %s: %w", name, err)
			}
			continue
		}
		out[name] = r
	}
	return out, nil
}

// pair is two machine names, the lesser first.
type pair struct{ a, b string }

func pairOf(a, b string) pair {
	if b < a {
		a, b = b, a
	}
	return pair{a, b}
}

func (s state) writePair(p pair) error {
	f, err := os.OpenFile(filepath.Join(s.pairs(), p.a+"+"+p.b), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("remember pair: %w", err)
	}
	return f.Close()
}

func (s state) removePair(p pair) error {
	return gone(os.Remove(filepath.Join(s.pairs(), p.a+"+"+p.b)))
}

func (s state) readPairs() ([]pair, error) {
	entries, err := os.ReadDir(s.pairs())
	if err != nil {
		return nil, fmt.Errorf("read network state: %w", err)
	}
	var out []pair
	for _, e := range entries {
		if a, b, ok := strings.Cut(e.Name(), "+"); ok {
			out = append(out, pair{a, b})
		}
	}
	return out, nil
}

// remove forgets everything.
func (s state) remove() error {
	return errors.Join(os.RemoveAll(s.machines()), os.RemoveAll(s.pairs()), gone(os.Remove(s.subnet())))
}

func gone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// write replaces a file in one step; sync makes it outlive a power failure.
func write(path string, b []byte, sync bool) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("write network state: %w", err)
		}
	}()
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	if _, err = f.Write(b); err == nil && sync {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
