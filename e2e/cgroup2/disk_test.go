package cgroup2_test

import (
	"cmp"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/dspool/dspool/internal/image"
)

// diskSize is sparse: it costs what is written.
const diskSize = "6G"

// baseDisk is a disk with the image of testdata/guest.yaml as the image cache keeps it: rootfs
// and image.json at its top. It is made once for an image.
func baseDisk(t *testing.T, cache string) (file, key string) {
	t.Helper()
	recipe, err := image.LoadRecipe("testdata/guest.yaml")
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(cache, "disks", recipe.Key()+".ext4")
	if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
		return file, recipe.Key()
	}
	if _, err := exec.LookPath("mke2fs"); err != nil {
		t.Skip("NOT TESTED: no mke2fs: apt-get install e2fsprogs")
	}
	store, err := image.NewStore(cmp.Or(os.Getenv("DSPOOL_TEST_CACHE"), image.DefaultCache), image.Options{})
	if err != nil {
		t.Fatal(err)
	}
	built, err := store.Build(t.Context(), recipe, nil)
	if err != nil {
		t.Skip("NOT TESTED: the emulated computer's file system cannot be built: ", err)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	f, err := os.CreateTemp(filepath.Dir(file), "tmp-")
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	defer os.Remove(f.Name()) // nothing when it was renamed
	mke2fs := exec.CommandContext(t.Context(), "mke2fs", "-q", "-F", "-t", "ext4", "-d", filepath.Dir(built.Dir), f.Name(), diskSize)
	if out, err := mke2fs.CombinedOutput(); err != nil {
		t.Fatalf("mke2fs: %v: %s", err, out)
	}
	if err := os.Rename(f.Name(), file); err != nil {
		t.Fatal(err)
	}
	return file, recipe.Key()
}
