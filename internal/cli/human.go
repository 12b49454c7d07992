package cli

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/dspool/dspool"
)

// Colours, for terminals only.
const (
	reset  = "\x1b[0m"
	dim    = "\x1b[2m"
	red    = "\x1b[31m"
	green  = "\x1b[32m"
	yellow = "\x1b[33m"
	cyan   = "\x1b[36m"
)

// paintState colours any noun's state.
func paintState(s string) string {
	switch s {
	case "succeeded", "ready", "healthy", "open":
		return green
	case "failed", "lost", "unhealthy":
		return red
	case "running", "building", "assigned":
		return cyan
	case "queued", "pending", "creating", "starting", "destroying", "missing", "waiting", "placed", "closing", "stopping":
		return yellow
	case "cancelled", "gone", "closed", "ended":
		return dim
	}
	return ""
}

// clean makes text from elsewhere harmless to a terminal: control and direction characters
// become escapes.
func clean(s string) string {
	bad := func(r rune) bool {
		return unicode.IsControl(r) || r == utf8.RuneError || r >= 0x200b && r <= 0x200f || r >= 0x2028 && r <= 0x202e || r >= 0x2066 && r <= 0x2069
	}
	if strings.IndexFunc(s, bad) < 0 {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if bad(r) {
			q := strconv.QuoteRuneToASCII(r)
			b.WriteString(q[1 : len(q)-1])
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
}

// cut shortens text to n characters.
func cut(s string, n int) string {
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	return string([]rune(s)[:n-1]) + "…"
}

// ago says how long before now t was.
func (a *app) ago(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	if d := a.Now().Sub(t); d >= 0 {
		return short(d) + " ago"
	}
	// Rounded, so that what was just given a day does not have 23 hours left.
	return "in " + short(t.Sub(a.Now()).Round(time.Minute))
}

func (a *app) agoPtr(t *time.Time) string {
	if t == nil {
		return ""
	}
	return a.ago(*t)
}

// short is a duration in its largest unit.
func short(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

// took is how long something ran, in two units.
func took(from, to *time.Time, now time.Time) string {
	if from == nil {
		return ""
	}
	if to == nil {
		to = &now
	}
	d := to.Sub(*from)
	switch {
	case d < 0:
		return ""
	case d < time.Minute:
		return fmt.Sprintf("%.1fs", d.Seconds())
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	}
	return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
}

// raw times are RFC 3339 in UTC.
func rawTime(t *time.Time) string {
	if t == nil || t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// fullTime is a moment with how long ago it was.
func (a *app) fullTime(t *time.Time) string {
	if t == nil || t.IsZero() {
		return ""
	}
	return fmt.Sprintf("%s (%s)", t.Local().Format("2006-01-02 15:04:05"), a.ago(*t))
}

func plural(n int64, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// hours of seconds, for bills.
func hours(seconds float64) string { return strconv.FormatFloat(seconds/3600, 'f', 2, 64) }

func rawFloat(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }

// money keeps small prices visible: at least cents, at most four places.
func money(f float64) string {
	s := strconv.FormatFloat(f, 'f', 2, 64)
	if f != 0 && f < 0.1 && f > -0.1 {
		if long := strings.TrimRight(strconv.FormatFloat(f, 'f', 4, 64), "0"); len(long) > len(s) {
			return long
		}
	}
	return s
}

// spent is money below each other: small sums stay visible, and what is not free is not 0.00.
func spent(f float64) string {
	switch {
	case f == 0 || f >= 0.1:
		return strconv.FormatFloat(f, 'f', 2, 64) + "  "
	case f < 0.00005:
		return "<0.0001"
	}
	return strconv.FormatFloat(f, 'f', 4, 64)
}

// shellLine prints a command so that a shell would read it back.
func shellLine(args []string) string {
	var out []string
	for _, arg := range args {
		if arg != "" && strings.Trim(arg, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=/.,:@%^") == "" {
			out = append(out, arg)
			continue
		}
		out = append(out, "'"+strings.ReplaceAll(arg, "'", `'\''`)+"'")
	}
	return clean(strings.Join(out, " "))
}

// counts says a job's tasks by state.
func counts(c dspool.Counts) string {
	var parts []string
	for _, p := range []struct {
		n    int64
		word string
	}{{c.Pending, "waiting"}, {c.Assigned, "placed"}, {c.Running, "running"}, {c.Succeeded, "succeeded"}, {c.Failed, "failed"}, {c.Cancelled, "cancelled"}, {c.Lost, "lost"}} {
		if p.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", p.n, p.word))
		}
	}
	if c.Total > 1 {
		return fmt.Sprintf("%d: %s", c.Total, strings.Join(parts, ", "))
	}
	return strings.Join(parts, ", ")
}

// colon puts what follows behind a colon, if there is any.
func colon(head, tail string) string {
	if tail == "" {
		return head
	}
	return head + ": " + tail
}
