package gateway_test

import (
	"testing"

	"github.com/dspool/dspool/api"
)

func TestNothingPreparedSurvivesAChangeOfRights(t *testing.T) {
	w := newWorld(t)
	as := func(rights string) {
		w.server.change(func() {
			w.server.place = func(api.OpenSession, func(api.SessionStep)) api.SessionStep {
				m := w.machine.access()
				m.Rights = rights
				return api.SessionStep{Session: 1, Ready: m}
			}
		})
	}
	certified := func(what string, n int) {
		t.Helper()
		w.server.until(what, func() bool { return w.server.certified == n })
	}
	as("old")
	w.want(w.ssh("alice", "--", "true"), nil)
	w.eventually("a connection is prepared", func() bool { return w.machine.logins() == 1 })
	certified("the login and what it prepared", 2)

	// The server gives other rights before it says so: its answer alone counts.
	as("new")
	w.want(w.ssh("alice", "--", "true"), nil)
	certified("a login of its own, and what it prepared", 4)
	w.eventually("both are prepared", func() bool { return w.machine.logins() == 2 })

	w.server.direct(func(d *api.GatewayDirectives) {
		d.Rights = []api.Rights{{Session: 1, Rights: "new"}, {Session: 2, Rights: "old"}}
	})
	w.eventually("what has the old rights is dropped", func() bool { return w.machine.logins() == 1 })
	w.want(w.ssh("alice", "--", "true"), nil)
	certified("the prepared one is used", 5)

	w.server.direct(func(d *api.GatewayDirectives) { d.Rights = []api.Rights{{Session: 1, Rights: "newer"}} })
	w.eventually("nothing is left", func() bool { return w.machine.logins() == 0 })
	// What an answer from before promises is not prepared any more.
	w.want(w.ssh("alice", "--", "true"), nil)
	certified("a login, and nothing beside it", 6)
	w.eventually("nothing is prepared", func() bool { return w.machine.logins() == 0 })
}
