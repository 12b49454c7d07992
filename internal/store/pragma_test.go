package store

import (
	"context"
	"path/filepath"
	"testing"
)

// A database opened with less would lose commits with the host's power, and no crash of a process shows it.
func TestACommitIsOnDiskWhenItReturns(t *testing.T) {
	t.Parallel()
	s, err := Open(t.Context(), filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for pragma, want := range map[string]string{"synchronous": "2", "journal_mode": "wal", "busy_timeout": "5000", "secure_delete": "2"} {
		var writer, reader string
		err := s.Write(t.Context(), func(tx *Tx) error { return tx.scan(`PRAGMA `+pragma, nil, &writer) })
		if err == nil {
			err = s.Read(context.Background(), func(tx *Tx) error { return tx.scan(`PRAGMA `+pragma, nil, &reader) })
		}
		if err != nil || writer != want || reader != want {
			t.Errorf("%s is %s for writers and %s for readers, not %s: %v", pragma, writer, reader, want, err)
		}
	}
}
