package control

import (
	"regexp"
	"strings"

	"github.com/dspool/dspool/internal/auth"
)

// The planner's reasons name jobs as "job 7 of ada".
var namedJob = regexp.MustCompile(`job \d+ of [a-z][a-z0-9-]*`)

// discreet takes other people's jobs out of a reason that everybody sees, such as why a machine
// was made.
func discreet(who auth.Subject, reason string) string {
	if who.Admin || !strings.Contains(reason, "job ") {
		return reason
	}
	return namedJob.ReplaceAllStringFunc(reason, func(s string) string {
		if strings.HasSuffix(s, " of "+who.User) {
			return s
		}
		return "another user's job"
	})
}
