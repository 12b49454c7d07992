package image_test

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/image"
)

const (
	hashA = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	hashB = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
)

// writeTree is write with folders.
func writeTree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestLoadRecipeWithPython(t *testing.T) {
	t.Parallel()
	dir := writeTree(t, map[string]string{
		"r.yaml":         "base: {suite: trixie}\nmirror: http://m/debian\npackages: [python3-venv]\npython: {venv: /opt/p, requirements: r.txt, modules: [ours], system_site_packages: true, index: 'https://i/simple'}\nfiles: [{path: /x, content: x}]\nrun: [one]\n",
		"r.txt":          "# made by a tool\nZope.Interface [test, docs] == 5.0 ; python_version < \"4\"  \\\n    --hash=" + hashB + " \\\n    --hash=" + hashA + " \\\n    --hash=" + hashA + "\n    # via x\nalpha===1!2.0+local.1 --hash=" + hashA + " # why\r\n",
		"ours/b/c.py":    "c",
		"ours/a.py":      "a",
		"ours/a.pyc":     "no",
		"ours/.git/x":    "no",
		"ours/tests.txt": "t",
		// A folder that Python leaves, and what makes this one a module.
		"ours/__pycache__/a.py": "no",
		"ours/__init__.py":      "",
	})
	top := load(t, filepath.Join(dir, "r.yaml"))
	if top.Name != "r" || top.Suite != "" || len(top.Packages) != 0 || top.Mirror != (image.Mirror{}) || len(top.Files) != 1 || len(top.Run) != 1 {
		t.Errorf("the upper layer is %+v", top)
	}
	if p := top.Python; p == nil || p.Venv != "/opt/p" || len(p.Requirements) != 0 || len(p.Modules) != 1 {
		t.Fatalf("python of the upper layer is %+v", p)
	}
	var paths []string
	for _, f := range top.Python.Modules[0].Files {
		paths = append(paths, f.Path+"="+string(f.Content))
	}
	if got := strings.Join(paths, " "); got != "ours/__init__.py= ours/a.py=a ours/b/c.py=c ours/tests.txt=t" {
		t.Errorf("files of the module are %s", got)
	}
	python := top.Parent
	want := []image.Requirement{{Name: "alpha", Pin: "==1!2.0+local.1", Hashes: []string{hashA}},
		{Name: "zope-interface", Pin: `[test,docs]==5.0 ; python_version < "4"`, Hashes: []string{hashA, hashB}}}
	if python == nil || python.Python == nil || !reflect.DeepEqual(python.Python.Requirements, want) || len(python.Run)+len(python.Files)+len(python.Python.Modules)+len(python.Packages) > 0 {
		t.Fatalf("the layer of Python packages is %+v", python)
	}
	if p := python.Python; !p.SystemSitePackages || p.Index != "https://i/simple" || p.Venv != "/opt/p" {
		t.Errorf("its python is %+v", p)
	}
	if base := python.Parent; base == nil || base.Parent != nil || base.Suite != "trixie" || base.Mirror.Archive != "http://m/debian" || fmt.Sprint(base.Packages) != "[python3-venv]" || base.Python != nil {
		t.Errorf("the first layer is %+v", base)
	}
}

