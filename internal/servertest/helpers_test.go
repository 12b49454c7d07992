package servertest_test

import (
	"encoding/json"
	"errors"
	"flag"
	"os"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/dspool/dspool/client"
	"github.com/dspool/dspool/internal/auth"
	"github.com/dspool/dspool/internal/control"
	"github.com/dspool/dspool/internal/servertest"
)

// Systems mostly wait, for timeouts and back-offs: more of them run at once than there are cores.
func TestMain(m *testing.M) {
	if err := flag.Set("test.parallel", strconv.Itoa(4*runtime.GOMAXPROCS(0))); err != nil { // -parallel goes before it
		panic(err)
	}
	os.Exit(m.Run())
}

const second = time.Second

var (
	admin     = auth.Subject{Admin: true}
	errBusy   = errors.New("device busy")
	jobFilter = client.JobFilter{}
	allJobs   = control.JobQuery{Limit: 10_000}
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

// errOf is the error of a call whose answer does not matter.
func errOf[T any](_ T, err error) error { return err }

func mustJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
