package control

import (
	"regexp"
	"strings"

	"github.com/dspool/dspool/internal/auth"
)

// named are the ways in which the planner's reasons name people; the name is the first group.
var named = []struct {
	pattern *regexp.Regexp
	instead string
}{
	{regexp.MustCompile(`job \d+ of ([a-z][a-z0-9-]*)`), "another user's job"},
	{regexp.MustCompile(`kept for ([a-z][a-z0-9-]*), who`), "kept for somebody, who"},
	{regexp.MustCompile(`([a-z][a-z0-9-]*)( waits| and \d+ others? wait) to log in`), "somebody$2 to log in"},
}

// discreet takes other people and their jobs out of a reason that everybody sees, such as why a
// machine was made.
func discreet(who auth.Subject, reason string) string {
	if who.Admin || !strings.Contains(reason, "job ") && !strings.Contains(reason, " to log in") {
		return reason
	}
	for _, n := range named {
		reason = n.pattern.ReplaceAllStringFunc(reason, func(s string) string {
			// "who" is the end of what the pattern before this one has dealt with.
			if name := n.pattern.FindStringSubmatch(s)[1]; name == "who" || who.User != "" && name == who.User {
				return s
			}
			return n.pattern.ReplaceAllString(s, n.instead)
		})
	}
	return reason
}
