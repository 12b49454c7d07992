package image

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/dspool/dspool"
)

var (
	venvPattern   = regexp.MustCompile(`^(/[A-Za-z0-9][A-Za-z0-9._-]*){2,}$`)
	modulePattern = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,63}$`)
)

// mostLines is how many bad lines of a requirements file are named.
const mostLines = 5

// python reads the layer of Python packages.
func (d *decoder) python(n *yaml.Node) {
	p := &Python{}
	before := len(d.loader.problems)
	d.fields(n, "python", map[string]func(*yaml.Node){
		"venv": func(n *yaml.Node) {
			v := d.text(n, "venv")
			if v != "" && !venvPattern.MatchString(v) {
				d.problem(n, "venv %s is not an absolute path of letters, digits, . _ and -; for example /opt/jupyter", dspool.Quote(v))
				return
			}
			p.Venv = v
		},
		"system_site_packages": func(n *yaml.Node) {
			if n.Tag != "!!bool" || n.Decode(&p.SystemSitePackages) != nil {
				d.problem(n, "system_site_packages must be true or false")
			}
		},
		"requirements": func(n *yaml.Node) { p.Requirements = d.requirements(n) },
		"modules": func(n *yaml.Node) {
			d.list(n, "modules", func(n *yaml.Node) { p.Modules = append(p.Modules, d.module(n, p.Modules)...) })
		},
		"index": func(n *yaml.Node) {
			s := d.text(n, "index")
			if s == "" {
				return
			}
			if u, err := url.Parse(s); err == nil && u.User != nil {
				d.problem(n, "index must not hold a password, since recipes are read by many; it belongs into the host's /etc/pip.conf")
				return
			} else if checkMirror(s) != nil {
				d.problem(n, "index %s is not the address of a package index; for example https://index.example.org/simple", dspool.Quote(s))
				return
			}
			p.Index = s
		},
	})
	switch {
	case len(d.loader.problems) > before:
		return
	case p.Venv == "":
		d.problem(n, "python needs a venv; for example venv: /opt/jupyter")
	case len(p.Requirements)+len(p.Modules) == 0:
		d.problem(n, "python needs requirements: FILE or modules: [FOLDER]")
	default:
		d.recipe.Python = p
	}
}

// requirements reads the requirements file that n names.
func (d *decoder) requirements(n *yaml.Node) []Requirement {
	name := d.text(n, "requirements")
	if name == "" {
		return nil
	}
	before := len(d.loader.problems)
	text := d.source(n, "requirements")
	if len(d.loader.problems) > before {
		return nil
	}
	file := filepath.Join(filepath.Dir(d.recipe.Path), name)
	bad := 0
	out := parseRequirements(string(text), func(line int, format string, args ...any) {
		if bad++; bad <= mostLines {
			d.loader.problems = append(d.loader.problems, file+":"+strconv.Itoa(line)+": "+fmt.Sprintf(format, args...))
		}
	})
	switch {
	case bad > mostLines:
		d.loader.problems = append(d.loader.problems, fmt.Sprintf("%s: %d more lines are not pinned, hashed packages", file, bad-mostLines))
	case bad == 0 && len(out) == 0:
		d.problem(n, "requirements %s lists no package", dspool.Quote(name))
	}
	return out
}

// module reads the folder that n names, beside the recipe or, as parents are, elsewhere.
func (d *decoder) module(n *yaml.Node, before []Module) []Module {
	name := d.text(n, "module")
	if name == "" {
		return nil
	}
	if !modulePattern.MatchString(name) {
		d.problem(n, "module %s is not the name of a Python package: the name of a folder beside the recipe", dspool.Quote(name))
		return nil
	}
	if slices.ContainsFunc(before, func(m Module) bool { return m.Name == name }) {
		d.problem(n, "module %s is there twice", name)
		return nil
	}
	for _, dir := range append([]string{filepath.Dir(d.recipe.Path)}, d.loader.elsewhere...) {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || !info.IsDir() {
			continue
		}
		m, err := readModule(dir, name)
		if err != nil {
			d.problem(n, "module %s in %s: %v", name, dir, err)
			return nil
		}
		return []Module{m}
	}
	d.problem(n, "module: there is no folder %s beside the recipe, nor one of that name comes with dspool", name)
	return nil
}

// readModule reads the module beneath dir; links are refused, and what Python and
// people's tools leave beside the sources is not part of it.
func readModule(dir, name string) (Module, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return Module{}, err
	}
	defer root.Close()
	m, total := Module{Name: name}, int64(0)
	err = fs.WalkDir(root.FS(), name, func(p string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case strings.HasPrefix(e.Name(), ".") || e.Name() == "__pycache__" || strings.HasSuffix(e.Name(), ".pyc"):
			if e.IsDir() {
				return fs.SkipDir
			}
			return nil
		case e.IsDir():
			return nil
		case !e.Type().IsRegular():
			return fmt.Errorf("%s is not a plain file", dspool.Quote(p))
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		if total += info.Size(); total > maxFile {
			return fmt.Errorf("it is larger than %s", dspool.FormatBytes(maxFile))
		}
		content, err := root.ReadFile(p)
		m.Files = append(m.Files, File{Path: p, Mode: 0o644, Content: content})
		return err
	})
	if err != nil {
		return Module{}, err
	}
	if !slices.ContainsFunc(m.Files, func(f File) bool { return f.Path == path.Join(name, "__init__.py") }) {
		return Module{}, errors.New("it has no __init__.py")
	}
	return m, nil
}
