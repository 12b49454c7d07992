package config

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
)

// Diff says what applying wanted changes, kind by kind in the order in which adding
// works: server, users, sizes, shares, images, pools, doors, retention, ssh, web and login, defaults. Nouns that wanted lacks are
// removed, except users, who only leave by a command. Both must have their paths
// filled (SetStateDir). A nil current is an installation with nothing; one without
// Server.Listen does not know how its server runs, and that part is not compared; nor are web and login
// of one without Web.Domain.
func Diff(current, wanted *Config) []api.Change {
	changes := []api.Change{}
	if current == nil {
		current = &Config{UIDs: wanted.UIDs, Retention: DefaultRetention}
	}
	if current.Server.Listen == "" {
		c := *current
		c.Server = wanted.Server
		current = &c
	}
	if d := details(serverPairs(current), serverPairs(wanted)); d != "" {
		changes = append(changes, api.Change{Action: "change", Kind: "server", Name: "server", Detail: d + " (from its next start)"})
	}
	changes = append(changes, diff("user", current.Users, wanted.Users, false, func(u User) (string, []pair) {
		return u.Name, []pair{{"admin", fmt.Sprint(u.Admin)}, {"keys", keyCount(u.Keys)}, {"groups", list(u.Groups)}, {"pool", u.DefaultPool}}
	})...)
	changes = append(changes, diff("size", current.Sizes, wanted.Sizes, true, sizePairs)...)
	changes = append(changes, diff("share", current.Shares, wanted.Shares, true, func(s dspool.Share) (string, []pair) {
		return s.Name, []pair{{"kind", s.Kind}, {"path", s.Path}, {"mount", s.Mount}}
	})...)
	changes = append(changes, diff("image", current.Images, wanted.Images, true, func(i dspool.Image) (string, []pair) {
		return i.Name, []pair{{"recipe", i.Recipe}}
	})...)
	changes = append(changes, diff("pool", current.Pools, wanted.Pools, true, poolPairs)...)
	changes = append(changes, diff("door", current.Doors, wanted.Doors, true, func(d dspool.Door) (string, []pair) {
		return d.Listen, []pair{{"protocol", string(d.Protocol)}, {"pool", d.Pool}}
	})...)
	if d := details(retentionPairs(current), retentionPairs(wanted)); d != "" {
		changes = append(changes, api.Change{Action: "change", Kind: "retention", Name: "retention", Detail: d})
	}
	if d := details(sshPairs(current), sshPairs(wanted)); d != "" {
		changes = append(changes, api.Change{Action: "change", Kind: "ssh", Name: "ssh", Detail: d})
	}
	if current.Web.Domain == "" {
		c := *current
		c.Web, c.Login = wanted.Web, wanted.Login
		current = &c
	}
	if d := details(webPairs(current), webPairs(wanted)); d != "" {
		changes = append(changes, api.Change{Action: "change", Kind: "web", Name: "web", Detail: d})
	}
	if d := details(loginPairs(current), loginPairs(wanted)); d != "" {
		changes = append(changes, api.Change{Action: "change", Kind: "login", Name: "login", Detail: d})
	}
	if d := details(defaultPairs(current), defaultPairs(wanted)); d != "" {
		changes = append(changes, api.Change{Action: "change", Kind: "defaults", Name: "defaults", Detail: d})
	}
	return changes
}

// pair is a key of a noun with its value as people read it.
type pair struct{ key, value string }

// diff compares two lists of one kind; describe gives a noun's name and its pairs,
// always the same keys in the same order.
func diff[T any](kind string, current, wanted []T, remove bool, describe func(T) (string, []pair)) []api.Change {
	var changes []api.Change
	old, kept := map[string][]pair{}, map[string]bool{}
	for _, t := range current {
		name, pairs := describe(t)
		old[name] = pairs
	}
	for _, t := range wanted {
		name, pairs := describe(t)
		kept[name] = true
		if before, there := old[name]; !there {
			changes = append(changes, api.Change{Action: "add", Kind: kind, Name: name, Detail: summary(pairs)})
		} else if d := details(before, pairs); d != "" {
			changes = append(changes, api.Change{Action: "change", Kind: kind, Name: name, Detail: d})
		}
	}
	for _, t := range current {
		if name, _ := describe(t); remove && !kept[name] {
			changes = append(changes, api.Change{Action: "remove", Kind: kind, Name: name})
		}
	}
	slices.SortStableFunc(changes, func(a, b api.Change) int { return strings.Compare(a.Name, b.Name) })
	return changes
}

