package store

import (
	"time"

	"github.com/dspool/dspool"
)

// A day is one of UTC. What a bill's days were is folded into totals once they are over; the intervals that
// they were computed from may then be forgotten.
const day = 24 * time.Hour

// Day returns the beginning of the day of a time.
func Day(t time.Time) time.Time { return t.UTC().Truncate(day) }

// Fold says how far history is folded. Its times are beginnings of days; zero times are the beginning of time.
type Fold struct {
	Folded time.Time // there are totals of the days before
	Pruned time.Time // of the days before there may be totals only

	folding time.Time // totals of the days before are there, or are being written
	frame   int64     // when the latest began; see [frame]
}

// TotalKey is whose a total is, and what for.
type TotalKey struct {
	Kind       string
	Pool, Size string
	User       string
	UID        int
	Job        int64
	Session    int64
}

// TotalAmount is what was used, in millionths of seconds and of money, and how many tasks' claims began that
// day, and how many had begun before.
type TotalAmount struct {
	Machine, CPU, GiB, GPU, Cost int64
	Tasks, Carried               int64
}

// Total is what was used by one key.
type Total struct {
	TotalKey
	TotalAmount
}

// Folds returns how far history is folded.
func (tx *Tx) Folds() (f Fold, err error) {
	err = tx.scan(`SELECT folded, folding, pruned FROM installation`, nil, timeIn{&f.Folded}, timeIn{&f.folding}, timeIn{&f.Pruned})
	return f, wrap(err, "read how far history is folded")
}

// FirstDay returns the first day since the first machine was made; today, if there was none.
func (tx *Tx) FirstDay() (time.Time, error) {
	lived, found, err := one(tx, func(r row, n *int64) error { return r.Scan(n) },
		`SELECT CASE WHEN until IS NULL THEN created - ? ELSE until - (ended - created) END FROM machines WHERE id >= 0 ORDER BY id LIMIT 1`, tx.line.skew)
	if err != nil || !found {
		return Day(tx.now), wrap(err, "find the first machine")
	}
	frames, err := tx.frames()
	first := tx.now
	for _, f := range frames {
		if at := time.UnixMicro(max(f.began, lived) + f.skew); f.ended > lived && at.Before(first) {
			first = at
		}
	}
	return Day(first), wrap(err, "find the first machine's day")
}

// said is what the clock said at a moment of lived time.
func (tx *Tx) said(lived int64) (time.Time, error) {
	if lived >= tx.fold.frame {
		return time.UnixMicro(lived + tx.line.skew), nil
	}
	frames, err := tx.frames()
	at := time.UnixMicro(lived)
	for _, f := range frames {
		if f.began <= lived {
			at = time.UnixMicro(lived + f.skew)
		}
	}
	return at, err
}

// livedUntil is the moment of lived time until which the clock had always said less than a time.
func (tx *Tx) livedUntil(t time.Time) (int64, error) {
	frames, err := tx.frames()
	for _, f := range frames {
		if at := max(f.began, t.UnixMicro()-f.skew); at < f.ended {
			return at, err
		}
	}
	return t.UnixMicro() - tx.line.skew, err
}

// BeginFold begins, or begins again, with the next day that is not folded, if it was over at a time, and removes
// what is left of totals written for it before, at most so many rows at once: more says that there are others.
func (tx *Tx) BeginFold(over time.Time, most int) (from time.Time, more, ok bool, err error) {
	from = tx.fold.Folded
	if from.UnixMicro() == 0 {
		if from, err = tx.FirstDay(); err != nil {
			return from, false, false, err
		}
	}
	// A clock that was ahead has folded days that have not been.
	if today := Day(tx.now); from.After(today) {
		return from, false, false, tx.unfold(today)
	}
	if from.Add(day).After(over) {
		return from, false, false, nil
	}
	tx.fold.Folded, tx.fold.folding = from, from.Add(day)
	if _, err := tx.exec(`UPDATE installation SET folded = ?, folding = ?`, stored(from), stored(tx.fold.folding)); err != nil {
		return from, false, false, wrap(err, "begin to fold a day")
	}
	if _, err := tx.exec(`DELETE FROM usage_days WHERE day = ?`, stored(from)); err != nil {
		return from, false, false, wrap(err, "remove totals of a day")
	}
	n, err := tx.exec(`DELETE FROM usage_jobs WHERE day = ?1 AND job <= (SELECT max(job) FROM (SELECT job FROM usage_jobs WHERE day = ?1 ORDER BY job LIMIT ?2))`,
		stored(from), most)
	return from, n >= int64(most), true, wrap(err, "remove totals of a day's jobs")
}

// PutTotals writes totals of a day that [Tx.BeginFold] began with; Conflict if history has changed since,
// so that the day has to begin again.
func (tx *Tx) PutTotals(from time.Time, days, jobs []Total) error {
	if !tx.folds(from) {
		return errUnfolded
	}
	for _, t := range days {
		if _, err := tx.exec(`INSERT INTO usage_days (day, kind, pool, size, user_name, uid, machine, cpu, gib, gpu, cost, tasks, carried)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
			stored(from), t.Kind, t.Pool, t.Size, t.User, t.UID, t.Machine, t.CPU, t.GiB, t.GPU, t.Cost, t.Tasks, t.Carried); err != nil {
			return wrap(err, "write totals")
		}
	}
	for _, t := range jobs {
		if _, err := tx.exec(`INSERT INTO usage_jobs (day, job, session, kind, pool, size, user_name, uid, machine, cpu, gib, gpu, cost, tasks, carried)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
			stored(from), t.Job, t.Session, t.Kind, t.Pool, t.Size, t.User, t.UID, t.Machine, t.CPU, t.GiB, t.GPU, t.Cost, t.Tasks, t.Carried); err != nil {
			return wrap(err, "write totals of jobs")
		}
	}
	return nil
}

