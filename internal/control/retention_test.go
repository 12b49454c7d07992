package control_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/control"
	"github.com/dspool/dspool/internal/store"
)

func TestOldOutputIsRemovedAsItsUser(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("NOT TESTED: acting as other users needs root")
	}
	share, err := os.MkdirTemp("", "retention") // t.TempDir lies behind a directory that only root may search
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(share) })
	p := newPast(t, filepath.Join(t.TempDir(), "state.db"), firstDay)
	defer p.close()
	// Old is to go; young stays; stolen is a directory of another user's in the old one's place, and of is behind a link.
	const uid = 23456
	var ids []int64
	p.write(func(tx *store.Tx) error {
		if err := tx.PutShare(dspool.Share{Name: "team", Kind: "dir", Path: share}); err != nil {
			return err
		}
		for _, ago := range []time.Duration{31, 29, 32, 33} {
			ended := p.now.Add(-ago * day)
			j := store.JobRow{UID: uid, Share: "team", Job: dspool.Job{User: "ada", State: dspool.JobSucceeded, Created: ended, Ended: &ended}}
			if err := tx.InsertJob(&j); err != nil {
				return err
			}
			j.Dir = control.JobDir("ada", j.ID)
			ids = append(ids, j.ID)
			if err := tx.UpdateJob(j); err != nil {
				return err
			}
		}
		return tx.SetSetting("retention", `{"Output":"720h"}`)
	})
	dir := func(i int) string { return filepath.Join(share, control.JobDir("ada", ids[i])) }
	kept := filepath.Join(share, "kept")
	errs := []error{os.Chmod(share, 0o755), os.MkdirAll(filepath.Dir(dir(0)), 0o755), os.Chown(filepath.Dir(dir(0)), uid, uid), os.Mkdir(kept, 0o777)}
	for i := range 2 {
		errs = append(errs, os.MkdirAll(filepath.Join(dir(i), "0"), 0o755), os.WriteFile(filepath.Join(dir(i), "0", "stdout.txt"), []byte("x"), 0o644),
			os.Chown(dir(i), uid, uid), os.Chown(filepath.Join(dir(i), "0"), uid, uid))
	}
	errs = append(errs, os.WriteFile(filepath.Join(kept, "file"), nil, 0o666), os.Symlink(kept, dir(3)),
		os.Mkdir(dir(2), 0o755), os.WriteFile(filepath.Join(dir(2), "of another"), nil, 0o644), os.Chown(dir(2), uid+1, uid+1))
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	if err := p.Tidy(t.Context()); err == nil {
		t.Error("what cannot be removed is not told")
	}
	for path, want := range map[string]bool{dir(0): false, dir(1): true, filepath.Join(dir(2), "of another"): true, dir(3): false, filepath.Join(kept, "file"): true} {
		if _, err := os.Lstat(path); (err == nil) != want {
			t.Errorf("%s is there: %v", path, err == nil)
		}
	}
	err = p.Store.Read(t.Context(), func(tx *store.Tx) error {
		left, err := tx.Outputs(time.Time{}, p.now, 10)
		if len(left) != 2 || left[0].ID != ids[2] || left[1].ID != ids[1] {
			t.Errorf("with output are %v", left)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
