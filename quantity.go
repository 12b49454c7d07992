package dspool

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Resources is an amount of a machine: what a size has, what a task asks for,
// what a claim holds.
type Resources struct {
	CPUs   float64 `json:"cpus" doc:"Cores, in steps of 0.001." example:"1"`
	Memory int64   `json:"memory" doc:"Bytes of memory." example:"2147483648"`
	GPUs   int     `json:"gpus,omitempty" doc:"Whole GPUs."`
}

// milli avoids sums of binary fractions: 0.1 ten times is 1.
func milli(cpus float64) int64 { return int64(math.Round(cpus * 1000)) }

// Add returns r plus o.
func (r Resources) Add(o Resources) Resources {
	return Resources{CPUs: float64(milli(r.CPUs)+milli(o.CPUs)) / 1000, Memory: r.Memory + o.Memory, GPUs: r.GPUs + o.GPUs}
}

// Sub returns r minus o; a part may become negative.
func (r Resources) Sub(o Resources) Resources {
	return Resources{CPUs: float64(milli(r.CPUs)-milli(o.CPUs)) / 1000, Memory: r.Memory - o.Memory, GPUs: r.GPUs - o.GPUs}
}

// Fits says whether r is at most room in every part.
func (r Resources) Fits(room Resources) bool {
	return milli(r.CPUs) <= milli(room.CPUs) && r.Memory <= room.Memory && r.GPUs <= room.GPUs
}

// Share returns the largest part of whole that r takes, from 0 to 1 (0 where whole has none).
func (r Resources) Share(whole Resources) float64 {
	s := 0.0
	if whole.CPUs > 0 {
		s = max(s, r.CPUs/whole.CPUs)
	}
	if whole.Memory > 0 {
		s = max(s, float64(r.Memory)/float64(whole.Memory))
	}
	if whole.GPUs > 0 {
		s = max(s, float64(r.GPUs)/float64(whole.GPUs))
	}
	return min(s, 1)
}

func (r Resources) String() string {
	s := FormatCPUs(r.CPUs) + " cpu"
	if r.Memory != 0 {
		s += ", " + FormatBytes(r.Memory)
	}
	if r.GPUs > 0 {
		s += fmt.Sprintf(", %d gpu", r.GPUs)
	}
	return s
}

// FormatCPUs prints cores without needless digits.
func FormatCPUs(c float64) string { return strconv.FormatFloat(c, 'f', -1, 64) }

// Limits of one machine that any provider could have; more is a typing error.
const (
	MaxCPUs   = 4096
	MaxMemory = 1 << 46 // 64 TiB
	MinMemory = 4 << 20 // less cannot start a process
)

// ParseCPUs reads a number of cores in steps of 0.001, more than 0 and at most MaxCPUs.
func ParseCPUs(s string) (float64, error) {
	c, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return 0, Errorf(Invalid, "%s is not a number of cpus", Quote(s)).WithHint("for example 1 or 0.5")
	}
	return c, CheckCPUs(c)
}

// CheckCPUs refuses a number of cores that no machine could have.
func CheckCPUs(c float64) error {
	if !(c >= 0.001 && c <= MaxCPUs) || math.Abs(c*1000-math.Round(c*1000)) > 1e-6 {
		return Errorf(Invalid, "%v cpus are not possible", c).WithHint("from 0.001 to %d in steps of 0.001", MaxCPUs)
	}
	return nil
}

// CheckMemory refuses an amount of memory that no machine could have.
func CheckMemory(n int64) error {
	if n < MinMemory || n > MaxMemory {
		return Errorf(Invalid, "%d bytes of memory are not possible", n).WithHint("from %s to %s", FormatBytes(MinMemory), FormatBytes(MaxMemory))
	}
	return nil
}

// ParseMemory is ParseBytes within the limits of CheckMemory.
func ParseMemory(s string) (int64, error) {
	n, err := ParseBytes(s)
	if err != nil {
		return 0, err
	}
	return n, CheckMemory(n)
}

var byteUnits = []struct {
	suffix string
	bytes  float64
}{
	{"kib", 1 << 10}, {"mib", 1 << 20}, {"gib", 1 << 30}, {"tib", 1 << 40},
	{"kb", 1e3}, {"mb", 1e6}, {"gb", 1e9}, {"tb", 1e12},
	{"k", 1 << 10}, {"m", 1 << 20}, {"g", 1 << 30}, {"t", 1 << 40},
	{"b", 1}, {"", 1},
}

// ParseBytes reads an amount such as "2GiB", "512M" (binary), "1.5GB" (decimal) or "1048576".
// It refuses what is negative, not finite or over 2^62.
func ParseBytes(s string) (int64, error) {
	bad := func() (int64, error) {
		return 0, Errorf(Invalid, "%s is not an amount of bytes", Quote(s)).WithHint("for example 2GiB, 512MiB or 1073741824")
	}
	l := strings.ToLower(strings.TrimSpace(s))
	for _, u := range byteUnits {
		num, ok := strings.CutSuffix(l, u.suffix)
		if !ok {
			continue
		}
		num = strings.TrimSpace(num)
		// Plain decimal digits only: no exponent, no hex, no "inf".
		if num == "" || strings.Trim(num, "0123456789.") != "" {
			return bad()
		}
		if u.bytes == 1 {
			n, err := strconv.ParseInt(num, 10, 64)
			if err != nil || n > 1<<62 {
				return bad()
			}
			return n, nil
		}
		f, err := strconv.ParseFloat(num, 64)
		if err != nil || f*u.bytes > 1<<62 {
			return bad()
		}
		return int64(f * u.bytes), nil
	}
	return bad()
}

// FormatBytes prints an amount in the largest binary unit that keeps it readable ("1.5 GiB").
func FormatBytes(n int64) string {
	f, unit := float64(n), "B"
	for _, u := range []string{"KiB", "MiB", "GiB", "TiB"} {
		if math.Abs(f) < 1024 {
			break
		}
		f, unit = f/1024, u
	}
	return strconv.FormatFloat(math.Round(f*10)/10, 'f', -1, 64) + " " + unit
}

// Duration is a time.Duration that reads and writes as "90s" in JSON and YAML.
type Duration time.Duration

// ParseDuration reads "90s", "2h30m", "1d" or "1d12h"; negative is refused.
func ParseDuration(s string) (Duration, error) {
	rest, days := strings.TrimSpace(s), time.Duration(0)
	if d, after, ok := strings.Cut(rest, "d"); ok {
		n, err := strconv.ParseUint(d, 10, 16)
		if err != nil || n > 36500 {
			return 0, badDuration(s)
		}
		days, rest = time.Duration(n)*24*time.Hour, after
		if rest == "" {
			return Duration(days), nil
		}
	}
	d, err := time.ParseDuration(rest)
	if err != nil || d < 0 || days+d < 0 {
		return 0, badDuration(s)
	}
	return Duration(days + d), nil
}

func badDuration(s string) error {
	return Errorf(Invalid, "%s is not a duration", Quote(s)).WithHint("for example 90s, 10m, 2h30m or 1d")
}

func (d Duration) String() string {
	t := time.Duration(d)
	s := t.String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}

// MarshalText writes the form that ParseDuration reads.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads what ParseDuration reads.
func (d *Duration) UnmarshalText(b []byte) (err error) {
	*d, err = ParseDuration(string(b))
	return err
}
