// Package config reads team.yaml, the one file that says what a team has: its
// server, users, sizes, shares, images and pools. Parse reports every problem of
// the file at once, each with its line and, where it can, with what was probably
// meant. Of other files the package reads only the certificates, keys and secrets
// of web and login, to check them; it asks no server.
package config

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
)

// These are known without being listed under images: DefaultImage always, HubImage when a pool names it,
// as one that runs JupyterHub does unless the file says otherwise.
const (
	DefaultImage = "UbuntuDSVM"
	HubImage     = "JupyterHub"
)

// MaxBytes is the longest file that Parse reads.
const MaxBytes = 1 << 20

// Config is a valid file. Lists are in the file's order.
type Config struct {
	Server   Server
	Defaults Defaults
	UIDs     dspool.UIDRange
	Users    []User
	Sizes    []dspool.Size
	// Shares have an empty Path where the file gives none; SetStateDir fills them.
	Shares []dspool.Share
	// Images have an empty Recipe where the file gives none: then the recipe is NAME.yaml in
	// Server.Images, else in images/ beside the file, else the one inside the binary.
	Images []dspool.Image
	Pools  []dspool.Pool
	Doors  []dspool.Door
	SSH    SSH
	Web    Web
	Login  Login

	Retention Retention

	file  string
	lines map[string]int // "pool batch" → line
}

// Server is how the server itself runs; changes take effect at its next start.
type Server struct {
	Listen      string       // host:port of the API; 127.0.0.1:8443 unless given
	Subnet      netip.Prefix // for machines' addresses; invalid: the provider chooses
	Images      string       // directory of image recipes; "" as said at Config.Images
	Certificate string       // PEM file; "" makes one, signed by the installation's own authority
	Key         string       // PEM file, with Certificate
	Names       []string     // extra host names and addresses in the certificate that is made
}

// Defaults are used where a command names nothing.
type Defaults struct {
	User      string // whom administrators' jobs run as; the first user unless given
	Pool      string // the first pool unless given
	JobsShare string // share that keeps jobs' directories; "team" unless given
}

// User is an account that the file asks for.
type User struct {
	Name        string
	Admin       bool
	Keys        []string // public keys, lines of .pub files; checked by whoever adds them
	Groups      []string
	DefaultPool string
}

// Retention is how long history is kept; 0 is for ever. What was used, and what it cost, stays.
type Retention struct {
	Events   dspool.Duration
	Jobs     dspool.Duration // from their end, with their tasks
	Sessions dspool.Duration // from their end, with their connections and apps
	Output   dspool.Duration // jobs' directories, from the jobs' end
}

// DefaultRetention is what the file says where it says nothing.
var DefaultRetention = Retention{Events: 90 * daily, Jobs: 365 * daily, Sessions: 365 * daily}

const daily = dspool.Duration(24 * time.Hour)

// SSH is how people prove who they are at doors for SSH, beside their keys, passwords and the pool's certificates.
type SSH struct {
	UserAuthorities []string // public keys, lines of .pub files; checked by whoever trusts them
}

// Problem is one thing wrong with a file.
type Problem struct {
	File    string
	Line    int // from 1; 0 is the whole file
	Message string
	Hint    string
}

// Location returns FILE:LINE.
func (p Problem) Location() string {
	if p.Line == 0 {
		return p.File
	}
	return fmt.Sprintf("%s:%d", p.File, p.Line)
}

func (p Problem) String() string {
	s := p.Location() + ": " + p.Message
	if p.Hint != "" {
		s += " (" + p.Hint + ")"
	}
	return s
}

// FieldProblems puts problems into the API's form.
func FieldProblems(problems []Problem) []api.FieldProblem {
	var out []api.FieldProblem
	for _, p := range problems {
		out = append(out, api.FieldProblem{Location: p.Location(), Message: p.Message, Hint: p.Hint})
	}
	return out
}

// Err sums problems up as one error, or nil when there is none.
func Err(problems []Problem) error {
	switch len(problems) {
	case 0:
		return nil
	case 1:
		return dspool.Errorf(dspool.Invalid, "%s: %s", problems[0].Location(), problems[0].Message).WithHint("%s", problems[0].Hint)
	}
	return dspool.Errorf(dspool.Invalid, "%s has %d problems, the first in line %d: %s",
		problems[0].File, len(problems), problems[0].Line, problems[0].Message).WithHint("%s", problems[0].Hint)
}

// SetStateDir gives every share without a path its directory DIR/shares/NAME.
func (c *Config) SetStateDir(dir string) {
	for i := range c.Shares {
		if c.Shares[i].Path == "" {
			c.Shares[i].Path = filepath.Join(dir, "shares", c.Shares[i].Name)
		}
	}
}

// ProblemAt makes a problem found later, such as a recipe that does not exist, with
// the line of the noun it is about: kind is user, size, share, image, pool or door. For
// web and login the name is that of a key.
func (c *Config) ProblemAt(kind, name, message, hint string) Problem {
	return Problem{File: c.file, Line: c.lines[kind+" "+name], Message: message, Hint: hint}
}

// Pool returns the pool of that name.
func (c *Config) Pool(name string) (dspool.Pool, bool) {
	i := slices.IndexFunc(c.Pools, func(p dspool.Pool) bool { return p.Name == name })
	if i < 0 {
		return dspool.Pool{}, false
	}
	return c.Pools[i], true
}
