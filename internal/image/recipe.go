package image

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/dspool/dspool"
)

// Recipe says what an image is made of. LoadRecipe makes it; the contents of the
// files that it names are in it, so that what was hashed is what gets built.
type Recipe struct {
	Name        string   // file name without ".yaml"
	Path        string   // of the recipe file
	Description string   // for people; decides nothing
	Suite       string   // Debian suite of the first layer; "" when Parent is set
	Parent      *Recipe  // what "from" names, or a lower layer of the same recipe
	Mirror      Mirror   // empty: the store's, else the host's
	Packages    []string // sorted, each once
	Python      *Python  // nil: none
	Files       []File   // in the recipe's order
	Run         []string // shell text, in order
}

// File is a file that a recipe puts into the image, owned by root.
type File struct {
	Path    string // absolute, in the image
	Mode    uint32 // permission bits, setuid and setgid among them
	Content []byte
}

// Limits of a recipe; more is a typing error, or belongs into a package.
const (
	maxRecipe  = 1 << 20
	maxFile    = 16 << 20
	maxParents = 16
)

// LoadRecipe reads the recipe file at path and, along "from", its parents in the
// same folder, else in the first of the folders elsewhere that has them. It reports every problem of them at once, each with its line, as one
// dspool.Error with code Invalid (NotFound where the file itself is missing).
func LoadRecipe(path string, elsewhere ...string) (Recipe, error) {
	l := &loader{elsewhere: elsewhere}
	r, err := l.load(path, nil)
	if err != nil {
		return Recipe{}, err
	}
	if len(l.problems) > 0 {
		return Recipe{}, l.err()
	}
	return *r, nil
}

type loader struct {
	elsewhere []string
	problems  []string
}

// parent is where the recipe of a name lies for one that lies beside.
func (l *loader) parent(beside, name string) string {
	path := filepath.Join(beside, name+".yaml")
	if exists(path) {
		return path
	}
	for _, dir := range l.elsewhere {
		if other := filepath.Join(dir, name+".yaml"); exists(other) {
			return other
		}
	}
	return path
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func (l *loader) err() error {
	if len(l.problems) == 1 {
		return dspool.Errorf(dspool.Invalid, "image recipe %s", l.problems[0])
	}
	return dspool.Errorf(dspool.Invalid, "image recipe has %d problems:\n  %s", len(l.problems), strings.Join(l.problems, "\n  "))
}

// load reads one recipe; children are the names of the recipes that led here.
func (l *loader) load(path string, children []string) (*Recipe, error) {
	name, isYAML := strings.CutSuffix(filepath.Base(path), ".yaml")
	if !isYAML {
		return nil, dspool.Errorf(dspool.Invalid, "image recipe %s is not named NAME.yaml", dspool.Quote(path))
	}
	if err := dspool.CheckImageName(name); err != nil {
		return nil, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, dspool.Errorf(dspool.NotFound, "read image recipe: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxRecipe {
		return nil, dspool.Errorf(dspool.Invalid, "image recipe %s is not a file of at most %s", dspool.Quote(path), dspool.FormatBytes(maxRecipe))
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, dspool.Errorf(dspool.NotFound, "read image recipe: %w", err)
	}
	r := &Recipe{Name: name, Path: path}
	d := &decoder{recipe: r, loader: l, children: append(children, name)}
	d.decode(text)
	return r.layered(), nil
}

// layered returns the recipe as up to three that lie on each other: Debian's packages,
// the Python packages that come from an index, the rest. Each is an image of its own in
// the cache, so that a changed step or module of the recipe's fetches nothing again.
// Only recipes with Python packages gain enough by it.
func (r *Recipe) layered() *Recipe {
	if r.Python == nil || len(r.Python.Requirements) == 0 {
		return r
	}
	top := *r
	below := func(what string, layer Recipe) {
		layer.Name, layer.Path, layer.Parent = r.Name+" "+what, r.Path, top.Parent
		top.Suite, top.Mirror, top.Parent = "", Mirror{}, &layer
	}
	if r.Suite != "" || len(r.Packages) > 0 {
		below("packages", Recipe{Suite: r.Suite, Mirror: r.Mirror, Packages: r.Packages})
		top.Packages = nil
	}
	if len(r.Python.Modules)+len(r.Files)+len(r.Run) > 0 {
		fetched := *r.Python
		fetched.Modules, top.Python = nil, nil
		if len(r.Python.Modules) > 0 {
			top.Python = &Python{Venv: r.Python.Venv, Modules: r.Python.Modules}
		}
		below("Python packages", Recipe{Python: &fetched})
	}
	return &top
}
