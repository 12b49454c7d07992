package servertest_test

import (
	"strings"
	"testing"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/servertest"
)

func TestFromZeroToZero(t *testing.T) {
	t.Parallel()
	s := servertest.New(t, servertest.Options{})
	job := s.MustSubmit(dspool.JobSpec{Command: []string{"true"}, Array: "1-10"})
	job = s.MustEnd(job.ID)
	if job.State != dspool.JobSucceeded || job.Tasks.Succeeded != 10 {
		t.Fatalf("job ended %+v", job)
	}
	s.AtRest()
	gone, err := s.Machines(t.Context(), "batch", true)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range gone.Items {
		if m.State != dspool.Gone || !strings.Contains(m.Reason.Text, "idle") {
			t.Errorf("machine %s is %s because %q", m.Name, m.State, m.Reason)
		}
	}
	if n := len(s.Spawned(job.ID)); n != 10 {
		t.Errorf("%d tasks ran", n)
	}
}
