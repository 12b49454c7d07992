package store_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/clock/clocktest"
	"github.com/dspool/dspool/internal/store"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// year is how far a clock is off that nobody has set yet.
const year = 365 * 24 * time.Hour

func nowOf(t *testing.T, s *store.Store) (now time.Time) {
	t.Helper()
	if err := s.Read(t.Context(), func(tx *store.Tx) error { now = tx.Now(); return nil }); err != nil {
		t.Fatal(err)
	}
	return now
}

func TestTimeIsTheHostsClock(t *testing.T) {
	t.Parallel()
	hand := clocktest.Standing(noon.Add(123456789))
	path := filepath.Join(t.TempDir(), "state.db")
	s := open(t, path, store.WithClock(hand.Read))
	same := func() {
		t.Helper()
		for _, got := range []time.Time{nowOf(t, s), s.Now()} {
			if want := hand.Read().Wall.UTC().Truncate(time.Microsecond); got.Sub(want).Abs() > time.Microsecond {
				t.Errorf("it is %s, want %s", got, want)
			}
		}
	}
	same()
	for _, by := range []time.Duration{time.Hour, -time.Hour, -50 * year, 50 * year, year, -year} {
		hand.Set(by)
		same()
		hand.Pass(10 * time.Second)
		same()
	}
	// While the server was away.
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	hand.Set(-time.Hour)
	s = open(t, path, store.WithClock(hand.Read))
	same()
}

func TestLessThanAJumpIsNotFollowed(t *testing.T) {
	t.Parallel()
	hand := clocktest.Standing(noon)
	s := open(t, filepath.Join(t.TempDir(), "state.db"), store.WithClock(hand.Read))
	was := nowOf(t, s)
	hand.Set(-900 * time.Millisecond) // NTP that slews, or who was held up between two looks
	if now := nowOf(t, s); now.Before(was) {
		t.Errorf("%s came after %s", now, was)
	}
	hand.Set(-200 * time.Millisecond)
	if now, want := nowOf(t, s), noon.Add(-1100*time.Millisecond); !now.Equal(want) {
		t.Errorf("it is %s, want %s", now, want)
	}
}

