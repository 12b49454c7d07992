package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/suggest"
)

// Limits that keep a hostile file cheap: aliases let few bytes stand for many nodes.
const (
	maxProblems = 100
	maxNodes    = 100_000
)

// field is one key of a mapping: how to read it, and what the reference page says of it.
type field struct {
	key, form, unless, doc string
	read                   func(*yaml.Node)
	inner                  []field // of the mapping it holds
	named                  bool    // whose keys are names, each holding inner
}

// reader gathers problems while it walks the file.
type reader struct {
	file, dir string
	problems  []Problem
	found     int  // problems, also those that are not kept
	muted     bool // they are not to be kept
	nodes     int
	lines     map[string]int
	refused   map[any]bool // pointers to what a value was refused for
}

func (r *reader) problem(n *yaml.Node, hint, format string, args ...any) {
	p := Problem{File: r.file, Message: fmt.Sprintf(format, args...), Hint: hint}
	if n != nil {
		p.Line = n.Line
	}
	if r.found++; !r.muted && len(r.problems) < maxProblems {
		r.problems = append(r.problems, p)
	}
}

// refuse turns an error of package dspool into a problem.
func (r *reader) refuse(n *yaml.Node, where string, err error) {
	var e *dspool.Error
	if !errors.As(err, &e) {
		r.problem(n, "", "%s: %v", where, err)
		return
	}
	if where != "" {
		where += ": "
	}
	r.problem(n, e.Hint, "%s%s", where, e.Message)
}

// visit resolves aliases and says whether to go on.
func (r *reader) visit(n *yaml.Node) (*yaml.Node, bool) {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if r.nodes++; r.nodes > maxNodes {
		if r.nodes == maxNodes+1 {
			r.problem(n, "write fewer entries", "the file holds too much")
		}
		return n, false
	}
	return n, true
}

// document parses text into its one root mapping; nil when there is none.
func (r *reader) document(text []byte) *yaml.Node {
	if len(text) > MaxBytes {
		r.problem(nil, "at most "+dspool.FormatBytes(MaxBytes), "the file is %s long", dspool.FormatBytes(int64(len(text))))
		return nil
	}
	dec := yaml.NewDecoder(bytes.NewReader(text))
	var doc, second yaml.Node
	switch err := decode(dec, &doc); {
	case errors.Is(err, io.EOF):
		r.problem(nil, "examples/team.yaml is one to begin with", "the file is empty")
		return nil
	case err != nil:
		r.syntax(err)
		return nil
	}
	switch err := decode(dec, &second); {
	case errors.Is(err, io.EOF):
	case err != nil:
		r.syntax(err)
	default:
		r.problem(&second, "keep everything in one, without ---", "the file holds a second document")
	}
	return doc.Content[0]
}

// decode turns a panic of the parser into an error: a file must never end the server.
func decode(dec *yaml.Decoder, n *yaml.Node) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%v", p)
		}
	}()
	return dec.Decode(n)
}

// syntax reports what the parser says, at the beginning of what it was reading:
// for a brace that is never closed, the line of the brace.
func (r *reader) syntax(err error) {
	n, text, where := &yaml.Node{Line: 1}, err.Error(), "there"
	var e *yaml.LoadError
	if errors.As(err, &e) {
		n.Line, text = max(e.Mark.Line, 1), e.Message
		if from := e.ContextMark.Line; from > 0 && from < e.Mark.Line {
			n.Line, where = from, fmt.Sprintf("from there to line %d", e.Mark.Line)
		}
	}
	r.problem(n, "look at the indentation, the colons and the quotes "+where, "not YAML: %s", text)
}

// mapping reads a mapping of known keys.
func (r *reader) mapping(n *yaml.Node, where string, fields []field) {
	keys := make([]string, len(fields))
	for i, f := range fields {
		keys[i] = f.key
	}
	at := func(key string) string { // "server.listen", "max of pool batch"
		if where == "" {
			return key
		}
		return key + " of " + where
	}
	r.entries(n, where, func(key, value *yaml.Node) {
		i := slices.Index(keys, key.Value)
		switch {
		case key.Value == "<<":
			r.problem(key, "write the keys out, or name a whole value by *alias", "merge keys (<<) are not read here")
		case i < 0:
			hint := "known here: " + strings.Join(keys, ", ")
			if s := suggest.Nearest(key.Value, keys); s != "" {
				hint = "did you mean " + s + "?"
			}
			r.problem(key, hint, "unknown key %s", at(dspool.Quote(key.Value)))
		case value.Kind == yaml.ScalarNode && value.Tag == "!!null" && fields[i].inner == nil:
			r.problem(key, "give a value or leave the key out", "%s is empty", at(key.Value))
			r.muted = true // it is refused, and all is said
			fields[i].read(value)
			r.muted = false
		default:
			fields[i].read(value)
		}
	})
}

