package store

import (
	"context"
	"crypto/rand"
	"database/sql"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"log/slog"
	"time"

	"github.com/dspool/dspool"
	"github.com/pressly/goose/v3"
)

//go:embed migrations/sqlite/*.sql
var migrations embed.FS

func migrateUp(ctx context.Context, db *sql.DB, path string, log *slog.Logger) error {
	dir, err := fs.Sub(migrations, "migrations/sqlite")
	if err != nil {
		return err
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, db, dir, goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return fmt.Errorf("read migrations: %w", err)
	}
	have, want, err := p.GetVersions(ctx)
	if err != nil {
		return fmt.Errorf("read schema version: %w", err)
	}
	if have > want {
		return dspool.Errorf(dspool.Conflict, "%s was written by a newer dspool (its schema is %d, this one knows %d)", path, have, want).
			WithHint("start the newer dspool, or restore the copy made before it was installed")
	}
	if have == want {
		return nil
	}
	began := time.Now()
	if have > 0 {
		log.Info("bring the state up to date; with a long history that takes up to a minute or two", "path", path, "schema", have, "to", want)
	}
	if _, err := p.Up(ctx); err != nil {
		return fmt.Errorf("update schema: %w", err)
	}
	if have > 0 {
		log.Info("the state is up to date", "took", time.Since(began).Round(time.Millisecond))
	}
	return nil
}

// identify returns the installation's name, made here the first time, and the time where the last
// transaction left it.
func identify(ctx context.Context, db *sql.DB) (id string, l line, err error) {
	var b [4]byte
	_, _ = rand.Read(b[:]) // it never fails
	_, err = db.ExecContext(ctx, `INSERT INTO installation (id, clock, machine, job, attempt, event, revision)
		SELECT ?, 0, 0, 0, 0, 0, 0 WHERE NOT EXISTS (SELECT 1 FROM installation)`, hex.EncodeToString(b[:]))
	if err != nil {
		return "", l, fmt.Errorf("name the installation: %w", err)
	}
	var wall, lived int64
	if err := db.QueryRowContext(ctx, `SELECT id, clock, lived, boot, skew FROM installation`).Scan(&id, &wall, &lived, &l.frame.Boot, &l.skew); err != nil {
		return "", l, fmt.Errorf("read the installation's name: %w", err)
	}
	if wall != 0 {
		l.frame.Wall, l.frame.Lived = time.UnixMicro(wall).UTC(), time.Duration(lived)*time.Microsecond
	}
	if l.frame.Boot == "" {
		l.frame.Boot = "unknown" // the clock of another process
	}
	return id, l, nil
}
