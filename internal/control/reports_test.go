package control

import (
	"testing"
	"time"
)

// A task's beginning and end come in two reports, which are on their way for different times.
func TestTheWayOfAReportIsNoPartOfATask(t *testing.T) {
	t.Parallel()
	begun := time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC)
	ended := begun.Add(20 * time.Millisecond)
	for name, off := range map[string]time.Duration{"clocks that agree": 0, "half a second apart": -500 * time.Millisecond} {
		first := onClock(begun.Add(off+300*time.Millisecond), begun.Add(time.Millisecond), &begun)
		last := onClock(ended.Add(off+2*time.Millisecond), ended.Add(time.Millisecond), &ended)
		if took := last.Sub(*first); took != 20*time.Millisecond {
			t.Errorf("%s: it took %s", name, took)
		}
	}
	ahead := begun.Add(time.Hour) // by a clock that is an hour ahead
	if at := onClock(begun.Add(time.Second), ahead.Add(time.Second), &ahead); !at.Equal(begun) {
		t.Errorf("it began at %s", at)
	}
	if onClock(begun, ended, nil) != nil {
		t.Error("nothing is something")
	}
}
