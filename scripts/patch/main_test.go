package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// wanted is what the probe finds at a server, with the library as it is and with the edited one.
var wanted = map[string]struct{ library, edited string }{
	"service-again":              {"refused", "ok"},
	"unimplemented-before-login": {"refused", "ok"},
	"unimplemented-after-login":  {"refused", "ok"},
	"window-of-no-channel":       {"refused", "ok"},
	// The edits let nothing more in than that: before keys are agreed on an attacker could have put it there,
	// there is no other service, nobody asks for ever, and data belongs to a channel.
	"unimplemented-in-strict-exchange": {"refused", "refused"},
	"another-service":                  {"refused", "refused"},
	"service-for-ever":                 {"refused", "refused"},
	"data-of-no-channel":               {"refused", "refused"},
}

func TestTheLibraryAsItIsStillNeedsTheEdits(t *testing.T) {
	for name, got := range probe(t, "") {
		if want := wanted[name].library; got != want {
			t.Errorf("%s: the library as it is says %q, not %q: if it no longer needs the edit, take the edit out", name, got, want)
		}
	}
}

func TestTheEditsDoWhatTheyAreFor(t *testing.T) {
	for name, got := range probe(t, modfile(t)) {
		if want := wanted[name].edited; got != want {
			t.Errorf("%s: the edited library says %q, not %q", name, got, want)
		}
	}
}

// modfile makes the edited library as scripts/go does.
func modfile(t *testing.T) string {
	t.Helper()
	t.Chdir(filepath.Join("..", ".."))
	path, err := run()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// probe runs testdata/probe, built with a go.mod.
func probe(t *testing.T, modfile string) map[string]string {
	t.Helper()
	program, err := filepath.Abs(filepath.Join(t.TempDir(), "probe"))
	if err != nil {
		t.Fatal(err)
	}
	source := "./scripts/patch/testdata/probe"
	if modfile == "" {
		source = "./testdata/probe"
	}
	build := exec.Command("go", "build", "-modfile="+modfile, "-o", program, source)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the probe: %v\n%s", err, out)
	}
	out, err := exec.CommandContext(t.Context(), program).Output()
	if err != nil {
		t.Fatal(err)
	}
	results := map[string]string{}
	for line := range strings.Lines(string(out)) {
		name, result, _ := strings.Cut(strings.TrimSpace(line), " ")
		result, _, _ = strings.Cut(result, ":")
		if _, known := wanted[name]; !known {
			t.Fatalf("nobody said what is wanted of %s", name)
		}
		results[name] = result
	}
	if len(results) != len(wanted) {
		t.Fatalf("the probe found %d of %d things:\n%s", len(results), len(wanted), out)
	}
	return results
}

func TestAnotherVersionOfTheLibraryIsNotEdited(t *testing.T) {
	m, err := download()
	if err != nil {
		t.Fatal(err)
	}
	for _, changed := range edits {
		t.Run(changed.file, func(t *testing.T) {
			other := module{Version: m.Version, Dir: t.TempDir()}
			for _, e := range edits {
				text, err := os.ReadFile(filepath.Join(m.Dir, e.file))
				if err != nil {
					t.Fatal(err)
				}
				if e.file == changed.file {
					text = append(text, "// a word more\n"...)
				}
				path := filepath.Join(other.Dir, e.file)
				if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, text, 0o644)); err != nil {
					t.Fatal(err)
				}
			}
			into := t.TempDir()
			if _, err := other.copyEdited(into); err == nil || !strings.Contains(err.Error(), "is not the file that this edit was written for") {
				t.Fatalf("got %v", err)
			}
			if left, _ := os.ReadDir(into); len(left) > 0 {
				t.Fatalf("it left %v", left)
			}
		})
	}
}