func TestLoadRecipeRefusesBadPython(t *testing.T) {
	t.Parallel()
	const usual = "{venv: /opt/p, requirements: r.txt}"
	for _, c := range []struct{ claim, python, requirements, want string }{
		{"not a mapping", "[a]", "", "r.yaml:2: python must be a mapping"},
		{"no venv", "{requirements: r.txt}", "a==1 --hash=" + hashA, "python needs a venv"},
		{"a relative venv", "{venv: opt/p, requirements: r.txt}", "a==1 --hash=" + hashA, `venv "opt/p" is not an absolute path`},
		{"a venv in the root", "{venv: /p, requirements: r.txt}", "a==1 --hash=" + hashA, `venv "/p" is not`},
		{"a venv with ..", "{venv: /opt/../etc, requirements: r.txt}", "a==1 --hash=" + hashA, "is not an absolute path"},
		{"a venv with a space", "{venv: /opt/a b, requirements: r.txt}", "a==1 --hash=" + hashA, "is not an absolute path"},
		{"nothing to install", "{venv: /opt/p}", "", "python needs requirements: FILE or modules: [FOLDER]"},
		{"an unknown key", "{venv: /opt/p, requirement: r.txt}", "", "did you mean requirements?"},
		{"a flag that is none", "{venv: /opt/p, requirements: r.txt, system_site_packages: maybe}", "a==1 --hash=" + hashA, "must be true or false"},
		{"an index with a password", "{venv: /opt/p, requirements: r.txt, index: 'https://u:p@h/simple'}", "a==1 --hash=" + hashA, "index must not hold a password"},
		{"an index that is a folder", "{venv: /opt/p, requirements: r.txt, index: /srv}", "a==1 --hash=" + hashA, "is not the address of a package index"},
		{"a file that is missing", "{venv: /opt/p, requirements: other.txt}", "", `requirements "other.txt" cannot be read from the recipe's folder`},
		{"a file outside the folder", "{venv: /opt/p, requirements: ../r.txt}", "", "cannot be read from the recipe's folder"},
		{"an empty file", usual, "# nothing\n", `requirements "r.txt" lists no package`},
		{"a package without a version", usual, "a==1 --hash=" + hashA + "\n\n# c\nflask --hash=" + hashA, "r.txt:4: flask is not pinned to one version; write flask==VERSION"},
		{"a lowest version", usual, "flask>=1 --hash=" + hashA, "r.txt:1: flask is not pinned"},
		{"two bounds", usual, "flask==1,<2 --hash=" + hashA, "r.txt:1: flask is not pinned"},
		{"a version with a wildcard", usual, "flask==1.* --hash=" + hashA, "r.txt:1: flask is not pinned"},
		{"a package without a hash", usual, "# c\nFlask==1.0\n", "r.txt:2: flask has no hash; write --hash=sha256:…"},
		{"a weak hash", usual, "flask==1.0 --hash=md5:0123", `r.txt:1: flask has the hash "md5:0123"`},
		{"a short hash", usual, "flask==1.0 --hash=sha256:0123", "r.txt:1: flask has the hash"},
		{"the line where a joined one begins", usual, "a==1 --hash=" + hashA + "\nflask==1.0 \\\n\\\n  --hash=sha256:1", "r.txt:2: flask"},
		{"an option of pip's", usual, "--index-url https://h/simple\n", `r.txt:1: option "--index-url" is not supported`},
		{"an option with a value", usual, "--extra-index-url=https://u:p@h/simple\n", `r.txt:1: option "--extra-index-url" is not`},
		{"another file", usual, "-r other.txt\n", `r.txt:1: option "-r" is not supported`},
		{"a folder to be built", usual, "-e .\n", `option "-e" is not supported`},
		{"an option of a package", usual, "flask==1.0 --hash=" + hashA + " --config-settings=a=b", `r.txt:1: flask has the option "--config-settings=a=b"`},
		{"an address", usual, "https://h/flask-1.0.whl --hash=" + hashA, "r.txt:1: addresses are not supported"},
		{"a package from an address", usual, "flask @ https://u:p@h/flask-1.0.whl --hash=" + hashA, "r.txt:1: addresses are not supported"},
		{"a file on the host", usual, "./flask-1.0.whl --hash=" + hashA, "is not the name of a package"},
		{"a package twice", usual, "fla-sk==1.0 --hash=" + hashA + "\nFla_Sk==1.1 --hash=" + hashA, "r.txt:2: fla-sk is there twice, first on line 1"},
		{"many bad lines", usual, strings.Repeat("flask\n", 9), "r.txt: 4 more lines are not pinned, hashed packages"},
		{"modules that are no list", "{venv: /opt/p, modules: ours}", "", "modules must be a list"},
		{"a module outside the folder", "{venv: /opt/p, modules: [../ours]}", "", `module "../ours" is not the name of a Python package`},
		{"a module that is missing", "{venv: /opt/p, modules: [none]}", "", "there is no folder none beside the recipe"},
		{"a module twice", "{venv: /opt/p, modules: [ours, ours]}", "", "module ours is there twice"},
		{"a folder that is no module", "{venv: /opt/p, modules: [plain]}", "", "it has no __init__.py"},
		{"a module with a link", "{venv: /opt/p, modules: [linked]}", "", `"linked/secret" is not a plain file`},
	} {
		t.Run(c.claim, func(t *testing.T) {
			t.Parallel()
			dir := writeTree(t, map[string]string{"r.yaml": "base: {suite: trixie}\npython: " + c.python + "\n", "r.txt": c.requirements,
				"ours/__init__.py": "", "plain/x.py": "", "linked/__init__.py": ""})
			if err := os.Symlink("/etc/passwd", filepath.Join(dir, "linked/secret")); err != nil {
				t.Fatal(err)
			}
			_, err := image.LoadRecipe(filepath.Join(dir, "r.yaml"))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error is %v, want one with %q", err, c.want)
			}
			if dspool.ErrorCode(err) != dspool.Invalid {
				t.Errorf("code is %s", dspool.ErrorCode(err))
			}
			if err != nil && strings.Contains(err.Error(), "u:p@h") {
				t.Errorf("error shows a password: %v", err)
			}
		})
	}
}

