package image

import (
	"fmt"
	"io"
	"maps"
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
	"github.com/dspool/dspool/internal/suggest"
)

var (
	suitePattern   = regexp.MustCompile(`^[a-z][a-z0-9-]{0,63}$`)
	packagePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]*[a-z0-9+.](:[a-z0-9]+)?(=[A-Za-z0-9.+:~-]+)?$`)
)

// decoder reads the YAML of one recipe and collects its problems.
type decoder struct {
	recipe   *Recipe
	loader   *loader
	children []string // names from the recipe that was asked for down to this one
}

func (d *decoder) problem(n *yaml.Node, format string, args ...any) {
	at := d.recipe.Path
	if n != nil && n.Line > 0 {
		at += ":" + strconv.Itoa(n.Line)
	}
	d.loader.problems = append(d.loader.problems, at+": "+fmt.Sprintf(format, args...))
}

func (d *decoder) decode(text []byte) {
	dec := yaml.NewDecoder(strings.NewReader(string(text)))
	var doc, more yaml.Node
	if err := dec.Decode(&doc); err == io.EOF {
		d.problem(nil, "the recipe is empty; it needs base: or from:")
		return
	} else if err != nil {
		d.problem(nil, "%v", err)
		return
	}
	if err := dec.Decode(&more); err != io.EOF {
		d.problem(nil, "the file holds more than one YAML document; one recipe per file")
		return
	}
	top := doc.Content[0]
	var base, from *yaml.Node
	d.fields(top, "recipe", map[string]func(*yaml.Node){
		"description": func(n *yaml.Node) { d.recipe.Description = d.text(n, "description") },
		"base":        func(n *yaml.Node) { base = n; d.base(n) },
		"from":        func(n *yaml.Node) { from = n; d.from(n) },
		"mirror":      d.mirror,
		"packages":    d.packages,
		"files":       func(n *yaml.Node) { d.list(n, "files", d.file) },
		"run":         func(n *yaml.Node) { d.list(n, "run", d.run) },
		"python":      d.python,
	})
	switch {
	case top.Kind != yaml.MappingNode:
	case base == nil && from == nil:
		d.problem(top, "the recipe needs either base: {suite: trixie} or from: OTHER")
	case base != nil && from != nil:
		d.problem(from, "a recipe has base: or from:, not both")
	case from != nil && d.recipe.Mirror != Mirror{}:
		d.problem(from, "mirror: belongs to the recipe with base:, whose package sources the image keeps")
	}
}

// fields calls the function of every key of a mapping and reports the keys that have none.
func (d *decoder) fields(n *yaml.Node, what string, known map[string]func(*yaml.Node)) {
	if n.Kind != yaml.MappingNode {
		d.problem(n, "%s must be a mapping of %s", what, strings.Join(slices.Sorted(maps.Keys(known)), ", "))
		return
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		read, ok := known[key.Value]
		switch {
		case !ok:
			d.problem(key, "%s has no key %s; %s", what, dspool.Quote(key.Value), meant(key.Value, slices.Sorted(maps.Keys(known))))
		case seen[key.Value] > 0:
			d.problem(key, "key %s is there twice, first on line %d", key.Value, seen[key.Value])
		case value.Kind == yaml.AliasNode:
			d.problem(value, "YAML aliases are not supported; write the value out")
		default:
			read(value)
		}
		seen[key.Value] = key.Line
	}
}

// text reads a string that is not empty.
func (d *decoder) text(n *yaml.Node, what string) string {
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" || n.Value == "" {
		d.problem(n, "%s must be a text", what)
		return ""
	}
	if strings.ContainsRune(n.Value, 0) {
		d.problem(n, "%s holds a NUL byte", what)
		return ""
	}
	return n.Value
}

func (d *decoder) list(n *yaml.Node, what string, each func(*yaml.Node)) {
	if n.Kind != yaml.SequenceNode {
		d.problem(n, "%s must be a list", what)
		return
	}
	for _, item := range n.Content {
		each(item)
	}
}

func (d *decoder) base(n *yaml.Node) {
	before := len(d.loader.problems)
	d.fields(n, "base", map[string]func(*yaml.Node){
		"suite": func(n *yaml.Node) {
			if s := d.text(n, "suite"); s != "" && !suitePattern.MatchString(s) {
				d.problem(n, "suite %s is not the name of a Debian release; for example trixie", dspool.Quote(s))
			} else {
				d.recipe.Suite = s
			}
		},
	})
	if d.recipe.Suite == "" && len(d.loader.problems) == before {
		d.problem(n, "base needs a suite; for example base: {suite: trixie}")
	}
}

func (d *decoder) from(n *yaml.Node) {
	name := d.text(n, "from")
	if name == "" {
		return
	}
	if err := dspool.CheckImageName(name); err != nil {
		d.problem(n, "from: %v", err)
		return
	}
	if slices.Contains(d.children, name) || len(d.children) > maxParents {
		d.problem(n, "from: %s leads back to itself (%s)", name, strings.Join(append(d.children, name), " from "))
		return
	}
	parent := d.loader.parent(filepath.Dir(d.recipe.Path), name)
	p, err := d.loader.load(parent, d.children)
	if err != nil {
		if dspool.ErrorCode(err) == dspool.NotFound {
			d.problem(n, "from: there is no recipe %s, nor one of that name comes with dspool", parent)
		} else {
			d.problem(n, "from: %v", err)
		}
		return
	}
	d.recipe.Parent = p
}

func (d *decoder) mirror(n *yaml.Node) {
	read := func(into *string, what string) func(*yaml.Node) {
		return func(n *yaml.Node) {
			s := d.text(n, what)
			if s == "" {
				return
			}
			if err := checkMirror(s); err != nil {
				d.problem(n, "%s: %v", what, err)
				return
			}
			*into = strings.TrimSuffix(s, "/")
		}
	}
	if n.Kind == yaml.ScalarNode {
		read(&d.recipe.Mirror.Archive, "mirror")(n)
		return
	}
	d.fields(n, "mirror", map[string]func(*yaml.Node){
		"archive":  read(&d.recipe.Mirror.Archive, "archive"),
		"security": read(&d.recipe.Mirror.Security, "security"),
	})
	if d.recipe.Mirror.Archive == "" && d.recipe.Mirror.Security != "" {
		d.problem(n, "mirror needs an archive: beside security:")
	}
}

// checkMirror refuses what is no plain http address: it becomes part of the image's
// package sources, which every user of a machine can read.
func checkMirror(s string) error {
	u, err := url.Parse(s)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || strings.ContainsAny(s, " \t\r\n[]") {
		return fmt.Errorf("%s is not the address of a package mirror; for example http://mirror.example.org/debian", dspool.Quote(s))
	}
	if u.User != nil {
		return fmt.Errorf("the address of a package mirror must not hold a password, since the image shows it to everyone")
	}
	return nil
}

func (d *decoder) packages(n *yaml.Node) {
	d.list(n, "packages", func(n *yaml.Node) {
		p := d.text(n, "package")
		if p == "" {
			return
		}
		if !packagePattern.MatchString(p) {
			d.problem(n, "%s is not the name of a Debian package; write name or name=version", dspool.Quote(p))
			return
		}
		d.recipe.Packages = append(d.recipe.Packages, p)
	})
	slices.Sort(d.recipe.Packages)
	d.recipe.Packages = slices.Compact(d.recipe.Packages)
}

func (d *decoder) run(n *yaml.Node) {
	if s := d.text(n, "run step"); s != "" {
		d.recipe.Run = append(d.recipe.Run, s)
	}
}

func (d *decoder) file(n *yaml.Node) {
	f := File{Mode: 0o644}
	var content, source *yaml.Node
	before := len(d.loader.problems)
	d.fields(n, "file", map[string]func(*yaml.Node){
		"path": func(n *yaml.Node) {
			p := d.text(n, "path")
			if p == "" {
				return
			}
			if !path.IsAbs(p) || path.Clean(p) != p || p == "/" || strings.ContainsAny(p, "\n\r") {
				d.problem(n, "path %s is not an absolute path of a file without . and ..", dspool.Quote(p))
				return
			}
			if slices.ContainsFunc(d.recipe.Files, func(o File) bool { return o.Path == p }) {
				d.problem(n, "file %s is there twice", p)
				return
			}
			f.Path = p
		},
		"content": func(n *yaml.Node) {
			content = n
			if n.Kind != yaml.ScalarNode {
				d.problem(n, "content must be a text")
			} else if f.Content = []byte(n.Value); n.Tag == "!!null" {
				f.Content = nil
			}
		},
		"source": func(n *yaml.Node) {
			if source = n; d.text(n, "source") != "" {
				f.Content = d.source(n, "source")
			}
		},
		"mode": func(n *yaml.Node) {
			// Read from the text: YAML would take 0644 as octal but 644 as decimal.
			m, err := strconv.ParseUint(strings.TrimPrefix(n.Value, "0o"), 8, 32)
			if n.Kind != yaml.ScalarNode || err != nil || m > 0o6777 {
				d.problem(n, "mode %s is not a file mode; for example 0644", dspool.Quote(n.Value))
				return
			}
			f.Mode = uint32(m)
		},
	})
	switch {
	case len(d.loader.problems) > before:
		return
	case f.Path == "":
		d.problem(n, "file needs a path")
	case (content == nil) == (source == nil):
		d.problem(n, "file %s needs either content: or source:", f.Path)
	default:
		d.recipe.Files = append(d.recipe.Files, f)
	}
}

// source reads a file beneath the recipe's folder; links out of it are refused.
func (d *decoder) source(n *yaml.Node, what string) []byte {
	root, err := os.OpenRoot(filepath.Dir(d.recipe.Path))
	if err != nil {
		d.problem(n, "%s: %v", what, err)
		return nil
	}
	defer root.Close()
	info, err := root.Stat(n.Value)
	if err != nil {
		d.problem(n, "%s %s cannot be read from the recipe's folder: %v", what, dspool.Quote(n.Value), err)
		return nil
	}
	if !info.Mode().IsRegular() || info.Size() > maxFile {
		d.problem(n, "%s %s is not a file of at most %s", what, dspool.Quote(n.Value), dspool.FormatBytes(maxFile))
		return nil
	}
	content, err := root.ReadFile(n.Value)
	if err != nil {
		d.problem(n, "%s %s cannot be read: %v", what, dspool.Quote(n.Value), err)
	}
	return content
}

// meant names the known key that was probably meant, or all of them.
func meant(word string, known []string) string {
	if near := suggest.Nearest(word, known); near != "" {
		return "did you mean " + near + "?"
	}
	return "known are " + strings.Join(known, ", ")
}
