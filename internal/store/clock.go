package store

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/clock"
)

// line is the time of a transaction: a moment of the host's clock. What was lived since the installation
// was made is its micros less skew.
type line struct {
	frame clock.Frame
	skew  int64         // microseconds that the clock has gone ahead of what was lived
	lived time.Duration // of the frame's boot
	now   time.Time
}

// Now is what the host's clock says. A transaction has a time of its own.
func (s *Store) Now() time.Time {
	_, after, _ := s.follow()
	return after.now
}

// look reads the clocks. Where the clock was set, or the host was off, since the time that the state goes
// by, stepped says so, and the time returned is as if that had not been.
func (s *Store) look() (l line, stepped bool) {
	l, _, step := s.follow()
	return l, step != clock.Step{}
}

// follow is look, and also returns the time after the step.
func (s *Store) follow() (before, after line, step clock.Step) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.line
	r := s.clock()
	next, step := l.frame.Follow(r)
	if step.Set {
		// Who is held up between two clocks sees a jump too, but not twice.
		r = s.clock()
		next, step = l.frame.Follow(r)
	}
	next.Wall = next.Wall.UTC().Truncate(time.Microsecond)
	at := func(f clock.Frame, skew int64) line {
		return line{frame: f, skew: skew, lived: r.Lived, now: f.At(r).Truncate(time.Microsecond)}
	}
	if step.By/time.Microsecond == 0 { // the first frame, or one of another boot that goes on seamlessly
		s.line.frame = next
		l = at(next, l.skew)
		return l, l, clock.Step{}
	}
	after = at(next, l.skew+step.By.Microseconds())
	if l.frame.Boot == r.Boot {
		return at(l.frame, l.skew), after, step
	}
	before = after
	before.skew, before.now = l.skew, after.now.Add(-step.By)
	return before, after, step
}

// followNow moves what lasts with the clock, where that was set. Where the state cannot be written, the time
// before goes on.
func (s *Store) followNow(ctx context.Context) {
	if _, stepped := s.look(); stepped {
		_ = s.Write(ctx, func(*Tx) error { return nil })
	}
}

// keep goes on from the time of a transaction that is on disk.
func (s *Store) keep(l line) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.line.frame, s.line.skew = l.frame, l.skew
}

// follow gives the transaction its time. Where the clock was set since the one before, everything that
// lasts is moved with it first.
func (tx *Tx) follow() error {
	before, after, step := tx.store.follow()
	tx.line, tx.now = after, after.now
	if step == (clock.Step{}) {
		return nil
	}
	if err := tx.move(step.By.Microseconds()); err != nil {
		return wrap(err, "move what lasts with the clock")
	}
	if err := tx.beginFrame(before, step); err != nil {
		return wrap(err, "note what the clock says")
	}
	if !step.Set {
		return nil
	}
	return tx.AddEvent(dspool.Event{Actor: "server", Kind: "clock.jumped", Message: "the host's clock jumped " + clock.Far(step.By)})
}

// lasting are the rows that are not over, with the times of theirs that are compared with now. Promises by
// the clock are not among them: when a token or a certificate expires.
var lasting = []string{
	`machines SET created = created + ?1, ready_at = ready_at + ?1, claim_ended = claim_ended + ?1, seen = seen + ?1, sighted = sighted + ?1,
		retry_at = retry_at + ?1, drain_by = drain_by + ?1 WHERE ` + machineLive,
	`jobs SET created = created + ?1, started = started + ?1, task_ended = task_ended + ?1 WHERE ` + jobOpen,
	`attempts SET assigned = assigned + ?1, started = started + ?1 WHERE ended IS NULL`,
	`claims SET started = started + ?1 WHERE ended IS NULL`,
	`sessions SET created = created + ?1, last_active = last_active + ?1, keep_until = keep_until + ?1, placed = placed + ?1,
		opened = opened + ?1 WHERE ` + sessionOpen,
	`apps SET created = created + ?1, since = since + ?1, started = started + ?1 WHERE ` + appOpen,
	`connections SET started = started + ?1 WHERE ended IS NULL`,
}

// move moves what lasts.
func (tx *Tx) move(by int64) error {
	for _, rows := range lasting {
		if _, err := tx.exec(`UPDATE `+rows, by); err != nil {
			return err
		}
	}
	now := tx.now.UnixMicro()
	// What lies in the future now was promised by a clock that was wrong, and counts from when it was.
	if _, err := tx.exec(`UPDATE tokens SET created = created + ?1, expires = expires + ?1, used = used + ?1 WHERE created > ?2`, by, now); err != nil {
		return err
	}
	if _, err := tx.exec(`UPDATE tokens SET used = ?1 WHERE used > ?1`, now); err != nil {
		return err
	}
	running, err := tx.RunningOperations()
	if err != nil {
		return err
	}
	for _, o := range running {
		o.Created = o.Created.Add(time.Duration(by) * time.Microsecond)
		body, err := json.Marshal(o)
		if err != nil {
			return err
		}
		if _, err := tx.exec(`UPDATE operations SET created = ?, body = ? WHERE id = ?`, o.Created.UnixMicro(), string(body), o.ID); err != nil {
			return err
		}
	}
	return nil
}