// ages are how long things have lasted, in seconds.
func ages(t *testing.T, s *store.Store) map[string]int {
	t.Helper()
	out := map[string]int{}
	err := s.Read(t.Context(), func(tx *store.Tx) error {
		age := func(what string, at *time.Time) {
			if at != nil {
				out[what] = int(tx.Now().Sub(*at) / time.Second)
			}
		}
		m, err := tx.Machine("a-1")
		if err != nil {
			return err
		}
		age("machine", &m.Created)
		age("ready", m.ReadyAt)
		age("idle", m.IdleSince)
		age("seen", &m.Seen)
		age("retry", &m.RetryAt)
		age("drain", m.DrainBy)
		j, err := tx.Job(1)
		if err != nil {
			return err
		}
		age("job", &j.Created)
		age("job started", j.Started)
		as, err := tx.OpenAttempts("a-1")
		if err != nil {
			return err
		}
		for _, a := range as {
			age("assigned", &a.Assigned)
			age("started", a.Started)
			age("claim", a.Claims[0].Started)
		}
		se, err := tx.Session(1)
		if err != nil {
			return err
		}
		age("session", &se.Created)
		age("active", &se.LastActive)
		age("placed", se.Placed)
		age("opened", se.Opened)
		age("keep", se.KeepUntil)
		ap, err := tx.App(1)
		if err != nil {
			return err
		}
		age("app", &ap.Created)
		age("app since", &ap.Since)
		age("app started", ap.Started)
		conn, err := tx.Connection("c")
		if err != nil {
			return err
		}
		age("connection", &conn.Started)
		ops, err := tx.RunningOperations()
		for _, o := range ops {
			age("operation", &o.Created)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func begin(t *testing.T, s *store.Store) {
	t.Helper()
	err := s.Write(t.Context(), func(tx *store.Tx) error {
		now := tx.Now()
		soon := now.Add(time.Hour)
		m := store.MachineRow{Machine: dspool.Machine{Name: "a-1", Pool: "a", State: dspool.Ready, Price: 3600, ReadyAt: &now, DrainBy: &soon}, Seen: now, RetryAt: now}
		if err := tx.InsertMachine(m); err != nil {
			return err
		}
		if err := tx.InsertJob(&store.JobRow{Job: dspool.Job{State: dspool.JobRunning, Started: &now}}); err != nil {
			return err
		}
		_, err := tx.InsertAttempts([]store.AttemptRow{{Job: 1, User: "ann", State: dspool.TaskRunning, Started: &now, Claims: []store.ClaimRow{{Machine: "a-1", Started: &now}}}})
		if err != nil {
			return err
		}
		se := store.SessionRow{Session: dspool.Session{User: "ann", Pool: "a", Machine: "a-1", State: dspool.SessionOpen, LastActive: now, Placed: &now, Opened: &now, KeepUntil: &soon}}
		if err := tx.InsertSession(&se); err != nil {
			return err
		}
		if err := tx.InsertApp(&store.AppRow{App: dspool.App{Session: 1, Name: "x", User: "ann", State: dspool.AppRunning, Started: &now}}); err != nil {
			return err
		}
		if err := tx.AddConnection(dspool.Connection{ID: "c", Session: 1}); err != nil {
			return err
		}
		return tx.PutOperation(dspool.Operation{ID: "o", State: dspool.OperationRunning})
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestWhatLastsIsAsOldAsItLived(t *testing.T) {
	t.Parallel()
	hand := clocktest.Standing(noon)
	path := filepath.Join(t.TempDir(), "state.db")
	s := open(t, path, store.WithClock(hand.Read))
	begin(t, s)
	lived := 0
	check := func(when string) {
		t.Helper()
		hand.Pass(10 * time.Second)
		lived += 10
		for what, age := range ages(t, s) {
			want := lived
			if what == "keep" || what == "drain" {
				want -= 3600
			}
			if age != want {
				t.Errorf("%s, %s is %d s old, want %d", when, what, age, want)
			}
		}
	}
	check("at first")
	for _, by := range []time.Duration{time.Hour, -time.Hour, 2 * year, -2 * year, -56 * year} {
		hand.Set(by)
		check(fmt.Sprintf("set by %s", by))
	}
	hand.Set(56 * year)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	hand.Pass(90 * time.Second) // what lasts goes on without a server
	lived += 90
	s = open(t, path, store.WithClock(hand.Read))
	check("after a restart")
	leave := func() { // what is not on disk is not known to have been lived
		t.Helper()
		if err := s.Write(t.Context(), func(tx *store.Tx) error { return tx.SetSetting("a", tx.Now().String()) }); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	leave()
	hand.Boot(8*time.Hour, 30*time.Second)
	s = open(t, path, store.WithClock(hand.Read))
	check("after a night without power")
	leave()
	hand.Boot(-year, 30*time.Second)
	s = open(t, path, store.WithClock(hand.Read))
	check("with the clock a year behind")
	hand.Set(year + time.Minute)
	check("and set right")
}

// billed is the bill's time of the machine and of ann, in seconds.
func billed(t *testing.T, s *store.Store, from, to time.Time) (machine, job, session time.Duration) {
	t.Helper()
	err := s.Read(t.Context(), func(tx *store.Tx) error {
		ms, err := tx.MachineIntervals(from, to)
		if err != nil {
			return err
		}
		for _, m := range ms {
			machine += m.To.Sub(m.From)
		}
		cs, err := tx.ClaimIntervals(from, to)
		if err != nil {
			return err
		}
		for _, c := range cs {
			job += c.To.Sub(c.From)
		}
		ss, err := tx.SessionIntervals(from, to)
		for _, x := range ss {
			session += x.To.Sub(x.From)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return machine, job, session
}

func endAll(t *testing.T, s *store.Store) {
	t.Helper()
	err := s.Write(t.Context(), func(tx *store.Tx) error {
		now := tx.Now()
		as, err := tx.OpenAttempts("a-1")
		if err != nil {
			return err
		}
		for i := range as {
			as[i].State, as[i].Ended = dspool.TaskSucceeded, &now
		}
		if err := tx.UpdateAttempts(as); err != nil {
			return err
		}
		se, err := tx.Session(1)
		if err != nil {
			return err
		}
		se.State = dspool.SessionClosed
		if err := tx.UpdateSession(se); err != nil {
			return err
		}
		m, err := tx.Machine("a-1")
		if err != nil {
			return err
		}
		m.State, m.Ended = dspool.Gone, &now
		return tx.UpdateMachine(m)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestBillsAreOfLivedTime(t *testing.T) {
	t.Parallel()
	day := noon.Truncate(24 * time.Hour)
	check := func(t *testing.T, s *store.Store, from, to time.Time, want time.Duration) {
		t.Helper()
		if m, j, se := billed(t, s, from, to); (m-want).Abs() > time.Millisecond || (j-want).Abs() > time.Millisecond || (se-want).Abs() > time.Millisecond {
			t.Errorf("from %s to %s, machine, job and session are billed %s, %s and %s, want %s", from, to, m, j, se, want)
		}
	}
	for name, c := range map[string]struct {
		wrong, right time.Duration // how the clock is set twice
		ended        bool          // while it is wrong
	}{
		"ahead and back":               {time.Hour, -time.Hour, false},
		"ahead and back, over there":   {time.Hour, -time.Hour, true},
		"back and ahead":               {-time.Hour, time.Hour, false},
		"back and ahead, over there":   {-time.Hour, time.Hour, true},
		"a year, not quite back again": {year, -year + 20*time.Second, true},
		"1970":                         {-56 * year, 56 * year, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			hand := clocktest.Standing(noon)
			s := open(t, filepath.Join(t.TempDir(), "state.db"), store.WithClock(hand.Read))
			begin(t, s)
			hand.Pass(100 * time.Second)
			hand.Set(c.wrong)
			nowOf(t, s)
			hand.Pass(10 * time.Second)
			now := hand.Read().Wall
			check(t, s, time.Time{}, now, 110*time.Second)
			if c.ended {
				endAll(t, s)
				hand.Pass(time.Second) // in which nothing is billed
			}
			hand.Set(c.right)
			nowOf(t, s)
			want := 110 * time.Second
			hand.Pass(5 * time.Second)
			if !c.ended {
				endAll(t, s)
				want += 5 * time.Second
			}
			hand.Pass(time.Hour)
			check(t, s, time.Time{}, hand.Read().Wall, want)
			check(t, s, day, hand.Read().Wall, want) // today, whatever the clock said meanwhile
			check(t, s, day, day.Add(24*time.Hour), want)
			check(t, s, time.Time{}, day, 0)
			check(t, s, day.Add(24*time.Hour), noon.Add(10*year), 0)
			check(t, s, noon.Add(50*time.Second), noon.Add(time.Minute), 10*time.Second)
		})
	}
}

func TestAClockThatIsWrongAtBootIsBilledToTheRightDay(t *testing.T) {
	t.Parallel()
	day := noon.Truncate(24 * time.Hour)
	for name, wrong := range map[string]time.Duration{"a year ahead": year, "1970": -56 * year} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			hand := clocktest.Standing(noon)
			path := filepath.Join(t.TempDir(), "state.db")
			s := open(t, path, store.WithClock(hand.Read))
			begin(t, s)
			hand.Pass(100 * time.Second)
			nowOf(t, s)
			if err := s.Write(t.Context(), func(tx *store.Tx) error { return tx.SetSetting("a", "1") }); err != nil {
				t.Fatal(err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			hand.Boot(wrong+10*time.Minute, 20*time.Second)
			s = open(t, path, store.WithClock(hand.Read))
			endAll(t, s) // its machines are gone
			hand.Pass(10 * time.Second)
			hand.Set(-wrong)
			if m, j, se := billed(t, s, day, hand.Read().Wall); m > 101*time.Second || m < 100*time.Second || j != m || se != m {
				t.Errorf("machine, job and session are billed %s, %s and %s today", m, j, se)
			}
			if m, _, _ := billed(t, s, time.Time{}, day); m != 0 {
				t.Errorf("%s are billed before", m)
			}
		})
	}
}

func TestJumpsAreTold(t *testing.T) {
	t.Parallel()
	hand := clocktest.Standing(noon)
	path := filepath.Join(t.TempDir(), "state.db")
	s := open(t, path, store.WithClock(hand.Read))
	nowOf(t, s)
	hand.Set(time.Hour)
	nowOf(t, s)
	hand.Pass(10 * time.Second)
	hand.Set(-time.Hour)
	err := s.Read(t.Context(), func(tx *store.Tx) error {
		jumps, err := tx.ClockJumps(tx.Now().Add(-time.Hour), 5)
		if err != nil {
			return err
		}
		want := []store.ClockJump{{At: noon, By: time.Hour}, {At: noon.Add(10 * time.Second), By: -time.Hour}}
		if fmt.Sprint(jumps) != fmt.Sprint(want) {
			t.Errorf("jumps %v, want %v", jumps, want)
		}
		events, err := tx.Events(store.EventFilter{})
		for i, e := range events {
			if e.Kind != "clock.jumped" || !e.Time.Equal([]time.Time{noon.Add(time.Hour), noon.Add(10 * time.Second)}[i]) {
				t.Errorf("event %+v", e)
			}
		}
		if len(events) != 2 {
			t.Errorf("%d events", len(events))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Whatever the clock does, the bill of all time is what was lived, and it is also the sum of the bills of its
// parts.
func TestRandomJumpsChangeNoBill(t *testing.T) {
	t.Parallel()
	empty := filepath.Join(t.TempDir(), "state.db")
	if err := open(t, empty, store.WithClock(clocktest.Standing(noon).Read)).Close(); err != nil {
		t.Fatal(err)
	}
	state, err := os.ReadFile(empty)
	if err != nil {
		t.Fatal(err)
	}
	for seed := range uint64(24) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "state.db")
			if err := os.WriteFile(path, state, 0o600); err != nil {
				t.Fatal(err)
			}
			jumpAtRandom(t, path, rand.New(rand.NewPCG(seed, 0)))
		})
	}
}

func jumpAtRandom(t *testing.T, path string, r *rand.Rand) {
	upTo := func(d time.Duration) time.Duration { return time.Duration(r.Int64N(int64(d))).Truncate(time.Second) }
	hand := clocktest.Standing(noon)
	s := open(t, path, store.WithClock(hand.Read))
	again := func(how func()) {
		if err := s.Write(t.Context(), func(tx *store.Tx) error { return tx.SetSetting("a", tx.Now().String()) }); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		how()
		s = open(t, path, store.WithClock(hand.Read))
	}
	begin(t, s)
	var lived, last time.Duration // until the machine's end
	over := false
	live := func(d time.Duration) {
		if !over {
			lived += d
		}
	}
	for range 1 + r.IntN(8) {
		by := upTo(200*24*time.Hour) - 100*24*time.Hour
		switch what := r.IntN(5); {
		case what < 2:
			hand.Set(by)
		case what == 2:
			again(func() {})
		case what == 3:
			again(func() { hand.Boot(by, time.Minute) })
		case !over:
			endAll(t, s)
			over = true
		}
		pass := upTo(24 * time.Hour)
		nowOf(t, s)
		hand.Pass(pass)
		live(pass)
		all, job, session := billed(t, s, time.Time{}, hand.Read().Wall)
		for _, got := range []time.Duration{all, job, session} {
			if (got-lived).Abs() > time.Millisecond || got < last {
				t.Errorf("billed are %s after %s, lived %s", got, last, lived)
			}
		}
		last = all
		now := nowOf(t, s)
		cut := now.Add(-upTo(100 * 24 * time.Hour))
		before, _, _ := billed(t, s, time.Time{}, cut)
		after, _, _ := billed(t, s, cut, now)
		if before < 0 || after < 0 || before+after != all {
			t.Errorf("billed are %s before and %s after, %s altogether", before, after, all)
		}
	}
}

// A promise by the clock stays what it says, unless a clock that was ahead has made it.
func TestAWrongClockMakesNoLongPromises(t *testing.T) {
	t.Parallel()
	hand := clocktest.Standing(noon)
	s := open(t, filepath.Join(t.TempDir(), "state.db"), store.WithClock(hand.Read))
	err := s.Write(t.Context(), func(tx *store.Tx) error {
		_, err := tx.AddUser("ann", false, dspool.UIDRange{First: 20000, Last: 20009})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	add := func(id string) {
		t.Helper()
		err := s.Write(t.Context(), func(tx *store.Tx) error {
			hour := tx.Now().Add(time.Hour)
			return tx.AddToken(store.TokenRow{Token: dspool.Token{ID: id, User: "ann", Expires: &hour}}, id)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	add("right")
	hand.Set(year)
	add("wrong")
	hand.Pass(10 * time.Minute)
	if err := s.Write(t.Context(), func(tx *store.Tx) error { return tx.TouchToken("right", tx.Now()) }); err != nil {
		t.Fatal(err)
	}
	hand.Set(-year)
	err = s.Read(t.Context(), func(tx *store.Tx) error {
		list, err := tx.Tokens("ann")
		if err != nil {
			return err
		}
		for _, x := range list {
			if !x.Expires.Equal(noon.Add(time.Hour)) || !x.Created.Equal(noon) || x.Used != nil && x.Used.After(tx.Now()) {
				t.Errorf("token %s is of %s, was used %v and expires %s", x.ID, x.Created, x.Used, x.Expires)
			}
		}
		if len(list) != 2 || list[0].ID != "right" {
			t.Errorf("tokens %+v", list)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
