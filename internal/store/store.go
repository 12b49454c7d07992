// Package store keeps an installation's durable state, in SQLite. Everything happens in a
// transaction: [Store.Write] runs one at a time, and what it acknowledged survives a crash of
// the process or the machine; [Store.Read] sees one consistent snapshot and waits for nobody.
// The methods of [Tx] are the state's verbs, a file per noun; they check what only the store can
// know (a missing row, a number given twice) and leave rules to their callers.
//
// All times are UTC in whole microseconds, and what the host's clock said. Where the clock was set, the
// times of all that lasts were moved with it: how long something has lasted is always [Tx.Now] less its
// beginning, and two times of one row are as far apart as was lived between them. Times of different
// rows may not be in order; numbers are.
package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/clock"
)

// Connections that serve reads at the same time. Each has its own small page cache.
const readers = 8

// Store is the open state. It is safe for use by several goroutines.
type Store struct {
	clock        clock.Clock
	log          *slog.Logger
	installation string
	writeDB      *sql.DB
	readDB       *sql.DB
	writer       chan *handle // holds the one writing connection while nobody writes; nil: to be opened
	readers      chan *handle // those that are free
	closed       chan struct{}
	closing      sync.Once
	closeErr     error

	mu   sync.Mutex
	line line
}

// Option changes how a store is opened.
type Option func(*Store)

// WithClock makes the store take its times from c rather than from the clock of this process.
func WithClock(c clock.Clock) Option { return func(s *Store) { s.clock = c } }

// WithLog makes the store tell log of what takes long.
func WithLog(log *slog.Logger) Option { return func(s *Store) { s.log = log } }

// Open opens the state in the file path and creates it, readable by its owner only, where it does
// not exist. An older schema is brought up to date; a newer one is refused and left as it is.
func Open(ctx context.Context, path string, opts ...Option) (*Store, error) {
	s := &Store{
		clock:   clock.Process(),
		log:     slog.New(slog.DiscardHandler),
		writer:  make(chan *handle, 1),
		readers: make(chan *handle, readers),
		closed:  make(chan struct{}),
	}
	for _, opt := range opts {
		opt(s)
	}
	if err := s.open(ctx, path); err != nil {
		return nil, errors.Join(fmt.Errorf("open state %s: %w", path, err), s.closeDBs())
	}
	s.writer <- nil
	for range readers {
		s.readers <- nil
	}
	s.followNow(ctx)
	return s, nil
}

func (s *Store) open(ctx context.Context, path string) (err error) {
	if err := createFile(path); err != nil {
		return err
	}
	if s.writeDB, err = sql.Open("sqlite", dsn(path, false)); err != nil {
		return err
	}
	// Handles close for good, and take their connection's transaction with them.
	s.writeDB.SetMaxIdleConns(-1)
	if err := migrateUp(ctx, s.writeDB, path, s.log); err != nil {
		return translate(err)
	}
	if s.installation, s.line, err = identify(ctx, s.writeDB); err != nil {
		return translate(err)
	}
	if s.readDB, err = sql.Open("sqlite", dsn(path, true)); err != nil {
		return err
	}
	s.readDB.SetMaxIdleConns(-1)
	return nil
}

// Close waits for the transactions under way and closes the state. Closing twice is fine.
func (s *Store) Close() error {
	s.closing.Do(func() {
		close(s.closed)
		var errs []error
		for range readers {
			errs = append(errs, (<-s.readers).close())
		}
		// The writer goes last: closing the last connection folds the log into the file.
		errs = append(errs, (<-s.writer).close(), s.closeDBs())
		s.closeErr = errors.Join(errs...)
	})
	return s.closeErr
}

func (s *Store) closeDBs() error {
	var errs []error
	for _, db := range []*sql.DB{s.readDB, s.writeDB} {
		if db != nil {
			errs = append(errs, db.Close())
		}
	}
	return errors.Join(errs...)
}

// Installation returns the name of this state: 8 lower-case hexadecimal digits, made when it was
// first opened and kept for ever. Everything on a host that belongs to it is named by it.
func (s *Store) Installation() string { return s.installation }

// Write runs fn in one transaction, after those already waiting. When Write returns nil, what fn
// did is on disk; when it returns an error, nothing of it is. A transaction that changed nothing
// costs no write to the disk. fn must not call Write or Read, nor keep its Tx. A verb for many
// attempts that failed half-way fails the whole transaction, even if fn returns nil.
func (s *Store) Write(ctx context.Context, fn func(*Tx) error) error {
	return s.do(ctx, s.writer, s.writeDB, true, fn)
}

// Read runs fn on one snapshot of the state, undisturbed by writes that go on meanwhile. fn must
// not call Write or Read, nor keep its Tx; verbs that change something fail in it.
func (s *Store) Read(ctx context.Context, fn func(*Tx) error) error {
	s.followNow(ctx)
	return s.do(ctx, s.readers, s.readDB, false, fn)
}

func (s *Store) do(ctx context.Context, free chan *handle, db *sql.DB, write bool, fn func(*Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	var h *handle
	select {
	case <-s.closed:
		return errClosed
	case <-ctx.Done():
		return ctx.Err()
	case h = <-free:
	}
	defer func() { free <- h }()
	select {
	case <-s.closed: // it was free at the same moment
		return errClosed
	default:
	}
	if h == nil {
		fresh, err := newHandle(ctx, db)
		if err != nil {
			return fmt.Errorf("open state: %w", translate(err))
		}
		h = fresh
	}
	tx := &Tx{ctx: ctx, h: h, store: s, write: write}
	clean := false
	defer func() {
		// Also when fn panics or ends the goroutine. A connection whose transaction
		// did not end as it should is not used again.
		if !clean && tx.rollback() != nil {
			_ = h.close()
			h = nil
		}
	}()
	if err := tx.begin(); err != nil {
		return fmt.Errorf("begin transaction: %w", translate(err))
	}
	if err := fn(tx); err != nil {
		return translate(err)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := tx.commit(); err != nil {
		return fmt.Errorf("commit transaction: %w", translate(err))
	}
	if write {
		s.keep(tx.line)
	}
	clean = true
	return nil
}

var errClosed = dspool.Errorf(dspool.Unavailable, "the state is closed").WithHint("the server is stopping; try again when it is back")