// frame is a stretch of lived time in which nobody set the clock.
type frame struct {
	began, ended int64 // on the time that was lived
	skew         int64
}

func (tx *Tx) frames() ([]frame, error) {
	out, err := list(tx, func(r row, f *frame) error { return r.Scan(&f.began, &f.skew) }, `SELECT began, skew FROM frames ORDER BY began`)
	for i := range out {
		out[i].ended = tx.now.UnixMicro() - tx.line.skew
		if i+1 < len(out) {
			out[i].ended = out[i+1].began
		}
	}
	return out, err
}

// near is how exactly somebody who had set the clock wrong may set it right.
const near = int64(time.Minute / time.Microsecond)

// beginFrame begins a frame, and corrects what the clock is thought to have said before where it was wrong
// for certain: since a frame to which the clock has come back, in one that would only begin in the future, and in
// the last where it went back behind the one before and has left it since. Nothing is computed from that
// but which days a bill's seconds belong to.
func (tx *Tx) beginFrame(before line, step clock.Step) error {
	frames, err := tx.frames()
	if err != nil {
		return err
	}
	now, skew := tx.now.UnixMicro(), tx.line.skew
	wrong := len(frames)
	for i, f := range slices.Backward(frames) {
		if d := f.skew - skew; -near < d && d < near {
			wrong = i + 1
		}
	}
	if n := len(frames); n > 1 {
		was, last := frames[n-2], frames[n-1]
		if end := was.ended + was.skew; last.began+last.skew < end && end < now {
			wrong = min(wrong, n-1)
		}
	}
	for i, f := range frames {
		if i < wrong && f.began+f.skew <= now || f.skew == skew {
			continue
		}
		// Days of which it was said otherwise are folded anew.
		if err := tx.unfold(time.UnixMicro(f.began + min(f.skew, skew))); err != nil {
			return err
		}
		if _, err := tx.exec(`UPDATE frames SET skew = ? WHERE began = ?`, skew, f.began); err != nil {
			return err
		}
	}
	if err := tx.unfold(tx.now); err != nil { // these days go on
		return err
	}
	tx.fold.frame = before.now.UnixMicro() - before.skew
	var jump any
	if step.Set {
		jump = step.By.Microseconds()
	}
	_, err = tx.exec(`INSERT INTO frames (began, skew, jump) VALUES (?, ?, ?) ON CONFLICT (began) DO UPDATE SET skew = excluded.skew, jump = coalesce(excluded.jump, jump)`,
		before.now.UnixMicro()-before.skew, skew, jump)
	return err
}

// span is a stretch of lived time.
type span struct{ from, to int64 }

// spans are the lived time in which the clock said from to to; what it says now is its end.
func (tx *Tx) spans(from, to time.Time) ([]span, error) {
	if !from.Before(to) {
		return nil, nil
	}
	frames, err := tx.frames()
	if err != nil {
		return nil, err
	}
	var out []span
	for _, f := range frames {
		s := span{max(f.began, from.UnixMicro()-f.skew), f.ended}
		if to.Before(tx.now) {
			s.to = min(s.to, to.UnixMicro()-f.skew)
		}
		switch n := len(out); {
		case s.from >= s.to:
		case n > 0 && out[n-1].to == s.from:
			out[n-1].to = s.to
		default:
			out = append(out, s)
		}
	}
	return out, nil
}

// untilEnded writes down when a row ended on the time that was lived, when it ends: it takes the end
// by the clock and [Tx.until] of it.
const untilEnded = `until = CASE WHEN ended IS ? THEN until ELSE ? END`

// until is the end, on the time that was lived, of a row that ended now or shortly before; NULL for none.
func (tx *Tx) until(ended *time.Time) any {
	if ended == nil || ended.IsZero() {
		return nil
	}
	return ended.UnixMicro() - tx.line.skew
}

// ClockJump is that somebody set the clock.
type ClockJump struct {
	At time.Time // by the clock of now
	By time.Duration
}

// ClockJumps returns the latest jumps of the clock within what was lived since a time, oldest first.
func (tx *Tx) ClockJumps(since time.Time, most int) ([]ClockJump, error) {
	out, err := list(tx, func(r row, j *ClockJump) error {
		var at, by int64
		err := r.Scan(&at, &by)
		j.At, j.By = time.UnixMicro(at).UTC(), time.Duration(by)*time.Microsecond
		return err
	}, `SELECT began + ?1, jump FROM frames WHERE jump IS NOT NULL AND began + ?1 > ?2 ORDER BY began DESC LIMIT ?3`, tx.line.skew, since.UnixMicro(), most)
	slices.Reverse(out)
	return out, wrap(err, "list jumps of the clock")
}
