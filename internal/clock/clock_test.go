package clock_test

import (
	"testing"
	"time"

	"github.com/dspool/dspool/internal/clock"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func TestFollow(t *testing.T) {
	t.Parallel()
	const boot, h, s = "a", time.Hour, time.Second
	f := clock.Frame{Wall: noon, Lived: 100 * s, Boot: boot}
	for name, c := range map[string]struct {
		r    clock.Reading
		same bool
		step clock.Step
	}{
		"time passes":                       {clock.Reading{Wall: noon.Add(h), Lived: 100*s + h, Boot: boot}, true, clock.Step{}},
		"what reading costs is no jump":     {clock.Reading{Wall: noon.Add(h + 900*time.Millisecond), Lived: 100*s + h, Boot: boot}, true, clock.Step{}},
		"set ahead":                         {clock.Reading{Wall: noon.Add(2 * h), Lived: 100*s + h, Boot: boot}, false, clock.Step{By: h, Set: true}},
		"set back":                          {clock.Reading{Wall: noon.Add(-h), Lived: 100*s + h, Boot: boot}, false, clock.Step{By: -2 * h, Set: true}},
		"off for an hour":                   {clock.Reading{Wall: noon.Add(h), Lived: 60 * s, Boot: "b"}, false, clock.Step{By: h}},
		"without a battery":                 {clock.Reading{Wall: time.Unix(5, 0), Lived: 5 * s, Boot: "b"}, false, clock.Step{By: time.Unix(5, 0).Sub(noon), Set: true}},
		"of another process, boots unknown": {clock.Reading{Wall: noon.Add(h), Lived: 5 * s}, false, clock.Step{}},
		"the same, and the clock went back": {clock.Reading{Wall: noon.Add(-h), Lived: 5 * s}, false, clock.Step{By: -h, Set: true}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			next, step := f.Follow(c.r)
			if step != c.step {
				t.Errorf("the step is %+v, want %+v", step, c.step)
			}
			if c.same != (next == f) {
				t.Errorf("the frame is %+v", next)
			}
			if d := next.At(c.r).Sub(c.r.Wall); d.Abs() >= clock.Jump {
				t.Errorf("the time is %s off the clock", d)
			}
		})
	}
}

func TestClocksGoOn(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]clock.Clock{"host": clock.Host(), "process": clock.Process()} {
		a, b := c(), c()
		if b.Lived < a.Lived || a.Boot != b.Boot || a.Wall.IsZero() {
			t.Errorf("%s: %+v after %+v", name, b, a)
		}
	}
	// Another of this host is on the same scale, as that of the next server is.
	a, b := clock.Host()(), clock.Host()()
	if d := b.Lived - a.Lived; d < 0 || d > time.Minute || a.Boot == "" || a.Boot != b.Boot {
		t.Errorf("%+v after %+v", b, a)
	}
}
