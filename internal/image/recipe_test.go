package image_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/images"
	"github.com/dspool/dspool/internal/image"
	"github.com/dspool/dspool/python"
)

// write makes the files of a recipe folder and returns its path.
func write(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func load(t *testing.T, path string) image.Recipe {
	t.Helper()
	r, err := image.LoadRecipe(path)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestLoadRecipe(t *testing.T) {
	t.Parallel()
	dir := write(t, map[string]string{
		"base.yaml": "base: {suite: trixie}\nmirror: http://mirror.test/debian/\npackages: [tmux, bash, tmux]\n",
		"up.yaml":   "description: more\nfrom: base\nfiles:\n  - {path: /etc/motd, source: motd, mode: 640}\n  - path: /etc/empty\n    content: ''\n    mode: \"0o4755\"\nrun:\n  - touch /x\n  - |\n    a=1\n    echo $a\n",
		"motd":      "hello\n",
	})
	r := load(t, filepath.Join(dir, "up.yaml"))
	if r.Name != "up" || r.Description != "more" || r.Suite != "" || len(r.Run) != 2 || len(r.Files) != 2 {
		t.Errorf("recipe is %+v", r)
	}
	if f := r.Files[0]; f.Path != "/etc/motd" || string(f.Content) != "hello\n" || f.Mode != 0o640 {
		t.Errorf("first file is %+v", f)
	}
	if f := r.Files[1]; len(f.Content) != 0 || f.Mode != 0o4755 {
		t.Errorf("second file is %+v", f)
	}
	if p := r.Parent; p == nil || p.Suite != "trixie" || fmt.Sprint(p.Packages) != "[bash tmux]" || p.Mirror.Archive != "http://mirror.test/debian" {
		t.Errorf("parent is %+v", p)
	}
}

func TestLoadRecipeRefusesBadInput(t *testing.T) {
	t.Parallel()
	big := strings.Repeat("#", 1<<20+1)
	for _, c := range []struct{ claim, text, want string }{
		{"an empty file", "", "r.yaml: the recipe is empty"},
		{"a comment only", "# nothing\n", "needs"},
		{"broken YAML", "base: {suite: trixie\n", "r.yaml: yaml: line"},
		{"a list", "- a\n", "r.yaml:1: recipe must be a mapping"},
		{"two documents", "base: {suite: trixie}\n---\nbase: {suite: sid}\n", "more than one YAML document"},
		{"a file too large", big, "at most 1 MiB"},
		{"an unknown key", "base: {suite: trixie}\npakages: [a]\n", `r.yaml:2: recipe has no key "pakages"; did you mean packages?`},
		{"an unknown key unlike any", "base: {suite: trixie}\nzzzzzzzz: 1\n", "known are base, description,"},
		{"a key twice", "base: {suite: trixie}\nbase: {suite: sid}\n", "r.yaml:2: key base is there twice, first on line 1"},
		{"an alias", "base: &b {suite: trixie}\nfrom: *b\n", "aliases are not supported"},
		{"neither base nor from", "packages: [bash]\n", "needs either base"},
		{"both base and from", "base: {suite: trixie}\nfrom: other\n", "not both"},
		{"no suite", "base: {}\n", "base needs a suite"},
		{"a suite that is an option", "base: {suite: --help}\n", `suite "--help" is not the name`},
		{"a parent that is missing", "from: nothere\n", "r.yaml:1: from: there is no recipe"},
		{"a parent outside the folder", "from: ../other\n", "image name"},
		{"itself as parent", "from: r\n", "leads back to itself (r from r)"},
		{"a package that is an option", "base: {suite: trixie}\npackages: [-oDebug=1]\n", "r.yaml:2: \"-oDebug=1\" is not the name of a Debian package"},
		{"a package to be removed", "base: {suite: trixie}\npackages: [bash-]\n", "is not the name"},
		{"a package with a comma", "base: {suite: trixie}\npackages: ['a,b']\n", "is not the name"},
		{"packages that are no list", "base: {suite: trixie}\npackages: bash\n", "packages must be a list"},
		{"an empty package", "base: {suite: trixie}\npackages: ['']\n", "package must be a text"},
		{"a relative path", "base: {suite: trixie}\nfiles: [{path: etc/x, content: a}]\n", "is not an absolute path"},
		{"a path with ..", "base: {suite: trixie}\nfiles: [{path: /etc/../x, content: a}]\n", "without . and .."},
		{"a path with a NUL", "base: {suite: trixie}\nfiles: [{path: \"/etc/\\0x\", content: a}]\n", "NUL"},
		{"a file without content", "base: {suite: trixie}\nfiles: [{path: /x}]\n", "either content: or source:"},
		{"content and source", "base: {suite: trixie}\nfiles: [{path: /x, content: a, source: r.yaml}]\n", "either content: or source:"},
		{"a file twice", "base: {suite: trixie}\nfiles: [{path: /x, content: a}, {path: /x, content: b}]\n", "/x is there twice"},
		{"a source outside the folder", "base: {suite: trixie}\nfiles: [{path: /x, source: ../secret}]\n", "cannot be read from the recipe's folder"},
		{"an absolute source", "base: {suite: trixie}\nfiles: [{path: /x, source: /etc/passwd}]\n", "cannot be read from the recipe's folder"},
		{"a mode of decimal digits", "base: {suite: trixie}\nfiles: [{path: /x, content: a, mode: 0888}]\n", `mode "0888" is not a file mode`},
		{"a mode out of range", "base: {suite: trixie}\nfiles: [{path: /x, content: a, mode: 77777}]\n", "is not a file mode"},
		{"an empty step", "base: {suite: trixie}\nrun: ['']\n", "run step must be a text"},
		{"a mirror that is no address", "base: {suite: trixie}\nmirror: 'http://a b'\n", "is not the address of a package mirror"},
		{"a mirror of files", "base: {suite: trixie}\nmirror: 'file:///srv'\n", "is not the address of a package mirror"},
		{"a mirror with a password", "base: {suite: trixie}\nmirror: 'http://u:p@h/debian'\n", "must not hold a password"},
		{"security without archive", "base: {suite: trixie}\nmirror: {security: 'http://h/s'}\n", "mirror needs an archive"},
	} {
		t.Run(c.claim, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(write(t, map[string]string{"r.yaml": c.text}), "r.yaml")
			_, err := image.LoadRecipe(path)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error is %v, want one with %q", err, c.want)
			}
			if dspool.ErrorCode(err) != dspool.Invalid {
				t.Errorf("code is %s", dspool.ErrorCode(err))
			}
		})
	}
}

