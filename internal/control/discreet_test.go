package control

import (
	"testing"

	"github.com/dspool/dspool/internal/auth"
)

func TestDiscreet(t *testing.T) {
	t.Parallel()
	ada, grace := auth.Subject{User: "ada"}, auth.Subject{User: "grace", Admin: true}
	for reason, want := range map[string]string{
		"job 7 of bob waits with 2 tasks of 1 cpu":                                              "another user's job waits with 2 tasks of 1 cpu",
		"job 7 of ada waits with 1 task of 1 cpu":                                               "job 7 of ada waits with 1 task of 1 cpu",
		"machine lab-1 is kept for bob, who waits to log in":                                    "machine lab-1 is kept for somebody, who waits to log in",
		"machine lab-1 is kept for ada, who waits to log in":                                    "machine lab-1 is kept for ada, who waits to log in",
		"bob waits to log in":                                                                   "somebody waits to log in",
		"ada waits to log in":                                                                   "ada waits to log in",
		"bob and 1 other wait to log in":                                                        "somebody and 1 other wait to log in",
		"bob-2 and 3 others wait to log in":                                                     "somebody and 3 others wait to log in",
		"machine lab-1 is reserved for job 9 of bob, which needs more room":                     "machine lab-1 is reserved for another user's job, which needs more room",
		"pool lab is at its max of 2 machines; waits for tasks on machine lab-1 to end":         "pool lab is at its max of 2 machines; waits for tasks on machine lab-1 to end",
		"machine lab-1 is unhealthy (bob waits to log in); machine lab-2 is kept for bob, who…": "machine lab-1 is unhealthy (somebody waits to log in); machine lab-2 is kept for somebody, who…",
	} {
		if got := discreet(ada, reason); got != want {
			t.Errorf("%q became %q", reason, got)
		}
		if got := discreet(ada, discreet(ada, reason)); got != want {
			t.Errorf("%q became %q the second time", reason, got)
		}
		if got := discreet(grace, reason); got != reason {
			t.Errorf("an administrator reads %q for %q", got, reason)
		}
	}
}
