package image

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"regexp"
	"runtime"
)

// builderVersion is part of every key: raise it when the builder makes something
// else of the same recipe.
const builderVersion = 1

var keyPattern = regexp.MustCompile(`^[0-9a-f]{32}$`)

// Key is a hash over everything that decides the image's content: 32 hex digits.
// Where packages are fetched from does not, unless the recipe itself says so.
func (r Recipe) Key() string {
	type file struct {
		Path, SHA256 string
		Mode         uint32
	}
	sum := func(f File) file {
		sum := sha256.Sum256(f.Content)
		return file{Path: f.Path, SHA256: hex.EncodeToString(sum[:]), Mode: f.Mode}
	}
	type python struct {
		Venv               string
		SystemSitePackages bool
		Requirements       []Requirement
		Modules            []file
	}
	in := struct {
		Builder           int
		Arch, Name, Suite string
		Parent            string
		Mirror            Mirror
		Packages          []string
		Python            *python `json:",omitempty"`
		Files             []file
		Run               []string
	}{Builder: builderVersion, Arch: runtime.GOARCH, Name: r.Name, Suite: r.Suite, Mirror: r.Mirror, Packages: r.Packages, Run: r.Run}
	if r.Parent != nil {
		in.Parent = r.Parent.Key()
	}
	for _, f := range r.Files {
		in.Files = append(in.Files, sum(f))
	}
	if p := r.Python; p != nil {
		in.Python = &python{Venv: p.Venv, SystemSitePackages: p.SystemSitePackages, Requirements: p.Requirements}
		for _, m := range p.Modules {
			for _, f := range m.Files {
				in.Python.Modules = append(in.Python.Modules, sum(f))
			}
		}
	}
	text, err := json.Marshal(in)
	if err != nil {
		panic("image: marshal of plain data: " + err.Error())
	}
	all := sha256.Sum256(text)
	return hex.EncodeToString(all[:16])
}
