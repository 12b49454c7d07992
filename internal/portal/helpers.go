package portal

import (
	"fmt"
	"html/template"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// helpers are the functions of templates.
var helpers = template.FuncMap{
	"asset":      assetURL,
	"sentence":   sentence,
	"stateClass": stateClass,
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
