package browser_test

import (
	"slices"
	"strings"
	"testing"
)

// TestFromZero is the way of somebody who comes for the first time, to a pool without a machine for people.
func TestFromZero(t *testing.T) {
	p := visitor(t, "ada")
	p.open("http://" + pool.web)
	p.until("the portal's form", `location.href.startsWith(`+quote(pool.portal+"/login")+`) && document.readyState == "complete"`)
	p.shot("login", desk)
	p.shot("login-phone", phone)

	p.logIn("ada")
	p.at(pool.hub + "/hub/spawn-pending/ada")
	// What the progress page shows is gone when the notebook comes: it is kept as it appears.
	var steps []string
	p.until("steps of the start", `document.querySelectorAll(".progress-log-event, #progress-log div").length > 1`)
	p.shot("hub-progress", desk)
	for {
		now, err := eval[[]string](p.tab, `[...document.querySelectorAll("#progress-log div.progress-log-event")].map(e => e.innerText)`)
		if err == nil && len(now) > len(steps) {
			steps = now
		}
		where, err := eval[string](p.tab, `location.href`)
		if err == nil && !strings.Contains(where, "/spawn-pending/") {
			break
		}
	}
	p.labHere("ada")
	t.Logf("steps: %q", steps)
	if slices.ContainsFunc(steps, func(s string) bool { return strings.Contains(s, "ailed") }) {
		t.Errorf("the start says that something failed: %q", steps)
	}
	p.notebook()
	p.cell("print('six times seven is', 6 * 7)")
	p.outputs("six times seven is 42")
	p.shot("jupyterlab", desk)
}
