package store

import (
	"errors"
	"fmt"

	"github.com/dspool/dspool"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// translate turns the database's troubles that a person can do something about into sentences
// for people, and leaves every other error as it is.
func translate(err error) error {
	var e *sqlite.Error
	var mine *dspool.Error
	if err == nil || errors.As(err, &mine) || !errors.As(err, &e) {
		return err
	}
	switch e.Code() & 0xff {
	case sqlite3.SQLITE_FULL:
		return dspool.Errorf(dspool.Unavailable, "the disk that holds the state is full: %w", err).WithHint("free some space on it")
	case sqlite3.SQLITE_READONLY:
		return dspool.Errorf(dspool.Unavailable, "the state cannot be written: %w", err).WithHint("check the file's owner and mode, and whether its disk is mounted read-only")
	case sqlite3.SQLITE_BUSY:
		return dspool.Errorf(dspool.Unavailable, "the state is locked by another process: %w", err).WithHint("end that process")
	case sqlite3.SQLITE_CANTOPEN:
		return dspool.Errorf(dspool.Unavailable, "the state cannot be opened: %w", err).WithHint("check the directory, its owner and its mode")
	case sqlite3.SQLITE_NOTADB:
		return dspool.Errorf(dspool.Conflict, "the file holds no state of dspool: %w", err).WithHint("choose another state directory, or restore a copy")
	case sqlite3.SQLITE_CORRUPT:
		return dspool.Errorf(dspool.Internal, "the state is damaged: %w", err).WithHint("stop the server and restore a copy")
	}
	return err
}

// unique says whether err is a row that exists already.
func unique(err error) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && (e.Code() == sqlite3.SQLITE_CONSTRAINT_UNIQUE || e.Code() == sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY)
}

// wrap adds what was being done; nil stays nil.
func wrap(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf(format+": %w", append(args, err)...)
}
