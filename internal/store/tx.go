package store

import (
	"context"
	"errors"
	"time"

	"github.com/dspool/dspool"
)

// Tx is a transaction. It belongs to the function it was given to.
type Tx struct {
	ctx   context.Context
	h     *handle
	store *Store
	write bool
	dirty bool // something changed
	// The first error after which the transaction can only be rolled back.
	doomed error
	now    time.Time
	line   line
	// The latest number given to each noun, written back at commit.
	last struct{ machine, job, attempt, event, revision, session, serial, app int64 }
	fold Fold
}

// Now returns the transaction's time: the same whenever it is asked, and what the host's clock says. It is
// before that of an earlier transaction only where the clock was set back, and then all that lasts was
// moved as far.
func (tx *Tx) Now() time.Time { return tx.now }

func (tx *Tx) begin() error {
	if !tx.write {
		if err := tx.control("BEGIN"); err != nil {
			return err
		}
		tx.line, _ = tx.store.look()
		tx.now = tx.line.now
		return nil
	}
	if err := tx.control("BEGIN IMMEDIATE"); err != nil {
		return err
	}
	l := &tx.last
	err := tx.scan(`SELECT machine, job, attempt, event, revision, session, serial, app, folded, folding, pruned, (SELECT max(began) FROM frames) FROM installation`, nil,
		&l.machine, &l.job, &l.attempt, &l.event, &l.revision, &l.session, &l.serial, &l.app,
		timeIn{&tx.fold.Folded}, timeIn{&tx.fold.folding}, timeIn{&tx.fold.Pruned}, &tx.fold.frame)
	if err != nil {
		return err
	}
	return tx.follow()
}

func (tx *Tx) commit() error {
	if tx.doomed != nil {
		return tx.doomed
	}
	if !tx.dirty {
		return tx.rollback()
	}
	l := tx.last
	if _, err := tx.exec(`UPDATE installation SET clock = ?, lived = ?, boot = ?, skew = ?,
			machine = ?, job = ?, attempt = ?, event = ?, revision = ?, session = ?, serial = ?, app = ?`,
		tx.now.UnixMicro(), tx.line.lived.Microseconds(), tx.line.frame.Boot, tx.line.skew, l.machine, l.job, l.attempt, l.event, l.revision, l.session, l.serial, l.app); err != nil {
		return err
	}
	return tx.control("COMMIT")
}

func (tx *Tx) rollback() error { return tx.control("ROLLBACK") }

func (tx *Tx) control(statement string) error {
	st, err := tx.h.stmt(statement)
	if err != nil {
		return err
	}
	_, err = st.ExecContext(context.Background())
	return err
}

var errReadOnly = errors.New("a read cannot change the state")

// doom makes sure that nothing is committed after err, also if a caller passes over it. The
// database may have rolled back by itself, so that every further statement would be for good at
// once; or a verb may have done a part of its work.
func (tx *Tx) doom(err error) {
	if err != nil && tx.doomed == nil {
		tx.doomed = err
	}
}

// exec runs a statement that changes rows and returns how many it changed. Statements do not
// watch the transaction's context: a write is not torn apart half-way, and watching costs more
// than most statements.
func (tx *Tx) exec(query string, args ...any) (int64, error) {
	if !tx.write {
		return 0, errReadOnly
	}
	if tx.doomed != nil {
		return 0, tx.doomed
	}
	st, err := tx.h.stmt(query)
	if err != nil {
		return 0, err
	}
	res, err := st.ExecContext(context.Background(), args...)
	if err != nil {
		if !unique(err) { // that one undid its own statement and nothing else
			tx.doom(err)
		}
		return 0, err
	}
	n, err := res.RowsAffected()
	tx.dirty = tx.dirty || n > 0
	return n, err
}

// row is what a query's scan function reads from.
type row interface{ Scan(dest ...any) error }

// each calls fn for every row of the answer.
func (tx *Tx) each(query string, args []any, fn func(row) error) error {
	if tx.doomed != nil {
		return tx.doomed
	}
	st, err := tx.h.stmt(query)
	if err != nil {
		return err
	}
	rows, err := st.QueryContext(context.Background(), args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for n := 1; rows.Next(); n++ {
		if n%1024 == 0 && tx.ctx.Err() != nil {
			return tx.ctx.Err()
		}
		if err := fn(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// change is each for a statement that changes rows and returns them.
func (tx *Tx) change(query string, args []any, fn func(row) error) error {
	if !tx.write {
		return errReadOnly
	}
	err := tx.each(query, args, func(r row) error {
		tx.dirty = true
		return fn(r)
	})
	tx.doom(err)
	return err
}

var errNoRow = errors.New("no row")

// scan reads the answer's only row; errNoRow when there is none.
func (tx *Tx) scan(query string, args []any, dest ...any) error {
	found := false
	err := tx.each(query, args, func(r row) error {
		found = true
		return r.Scan(dest...)
	})
	if err == nil && !found {
		return errNoRow
	}
	return err
}

// list reads all rows of an answer.
func list[T any](tx *Tx, scan func(row, *T) error, query string, args ...any) ([]T, error) {
	var out []T
	err := tx.each(query, args, func(r row) error {
		var v T
		if err := scan(r, &v); err != nil {
			return err
		}
		out = append(out, v)
		return nil
	})
	return out, err
}

// one reads at most one row.
func one[T any](tx *Tx, scan func(row, *T) error, query string, args ...any) (v T, found bool, err error) {
	err = tx.each(query, args, func(r row) error {
		found = true
		return scan(r, &v)
	})
	return v, found, err
}

// notFound quotes a name only where it needs that: it may be anything that somebody typed.
func notFound(noun, name string) error {
	if q := dspool.Quote(name); q != `"`+name+`"` || name == "" {
		name = q
	}
	return dspool.Errorf(dspool.NotFound, "there is no %s %s", noun, name)
}