func TestKeyOfPythonChangesExactlyWithContent(t *testing.T) {
	t.Parallel()
	const recipe = "base: {suite: trixie}\npython: {venv: /opt/p, requirements: r.txt, modules: [ours]}\nrun: [one]\n"
	const lines = "alpha==1 --hash=" + hashA + "\nbeta==2 --hash=" + hashA + " --hash=" + hashB + "\n"
	keys := func(recipe, lines string, more map[string]string) (all, fetched string) {
		t.Helper()
		files := map[string]string{"r.yaml": recipe, "r.txt": lines, "ours/__init__.py": "", "ours/a.py": "a"}
		for name, text := range more {
			files[name] = text
		}
		r := load(t, filepath.Join(writeTree(t, files), "r.yaml"))
		return r.Key(), r.Parent.Key()
	}
	first, fetched := keys(recipe, lines, nil)
	for claim, same := range map[string][2]string{
		"order, comments and layout": {recipe, "# c\nbeta == 2 \\\n  --hash=" + hashB + " \\\n  --hash=" + hashA + "\n# via\nAlpha==1  --hash=" + hashA},
		"the index":                  {strings.Replace(recipe, "modules", "index: 'https://i/simple', modules", 1), lines},
	} {
		if k, _ := keys(same[0], same[1], nil); k != first {
			t.Errorf("%s changes the key", claim)
		}
	}
	if k, _ := keys(recipe, lines, map[string]string{"ours/__pycache__/a.pyc": "x", "ours/.a.swp": "x"}); k != first {
		t.Error("what is no part of a module changes the key")
	}
	seen := map[string]string{first: "the first"}
	for _, c := range []struct {
		claim, recipe, lines string
		more                 map[string]string
		fetches              bool
	}{
		{"the venv", strings.Replace(recipe, "/opt/p", "/opt/q", 1), lines, nil, true},
		{"system_site_packages", strings.Replace(recipe, "modules", "system_site_packages: true, modules", 1), lines, nil, true},
		{"a version", recipe, strings.Replace(lines, "==1", "==1.1", 1), nil, true},
		{"a hash", recipe, strings.Replace(lines, hashA, hashB, 1), nil, true},
		{"one package fewer", recipe, lines[strings.Index(lines, "\n")+1:], nil, true},
		{"a file of a module", recipe, lines, map[string]string{"ours/a.py": "b"}, false},
		{"a new file of a module", recipe, lines, map[string]string{"ours/b.py": "a"}, false},
		{"a step", strings.Replace(recipe, "one", "two", 1), lines, nil, false},
	} {
		k, below := keys(c.recipe, c.lines, c.more)
		if before, ok := seen[k]; ok {
			t.Errorf("%s has the key of %s", c.claim, before)
		}
		seen[k] = c.claim
		if changed := below != fetched; changed != c.fetches {
			t.Errorf("%s fetches again: %v", c.claim, changed)
		}
	}
}
