package servertest_test

import (
	"testing"
	"time"

	"github.com/dspool/dspool/internal/auth"
	"github.com/dspool/dspool/internal/control"
	"github.com/dspool/dspool/internal/servertest"
)

const second = time.Second

var (
	admin   = auth.Subject{Admin: true}
	allJobs = control.JobQuery{Limit: 10_000}
)

// machineNames lists every machine there ever was.
func machineNames(t *testing.T, s *servertest.System) (names []string) {
	t.Helper()
	list, err := s.Machines(t.Context(), "", true)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range list.Items {
		names = append(names, m.Name)
	}
	return names
}