// entries calls fn for every key of a mapping, once for each key; nothing is an empty mapping.
func (r *reader) entries(n *yaml.Node, where string, fn func(key, value *yaml.Node)) {
	n, ok := r.visit(n)
	if !ok || n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return
	}
	if n.Kind != yaml.MappingNode {
		if where == "" {
			where = "the file"
		}
		r.problem(n, "for example \"key: value\", one to a line", "%s must hold keys and values, not %s", where, kindOf(n))
		return
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, ok := r.visit(n.Content[i])
		if !ok {
			return
		}
		if key.Kind != yaml.ScalarNode {
			r.problem(key, "", "a key must be a plain word")
			continue
		}
		if first, twice := seen[key.Value]; twice {
			r.problem(key, fmt.Sprintf("it is already in line %d", first), "%s is there twice", dspool.Quote(key.Value))
			continue
		}
		seen[key.Value] = key.Line
		value, ok := r.visit(n.Content[i+1])
		if !ok {
			return
		}
		fn(key, value)
	}
}

// items calls fn for every item of a sequence.
func (r *reader) items(n *yaml.Node, where string, fn func(*yaml.Node)) {
	if n.Kind != yaml.SequenceNode {
		r.problem(n, "for example [a, b], or lines that begin with \"- \"", "%s must be a list, not %s", where, kindOf(n))
		return
	}
	for _, item := range n.Content {
		item, ok := r.visit(item)
		if !ok {
			return
		}
		fn(item)
	}
}

func kindOf(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "keys and values"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case n.Tag == "!!null":
		return "nothing"
	}
	return dspool.Quote(n.Value)
}

// text gives a scalar's value; ok is false, with the problem said, when n is none.
func (r *reader) text(n *yaml.Node, where string) (string, bool) {
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
		r.problem(n, "", "%s must be one value, not %s", where, kindOf(n))
		return "", false
	}
	return n.Value, true
}

// scalar makes a field's reader from a parser of its text.
func scalar[T any](r *reader, into *T, where string, parse func(string) (T, error)) func(*yaml.Node) {
	return func(n *yaml.Node) {
		s, ok := r.text(n, where)
		if !ok {
			r.refused[into] = true
			return
		}
		v, err := parse(s)
		if err != nil {
			r.refused[into] = true
			r.refuse(n, where, err)
			return
		}
		*into = v
	}
}

// words makes the reader of a list of words, none of them twice.
func words(r *reader, into *[]string, where string, check func(string) error) func(*yaml.Node) {
	return func(n *yaml.Node) {
		*into = []string{}
		before := r.found
		defer func() { r.refused[into] = r.found > before }()
		r.items(n, where, func(item *yaml.Node) {
			s, ok := r.text(item, "an item of "+where)
			if !ok {
				return
			}
			if err := check(s); err != nil {
				r.refuse(item, where, err)
				return
			}
			if slices.Contains(*into, s) {
				r.problem(item, "name it once", "%s names %s twice", where, dspool.Quote(s))
				return
			}
			*into = append(*into, s)
		})
	}
}

func parseText(s string) (string, error) {
	if strings.ContainsFunc(s, func(c rune) bool { return c < 0x20 || c == 0x7f }) {
		return "", dspool.Errorf(dspool.Invalid, "%s holds a character that cannot be printed", dspool.Quote(s))
	}
	return s, nil
}

func parseBool(s string) (bool, error) {
	switch strings.ToLower(s) {
	case "true", "yes", "on":
		return true, nil
	case "false", "no", "off":
		return false, nil
	}
	return false, dspool.Errorf(dspool.Invalid, "%s is neither yes nor no", dspool.Quote(s)).WithHint("write true or false")
}

func parseInt(low, high int) func(string) (int, error) {
	return func(s string) (int, error) {
		n, err := strconv.Atoi(s)
		if err != nil || n < low || n > high {
			return 0, dspool.Errorf(dspool.Invalid, "%s is not a whole number from %d to %d", dspool.Quote(s), low, high)
		}
		return n, nil
	}
}

func parseWord(words ...string) func(string) (string, error) {
	return func(s string) (string, error) {
		if slices.Contains(words, s) {
			return s, nil
		}
		err := dspool.Errorf(dspool.Invalid, "%s is not possible", dspool.Quote(s)).WithHint("use %s", strings.Join(words, ", "))
		if near := suggest.Nearest(s, words); near != "" {
			err = err.WithHint("did you mean %s?", near)
		}
		return "", err
	}
}

// parsePath reads a path; a relative one begins at the file's directory.
func (r *reader) parsePath(s string) (string, error) {
	if _, err := parseText(s); err != nil {
		return "", err
	}
	if s == "" {
		return "", dspool.Errorf(dspool.Invalid, "the path is empty")
	}
	if !filepath.IsAbs(s) {
		if r.dir == "" {
			return "", dspool.Errorf(dspool.Invalid, "%s is a relative path, and nobody knows where it begins", dspool.Quote(s)).
				WithHint("write the path in full, beginning with /")
		}
		s = filepath.Join(r.dir, s)
	}
	return filepath.Clean(s), nil
}
