package portal

import (
	"fmt"
	"html/template"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/dspool/dspool"
)

// helpers are the functions of templates.
var helpers = template.FuncMap{
	"asset":      assetURL,
	"sentence":   sentence,
	"stateClass": stateClass,
	"bytes":      dspool.FormatBytes,
	"money":      func(f float64) string { return strconv.FormatFloat(f, 'f', 2, 64) },
	"price":      func(f float64) string { return strconv.FormatFloat(f, 'g', 3, 64) },
	"hours":      func(s float64) string { return strconv.FormatFloat(s/3600, 'f', 2, 64) },
	"percent": func(part, whole int64) int64 {
		if whole <= 0 {
			return 0
		}
		return 100 * part / whole
	},
	"join":   strings.Join,
	"ended":  func(c dspool.Counts) int64 { return c.Total - c.Pending - c.Active() },
	"script": script,
	"here": func(page string, of ...string) template.HTMLAttr {
		if slices.Contains(of, page) {
			return `aria-current="page"`
		}
		return ""
	},
}

// sentence makes an error's words one.
func sentence(s string) string {
	r, n := utf8.DecodeRuneInString(s)
	if n == 0 {
		return s
	}
	s = string(unicode.ToUpper(r)) + s[n:]
	if !strings.ContainsAny(s[len(s)-1:], ".!?") {
		s += "."
	}
	return s
}

// stateClass is how a state of anything looks: the word always stands beside the colour.
func stateClass(state any) string {
	switch s := stringOf(state); s {
	case "open", "ready", "running", "succeeded", "healthy":
		return "good"
	case "failed", "lost", "unhealthy":
		return "bad"
	case "waiting", "queued", "placed", "creating", "starting", "assigned", "pending", "closing", "destroying", "stopping":
		return "warn"
	}
	return ""
}

func stringOf(v any) string { return fmt.Sprint(v) }

// escapes are colours and cursor movements of terminals (ECMA-48).
var escapes = regexp.MustCompile(`\x1b\[[0-9;?]*[ -/]*[@-~]`)

func plainText(s string) string {
	return strings.ToValidUTF8(escapes.ReplaceAllString(s, ""), "\ufffd")
}

// script is a job's command as people wrote it.
func script(command []string) string {
	if len(command) == 3 && command[0] == "bash" && command[1] == "-c" {
		return clipped(command[2], 4096)
	}
	return clipped(strings.Join(command, " "), 4096)
}

// ago is a time in the largest unit that says enough.
func ago(d time.Duration) string {
	switch {
	case d < time.Minute:
		return "just now"
	case d < time.Hour:
		return fmt.Sprintf("%d min ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h ago", int(d.Hours()))
	}
	return fmt.Sprintf("%d days ago", int(d.Hours()/24))
}
