package dspool_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/dspool/dspool"

// mayImport is the house: which of our packages each may import (docs/architecture.md draws
// it). A package that is not listed here has no room yet.
var mayImport = map[string][]string{
	"":           {},
	"api":        {""},
	"client":     {"", "api"},
	"images":     {},
	"python":     {},
	"cmd/dspool": {"*"},
	"bench":      {"*"},

	"scripts/patch": {},

	"internal/asuser":  {""},
	"internal/suggest": {},
	"internal/testkit": {""},
	"internal/config":  {"", "api", "internal/suggest"},
	"internal/clock":   {""},
	"internal/store":   {"", "internal/clock"},
	"internal/auth":    {""},
	"internal/usage":   {""},
	"internal/plan":    {""},

	"internal/provider":      {""},
	"internal/provider/fake": {"", "internal/provider"},
	"internal/provider/runc": {"", "internal/provider", "internal/asuser"},
	"internal/hostnet":       {"", "internal/provider"},
	"internal/image":         {"", "internal/provider", "internal/suggest"},

	"internal/agent":          {"", "api", "client", "internal/provider", "internal/asuser", "internal/agent/host", "internal/agent/initd"},
	"internal/agent/activity": {""},
	"internal/agent/host":     {"", "api", "internal/asuser", "internal/agent/activity", "internal/agent/initd", "internal/agent/sockets"},
	"internal/agent/initd":    {"", "api", "internal/asuser", "internal/agent/sockets"},
	"internal/agent/sockets":  {},
	"internal/gateway":        {"", "api", "internal/provider", "internal/webdoor", "internal/webtls"},
	"internal/webtls":         {"", "api"},
	"internal/webdoor":        {"", "api"},
	"internal/cli":            {"", "api", "client", "internal/suggest"},

	"internal/control":   {"", "api", "internal/asuser", "internal/auth", "internal/clock", "internal/config", "internal/plan", "internal/store", "internal/suggest", "internal/usage"},
	"internal/reconcile": {"", "internal/control", "internal/plan", "internal/provider", "internal/store"},
	"internal/httpapi":   {"", "api", "internal/auth", "internal/control"},
	"internal/portal":    {"", "api", "internal/auth", "internal/control", "internal/httpapi"},
	"internal/server": {"", "api", "images", "internal/auth", "internal/clock", "internal/config", "internal/control", "internal/httpapi", "internal/image", "internal/portal",
		"internal/provider", "internal/reconcile", "internal/store", "python"},
}

func TestImportsGoOneWay(t *testing.T) {
	eachPackage(t, func(t *testing.T, pkg string, files map[string][]string) {
		allowed, listed := mayImport[pkg]
		if !listed {
			t.Errorf("package %q has no room: list it in mayImport and in docs/architecture.md", pkg)
			return
		}
		for file, imports := range files {
			for _, path := range imports {
				rest, ours := strings.CutPrefix(path, module)
				rest = strings.TrimPrefix(rest, "/")
				if ours && !slices.Contains(allowed, "*") && !slices.Contains(allowed, rest) {
					t.Errorf("%s imports %s, which package %q may not", file, path, pkg)
				}
				if pkg == "" && strings.Contains(path, ".") {
					t.Errorf("%s imports %s: the root package uses only the standard library", file, path)
				}
			}
		}
	})
}

func TestEveryPackageSaysWhatItIsFor(t *testing.T) {
	out, err := exec.Command("go", "list", "-e", "-f", "{{.Dir}}\t{{.Doc}}", "./...").Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		dir, doc, _ := strings.Cut(strings.TrimSpace(line), "\t")
		if doc == "" && hasSource(t, dir) {
			t.Errorf("%s has no package comment", dir)
		}
	}
}

func hasSource(t *testing.T, dir string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(files, func(f string) bool { return !strings.HasSuffix(f, "_test.go") })
}

// eachPackage calls fn with the imports of every package's files that are not tests.
func eachPackage(t *testing.T, fn func(*testing.T, string, map[string][]string)) {
	t.Helper()
	packages := map[string]map[string][]string{}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() && (name == "testdata" || name == "bin" || name == "build" || strings.HasPrefix(name, ".") && path != ".") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		pkg := strings.TrimPrefix(filepath.ToSlash(filepath.Dir(path)), ".")
		if packages[pkg] == nil {
			packages[pkg] = map[string][]string{}
		}
		for _, i := range f.Imports {
			packages[pkg][path] = append(packages[pkg][path], strings.Trim(i.Path.Value, `"`))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for pkg, files := range packages {
		if isTestHelp(pkg) {
			continue
		}
		t.Run(pkg, func(t *testing.T) { fn(t, pkg, files) })
	}
}

// isTestHelp says whether a package exists only for tests, which may import what they test.
func isTestHelp(pkg string) bool { return strings.HasSuffix(pkg, "test") }
