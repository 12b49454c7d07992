package store

import (
	"context"
	"database/sql"
	"errors"
	"io/fs"
	"net/url"
	"os"

	_ "modernc.org/sqlite" // the driver named "sqlite"
)

// handle is a connection to the database with its prepared statements.
type handle struct {
	conn  *sql.Conn
	stmts map[string]*sql.Stmt
}

func newHandle(ctx context.Context, db *sql.DB) (*handle, error) {
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	return &handle{conn: conn, stmts: map[string]*sql.Stmt{}}, nil
}

// stmt returns the prepared form of query. Queries are constants or made from a few templates,
// so the map stays small.
func (h *handle) stmt(query string) (*sql.Stmt, error) {
	if st, ok := h.stmts[query]; ok {
		return st, nil
	}
	st, err := h.conn.PrepareContext(context.Background(), query)
	if err != nil {
		return nil, err
	}
	h.stmts[query] = st
	return st, nil
}

func (h *handle) close() error {
	if h == nil {
		return nil
	}
	var errs []error
	for _, st := range h.stmts {
		errs = append(errs, st.Close())
	}
	return errors.Join(append(errs, h.conn.Close())...)
}

// createFile makes the file before SQLite does, which would let others read it; SQLite's own
// files beside it take its mode.
func createFile(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return f.Close()
}

func dsn(path string, readOnly bool) string {
	q := url.Values{"_pragma": {
		"busy_timeout(5000)", // another process, such as a backup
		"journal_mode(WAL)",
		"synchronous(FULL)", // a commit is on disk when it returns
		"temp_store(MEMORY)",
		"cache_size(-8192)",
		"wal_autocheckpoint(4000)",
		"journal_size_limit(67108864)",
		"secure_delete(FAST)", // what an app was given goes with it
	}}
	if readOnly {
		q["_pragma"] = append(q["_pragma"], "query_only(1)")
	}
	u := url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(), RawQuery: q.Encode()}
	return u.String()
}