func TestLoadRecipeNamesEveryProblem(t *testing.T) {
	t.Parallel()
	dir := write(t, map[string]string{
		"up.yaml":   "from: base\nfoo: 1\nfiles:\n  - {path: x, contnet: a}\n",
		"base.yaml": "base: {siute: trixie}\n",
	})
	_, err := image.LoadRecipe(filepath.Join(dir, "up.yaml"))
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"4 problems", "base.yaml:1: base has no key \"siute\"; did you mean suite?", "up.yaml:2:", "up.yaml:4: path", "did you mean content?"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error lacks %q:\n%v", want, err)
		}
	}
}

func TestLoadRecipeRefusesNames(t *testing.T) {
	t.Parallel()
	dir := write(t, map[string]string{"1.yaml": "", "r.yml": ""})
	for name, code := range map[string]dspool.Code{"1.yaml": dspool.Invalid, "r.yml": dspool.Invalid, "none.yaml": dspool.NotFound} {
		if _, err := image.LoadRecipe(filepath.Join(dir, name)); dspool.ErrorCode(err) != code {
			t.Errorf("%s: %v", name, err)
		}
	}
	os.Symlink("/etc/passwd", filepath.Join(dir, "link"))
	os.WriteFile(filepath.Join(dir, "l.yaml"), []byte("base: {suite: trixie}\nfiles: [{path: /x, source: link}]\n"), 0o600)
	if _, err := image.LoadRecipe(filepath.Join(dir, "l.yaml")); err == nil {
		t.Error("a link out of the recipe's folder was followed")
	}
}