// EndFold makes the totals of a day count; Conflict as [Tx.PutTotals].
func (tx *Tx) EndFold(from time.Time) error {
	if !tx.folds(from) {
		return errUnfolded
	}
	tx.fold.Folded = tx.fold.folding
	_, err := tx.exec(`UPDATE installation SET folded = folding`)
	return wrap(err, "end folding a day")
}

var errUnfolded = dspool.Errorf(dspool.Conflict, "history has changed meanwhile")

func (tx *Tx) folds(from time.Time) bool {
	return tx.fold.Folded.Equal(from) && tx.fold.folding.Equal(from.Add(day))
}

// unfoldLived is unfold for a moment of lived time.
func (tx *Tx) unfoldLived(lived int64) error {
	at, err := tx.said(lived)
	if err != nil {
		return err
	}
	return tx.unfold(at)
}

// unfold takes totals back from the day of a time on, as an interval that lay before has changed, or what the clock said:
// an agent that was cut off may tell late what ended long ago. That day, and those after it, are folded again.
func (tx *Tx) unfold(at time.Time) error {
	if !at.Before(tx.fold.folding) {
		return nil
	}
	to := Day(at)
	if to.Before(tx.fold.Pruned) {
		to = tx.fold.Pruned
	}
	if to.After(tx.fold.Folded) {
		to = tx.fold.Folded
	}
	tx.fold.Folded, tx.fold.folding = to, to
	_, err := tx.exec(`UPDATE installation SET folded = ?1, folding = ?1`, to.UnixMicro())
	return wrap(err, "take totals back")
}

// unfoldNew is unfold for a row that begins; nil is not yet.
func (tx *Tx) unfoldNew(began *time.Time) error {
	if began == nil {
		return nil
	}
	return tx.unfoldLived(began.UnixMicro() - tx.line.skew)
}

// unfoldChanged is unfold for a row that is about to get new ends. The query reads its ends as they are, and its until.
func (tx *Tx) unfoldChanged(began, ended *time.Time, query string, args ...any) error {
	old := func(t *time.Time) bool { return t != nil && t.Before(tx.fold.folding) }
	if !old(began) && !old(ended) && tx.now.UnixMicro()-tx.line.skew >= tx.fold.frame+int64(day/time.Microsecond) {
		return nil // and no clock was set lately
	}
	var wasBegan, wasEnded *time.Time
	var until *int64
	if err := tx.scan(query, args, maybeIn{&wasBegan}, maybeIn{&wasEnded}, &until); err == errNoRow {
		return nil
	} else if err != nil {
		return err
	}
	skew := tx.line.skew // of the times there were
	if until != nil && wasEnded != nil {
		skew = wasEnded.UnixMicro() - *until
	}
	for _, c := range [][2]*time.Time{{began, wasBegan}, {ended, wasEnded}} {
		if c[0] == c[1] || c[0] != nil && c[1] != nil && c[0].UnixMicro() == c[1].UnixMicro() {
			continue
		}
		if err := tx.unfoldNew(c[0]); err != nil {
			return err
		}
		if c[1] != nil {
			if err := tx.unfoldLived(c[1].UnixMicro() - skew); err != nil {
				return err
			}
		}
	}
	return nil
}

const (
	daySums = `sum(machine), sum(cpu), sum(gib), sum(gpu), sum(cost), sum(tasks), sum(CASE WHEN day = ?1 THEN carried ELSE 0 END)`
	// The sums are made from few rows: those of a year are as many as its days, users and pools make.
	dayTotals = `SELECT kind, pool, size, user_name, uid, 0, 0, ` + daySums + ` FROM usage_days WHERE day >= ?1 AND day < ?2`
	byDayKey  = ` GROUP BY kind, pool, size, user_name, uid`
	jobTotals = `SELECT kind, pool, size, user_name, uid, job, session, machine, cpu, gib, gpu, cost, tasks, CASE WHEN day = ?1 THEN carried ELSE 0 END
		FROM usage_jobs WHERE day >= ?1 AND day < ?2`
)

func scanTotal(r row, t *Total) error {
	return r.Scan(&t.Kind, &t.Pool, &t.Size, &t.User, &t.UID, &t.Job, &t.Session, &t.Machine, &t.CPU, &t.GiB, &t.GPU, &t.Cost, &t.Tasks, &t.Carried)
}

// EachTotal calls fn with the totals of the folded days between from and to, of one user and of nobody or, if user
// is "", of all: by job and session if jobs is set, and then perhaps several of one key. Carried is what the first day was.
func (tx *Tx) EachTotal(from, to time.Time, user string, jobs bool, fn func(Total) error) error {
	own, args := ``, []any{from.UnixMicro(), to.UnixMicro()}
	if user != "" {
		own, args = ` AND user_name = ?3`, append(args, user)
	}
	query := dayTotals + own + byDayKey
	if jobs {
		query = jobTotals + own
	}
	var t Total
	each := func(r row) error {
		if err := scanTotal(r, &t); err != nil {
			return err
		}
		return fn(t)
	}
	err := tx.each(query, args, each)
	if err == nil && jobs && user == "" {
		err = tx.each(dayTotals+` AND kind = 'idle'`+byDayKey, args, each)
	}
	return wrap(err, "read totals")
}
