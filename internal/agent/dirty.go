package agent

import (
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
)

// tell notes that the server must hear of a.
func (t *table) tell(a *attempt) {
	if a.report.State == "" {
		return // it is starting: there is nothing to say yet
	}
	a.version++
	if !a.dirty {
		a.dirty = true
		t.dirty = append(t.dirty, a)
	}
	signal(t.wake)
	if a.report.State != dspool.TaskRunning {
		signal(t.hurry)
	}
}

func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// said is what one report says of an attempt or of a session, and which version of it.
type said struct {
	attempt *attempt // one of
	seat    *seat    // the two
	version int64
	report  api.AttemptReport
	begun   time.Time // of the attempt; zero: it did not
	over    time.Time
	session api.SessionReport
}

// dated is the report with its times on the clock of now, which may have been set since they were.
func (s said) dated(now time.Time) api.AttemptReport {
	r := s.report
	on := func(t time.Time) *dspool.Time {
		if t.IsZero() {
			return nil
		}
		t = now.Add(t.Sub(now)).UTC() // what lies between them nobody sets
		return &t
	}
	r.Started, r.Ended = on(s.begun), on(s.over)
	return r
}

// batch returns up to n attempts that the server must hear of now, and when there will be
// more of those that it refused; zero if never. They stay dirty until heard.
func (t *table) batch(n int, now time.Time) (out []said, next time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, a := range t.dirty {
		if a.notBefore.After(now) {
			if next.IsZero() || a.notBefore.Before(next) {
				next = a.notBefore
			}
			continue
		}
		if len(out) == n {
			signal(t.wake)
			signal(t.hurry)
			break
		}
		out = append(out, said{attempt: a, version: a.version, report: a.report, begun: a.begun, over: a.over})
	}
	return out, next
}

// heard notes that the server has durably what was said, and returns the attempts that are
// settled by it.
func (t *table) heard(batch []said) (settled []int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	clean := false
	for _, s := range batch {
		a := s.attempt
		if a == nil || a.version != s.version {
			continue
		}
		a.dirty, clean = false, true
		if a.stage == ended && t.attempts[a.id] == a {
			delete(t.attempts, a.id)
			t.settled.add(a.id)
			settled = append(settled, a.id)
		}
	}
	if clean {
		kept := t.dirty[:0]
		for _, a := range t.dirty {
			if a.dirty {
				kept = append(kept, a)
			}
		}
		clear(t.dirty[len(kept):])
		t.dirty = kept
	}
	return settled
}

// refused puts off what the server does not take.
func (t *table) refused(s said, until time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s.attempt != nil {
		s.attempt.notBefore = until
	}
}
