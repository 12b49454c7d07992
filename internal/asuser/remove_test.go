package asuser_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dspool/dspool"
)

func TestRemoveAll(t *testing.T) {
	t.Parallel()
	root, dir := tree(t)
	in := func(p string) string { return filepath.Join(dir, p) }
	must(t, alice.MkdirAll(root, "jobs/alice/7/0/deep/er", 0o755))
	must(t, alice.MkdirAll(root, "jobs/alice/kept", 0o755))
	must(t, alice.Do(func() error {
		return errors.Join(
			os.WriteFile(in("jobs/alice/7/0/stdout.txt"), []byte("x"), 0o600),
			os.WriteFile(in("jobs/alice/kept/file"), []byte("x"), 0o600),
			os.Symlink("../../kept", in("jobs/alice/7/0/link")),
			os.Symlink("/", in("jobs/alice/7/0/root")),
			os.Symlink("../../../bob", in("jobs/alice/7/0/bob")),
			os.WriteFile(in("jobs/alice/7/0/deep/er/f"), nil, 0o400),
			os.Chmod(in("jobs/alice/7/0/deep/er"), 0),
			os.Chmod(in("jobs/alice/7/0/deep"), 0o500),
		)
	}))
	for i := range 600 { // more than one reading of a directory gives
		must(t, alice.Do(func() error {
			return os.WriteFile(in("jobs/alice/7/"+strings.Repeat("f", i%200+1)+string(rune('a'+i/200))), nil, 0o600)
		}))
	}
	must(t, alice.RemoveAll(t.Context(), root, "jobs/alice/7"))
	if _, err := os.Lstat(in("jobs/alice/7")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory: %v", err)
	}
	for _, kept := range []string{"jobs/alice/kept/file", "jobs/bob/open", "secret"} {
		if _, err := os.Stat(in(kept)); err != nil {
			t.Errorf("what a link named: %v", err)
		}
	}
	must(t, alice.RemoveAll(t.Context(), root, "jobs/alice/7")) // again
}

func TestRemoveAllIsRefused(t *testing.T) {
	t.Parallel()
	root, dir := tree(t)
	in := func(p string) string { return filepath.Join(dir, p) }
	must(t, alice.Do(func() error { return os.Symlink("../bob", in("jobs/alice/8")) }))
	for _, path := range []string{".", "", "..", "jobs/..", "/etc", "jobs/../../x", "secret", "jobs/bob", "jobs/bob/open", "jobs/alice/8/open"} {
		if err := alice.RemoveAll(t.Context(), root, path); err == nil {
			t.Errorf("%q is gone", path)
		}
	}
	for _, kept := range []string{"secret", "jobs/bob/open"} {
		if _, err := os.Stat(in(kept)); err != nil {
			t.Error(err)
		}
	}
	must(t, alice.RemoveAll(t.Context(), root, "jobs/alice/8")) // the link itself
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	must(t, alice.MkdirAll(root, "jobs/alice/9", 0o755))
	if err := alice.RemoveAll(ctx, root, "jobs/alice/9"); !errors.Is(err, context.Canceled) {
		t.Errorf("it goes on: %v", err)
	}
	deep := "jobs/alice/10" + strings.Repeat("/d", 600)
	must(t, alice.MkdirAll(root, deep, 0o755))
	if err := alice.RemoveAll(t.Context(), root, "jobs/alice/10"); dspool.ErrorCode(err) != dspool.Forbidden {
		t.Errorf("a tree too deep: %v", err)
	}
}