func TestKeyChangesExactlyWithContent(t *testing.T) {
	t.Parallel()
	const text = "base: {suite: trixie}\npackages: [a1, b2]\nfiles: [{path: /x, source: s}]\nrun: [one, two]\n"
	key := func(recipe, source, name string) string {
		t.Helper()
		dir := write(t, map[string]string{name + ".yaml": recipe, "s": source, "base.yaml": text})
		return load(t, filepath.Join(dir, name+".yaml")).Key()
	}
	first := key(text, "s", "r")
	for claim, same := range map[string]string{
		"order of packages":  "base: {suite: trixie}\npackages: [b2, a1, a1]\nfiles: [{path: /x, source: s}]\nrun: [one, two]\n",
		"layout and comment": "# hello\nrun:\n- one\n- two\npackages:\n  - a1\n  - b2\nbase:\n  suite: trixie\nfiles:\n  - source: s\n    path: /x\n    mode: 0644\n",
		"description":        "description: d\n" + text,
		"source as content":  "base: {suite: trixie}\npackages: [a1, b2]\nfiles: [{path: /x, content: s}]\nrun: [one, two]\n",
	} {
		if key(same, "s", "r") != first {
			t.Errorf("%s changes the key", claim)
		}
	}
	seen := map[string]string{first: "the first"}
	for claim, other := range map[string][3]string{
		"suite":              {strings.Replace(text, "trixie", "sid", 1), "s", "r"},
		"packages":           {strings.Replace(text, "b2", "b3", 1), "s", "r"},
		"content of a file":  {text, "t", "r"},
		"path of a file":     {strings.Replace(text, "/x", "/y", 1), "s", "r"},
		"mode of a file":     {strings.Replace(text, "source: s", "source: s, mode: 600", 1), "s", "r"},
		"order of steps":     {strings.Replace(text, "one, two", "two, one", 1), "s", "r"},
		"joined steps":       {strings.Replace(text, "one, two", "onetwo", 1), "s", "r"},
		"name":               {text, "s", "q"},
		"mirror":             {"mirror: http://h/debian\n" + text, "s", "r"},
		"a parent":           {"from: base\n", "s", "r"},
		"a parent's content": {"from: base\n", "t", "r"},
	} {
		k := key(other[0], other[1], other[2])
		if before, ok := seen[k]; ok {
			t.Errorf("%s has the key of %s", claim, before)
		}
		seen[k] = claim
	}
}

func TestRecipesInsideTheBinaryLoad(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, fsys := range []fs.FS{images.FS, python.FS} {
		if err := os.CopyFS(dir, fsys); err != nil {
			t.Fatal(err)
		}
	}
	paths, _ := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if len(paths) < 4 {
		t.Fatalf("found %v", paths)
	}
	hubs := map[string]string{} // recipes by their version of JupyterHub
	for _, p := range paths {
		r := load(t, p)
		if r.Description == "" {
			t.Errorf("%s has no description", p)
		}
		// A checkout and the binary make the same image.
		here, err := image.LoadRecipe(filepath.Join("../../images", filepath.Base(p)), "../../python")
		if err != nil || here.Key() != r.Key() {
			t.Errorf("%s is another one in the repository, or %v", p, err)
		}
		for below := &r; below != nil; below = below.Parent {
			if below.Python == nil {
				continue
			}
			for _, q := range below.Python.Requirements {
				if q.Name == "jupyterhub" {
					hubs[q.Pin] += r.Name + " "
				}
			}
		}
	}
	if len(hubs) != 1 {
		t.Errorf("a hub and its single-user servers must be of one version: %v", hubs)
	}
}
