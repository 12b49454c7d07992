package provider

import (
	"path"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/dspool/dspool"
)

// A machine's name is its pool's and a number, and also its host name.
var machineName = regexp.MustCompile(`^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$`)

// CheckMachineName refuses a name that cannot be a host name and a path element.
func CheckMachineName(name string) error {
	if machineName.MatchString(name) {
		return nil
	}
	return dspool.Errorf(dspool.Invalid, "machine name %s is not allowed", dspool.Quote(name)).
		WithHint("use 1 to 63 of a-z, 0-9 and inner \"-\", beginning with a letter")
}

// noMounts are trees of a machine that no share may cover: they are the machine's own.
var noMounts = []string{"/proc", "/sys", "/dev", "/run", "/etc", "/usr", "/bin", "/sbin", "/lib", "/lib64"}

// Check refuses, with a sentence, a machine that no provider could make. Whether the
// image and the shares exist is for the provider.
func (s MachineSpec) Check() error {
	if err := CheckMachineName(s.Name); err != nil {
		return err
	}
	if err := dspool.CheckCPUs(s.Resources.CPUs); err != nil {
		return err
	}
	if err := dspool.CheckMemory(s.Resources.Memory); err != nil {
		return err
	}
	if s.Resources.GPUs < 0 || s.Disk < 0 {
		return dspool.Errorf(dspool.Invalid, "machine %s has a negative number of gpus or bytes of disk", s.Name)
	}
	if u := s.UIDs; u != (dspool.UIDRange{}) && (u.First < 1000 || u.Last < u.First || u.Last >= 1<<30) {
		return dspool.Errorf(dspool.Invalid, "user ids %d to %d are not possible", u.First, u.Last).
			WithHint("the range begins at 1000 or above, so that no user is a user of the host's own, and ends below %d", 1<<30)
	}
	seen := map[string]bool{}
	for _, m := range s.Mounts {
		if err := m.Check(); err != nil {
			return err
		}
		if seen[m.Target] {
			return dspool.Errorf(dspool.Invalid, "two shares are mounted at %s", dspool.Quote(m.Target))
		}
		seen[m.Target] = true
	}
	return nil
}

// Check refuses, with a sentence, a mount that no machine can have.
func (m Mount) Check() error {
	for _, p := range []string{m.Source, m.Target} {
		if !path.IsAbs(p) || path.Clean(p) != p || p == "/" || strings.ContainsAny(p, "\x00\n") {
			return dspool.Errorf(dspool.Invalid, "mount of %s at %s is not possible", dspool.Quote(m.Source), dspool.Quote(m.Target)).
				WithHint("both are absolute paths below /, without \"..\" and doubled or trailing \"/\"")
		}
	}
	for _, folder := range append([]string{m.Sub}, m.Cover...) {
		if folder != "" && (!filepath.IsLocal(folder) || path.Clean(folder) != folder || folder == "." || strings.ContainsAny(folder, "\x00\n")) {
			return dspool.Errorf(dspool.Invalid, "folder %s of %s cannot be mounted or covered", dspool.Quote(folder), dspool.Quote(m.Source)).
				WithHint("it is a relative path that stays below the source")
		}
	}
	for _, dir := range noMounts {
		if m.Target == dir || strings.HasPrefix(m.Target, dir+"/") {
			return dspool.Errorf(dspool.Invalid, "nothing can be mounted at %s: %s is the machine's own", dspool.Quote(m.Target), dir).
				WithHint("for example below /mnt or /home")
		}
	}
	return nil
}