func summary(pairs []pair) string {
	var parts []string
	for _, p := range pairs {
		if p.value != "" {
			parts = append(parts, p.key+": "+p.value)
		}
	}
	return strings.Join(parts, ", ")
}

func details(before, after []pair) string {
	var parts []string
	for i, p := range after {
		if b := before[i].value; b != p.value {
			parts = append(parts, fmt.Sprintf("%s: %s → %s", p.key, orNone(b), orNone(p.value)))
		}
	}
	return strings.Join(parts, ", ")
}

func orNone(s string) string {
	if s == "" {
		return "(none)"
	}
	return s
}

func list(words []string) string { return strings.Join(words, " ") }

func serverPairs(c *Config) []pair {
	s := c.Server
	subnet := ""
	if s.Subnet.IsValid() {
		subnet = s.Subnet.String()
	}
	return []pair{{"listen", s.Listen}, {"subnet", subnet}, {"images", s.Images}, {"certificate", s.Certificate},
		{"key", s.Key}, {"names", list(s.Names)}, {"uid_range", fmt.Sprintf("%d-%d", c.UIDs.First, c.UIDs.Last)}}
}

func defaultPairs(c *Config) []pair {
	return []pair{{"user", c.Defaults.User}, {"pool", c.Defaults.Pool}, {"jobs_share", c.Defaults.JobsShare}}
}

func sizePairs(s dspool.Size) (string, []pair) {
	return s.Name, []pair{{"cpus", dspool.FormatCPUs(s.CPUs)}, {"memory", bytesExact(s.Memory)}, {"disk", bytesExact(s.Disk)},
		{"gpus", fmt.Sprint(s.GPUs)}, {"price", fmt.Sprint(s.Price)}}
}

func poolPairs(p dspool.Pool) (string, []pair) {
	return p.Name, []pair{{"kind", string(p.Kind)}, {"runs", p.Runs}, {"image", p.Image}, {"sizes", list(p.Sizes)}, {"min", fmt.Sprint(p.Min)}, {"max", fmt.Sprint(p.Max)},
		{"spare", fmt.Sprint(p.Spare)}, {"shares", list(p.Shares)}, {"internet", fmt.Sprint(p.Internet)}, {"public_only", fmt.Sprint(p.PublicOnly)},
		{"idle_after", p.Policy.IdleAfter.String()}, {"start_timeout", p.Policy.StartTimeout.String()},
		{"sessions_per_machine", fmt.Sprint(p.Policy.SessionsPerMachine)}, {"session_idle", p.Policy.SessionIdle.String()},
		{"keep_most", p.Policy.KeepMost.String()}, {"sudo", fmt.Sprint(p.Policy.Sudo)}, {"record", fmt.Sprint(p.Policy.Record)}}
}

func sshPairs(c *Config) []pair {
	var prints []string
	for _, line := range c.SSH.UserAuthorities {
		prints = append(prints, fingerprint(line))
	}
	return []pair{{"user_authorities", list(prints)}}
}

// fingerprint names a public key as ssh-keygen -l does.
func fingerprint(line string) string {
	_, rest, _ := strings.Cut(line, " ")
	blob, _, _ := strings.Cut(rest, " ")
	key, err := base64.StdEncoding.DecodeString(blob)
	if err != nil {
		return line
	}
	sum := sha256.Sum256(key)
	return "SHA256:" + base64.RawStdEncoding.EncodeToString(sum[:])
}

func keyCount(keys []string) string {
	if len(keys) == 0 {
		return ""
	}
	return fmt.Sprint(len(keys))
}

// bytesExact is FormatBytes where that loses nothing, so that no two amounts look alike.
func bytesExact(n int64) string {
	s := dspool.FormatBytes(n)
	if back, err := dspool.ParseBytes(s); err != nil || back != n {
		return fmt.Sprintf("%d B", n)
	}
	return s
}
