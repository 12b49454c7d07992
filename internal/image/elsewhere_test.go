package image_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/dspool/dspool/internal/image"
)

func TestParentsElsewhere(t *testing.T) {
	t.Parallel()
	own, theirs := t.TempDir(), t.TempDir()
	write := func(dir, name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name+".yaml"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(theirs, "minimal", "base: {suite: trixie}\n")
	write(own, "mine", "from: minimal\npackages: [jq]\n")
	load := func(dirs ...string) (image.Recipe, error) {
		return image.LoadRecipe(filepath.Join(own, "mine.yaml"), dirs...)
	}
	if _, err := load(); err == nil {
		t.Error("a parent that is nowhere was found")
	}
	r, err := load(theirs)
	if err != nil || r.Parent == nil || r.Parent.Path != filepath.Join(theirs, "minimal.yaml") {
		t.Fatalf("a parent elsewhere is not found: %+v, %v", r.Parent, err)
	}
	write(own, "minimal", "base: {suite: trixie}\npackages: [less]\n")
	if r, err = load(theirs); err != nil || r.Parent.Path != filepath.Join(own, "minimal.yaml") {
		t.Errorf("the parent beside the recipe does not come first: %+v, %v", r.Parent, err)
	}
}
