package image

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/dspool/dspool"
)

// A requirements file is pip's, less everything that would let the index decide what
// gets installed: https://pip.pypa.io/en/stable/reference/requirements-file-format/
var (
	requirementPattern = regexp.MustCompile(`^([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)\s*(\[[A-Za-z0-9._, -]*\])?\s*(.*)$`)
	pinPattern         = regexp.MustCompile(`^={2,3}\s*([A-Za-z0-9](?:[A-Za-z0-9.!+_-]*[A-Za-z0-9])?)$`)
	hashPattern        = regexp.MustCompile(`^(?:sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128})$`)
	namePattern        = regexp.MustCompile(`[-_.]+`)
	commentPattern     = regexp.MustCompile(`(^|\s+)#.*$`)
)

// Requirement is one Python package, pinned to a version and to the files that may be
// installed for it.
type Requirement struct {
	Name   string   // as PEP 503 normalises it
	Pin    string   // "==VERSION", after extras and before a marker where there are any
	Hashes []string // sorted; "sha256:…"
}

// line is the requirement as pip reads it.
func (r Requirement) line() string {
	return r.Name + r.Pin + " --hash=" + strings.Join(r.Hashes, " --hash=")
}

// parseRequirements reads a requirements file and returns what it asks for by name.
// problem is told the line of everything that is not a pinned, hashed package.
func parseRequirements(text string, problem func(line int, format string, args ...any)) []Requirement {
	var out []Requirement
	first := map[string]int{}
	for n, logical := range logicalLines(text) {
		r, err := parseRequirement(logical)
		if err != nil {
			problem(n, "%v", err)
			continue
		}
		// The same package twice is right only for different computers.
		if before, twice := first[r.Name]; twice && !strings.Contains(r.Pin, ";") {
			problem(n, "%s is there twice, first on line %d", r.Name, before)
			continue
		}
		first[r.Name] = n
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b Requirement) int { return strings.Compare(a.line(), b.line()) })
	return out
}

// logicalLines yields the lines that are not empty with the number of their first part:
// a backslash at the end joins, and comments go, as in pip.
func logicalLines(text string) func(yield func(int, string) bool) {
	return func(yield func(int, string) bool) {
		n, start, joined := 0, 0, ""
		for raw := range strings.Lines(text) {
			n++
			raw = strings.TrimRight(raw, "\r\n")
			if joined == "" {
				start = n
			}
			bare := commentPattern.ReplaceAllString(raw, "")
			if part, more := strings.CutSuffix(bare, `\`); more {
				joined += part + " "
				continue
			}
			joined += bare
			line := strings.TrimSpace(joined)
			joined = ""
			if line != "" && !yield(start, line) {
				return
			}
		}
		if line := strings.TrimSpace(joined); line != "" {
			yield(start, line)
		}
	}
}

func parseRequirement(line string) (Requirement, error) {
	if strings.HasPrefix(line, "-") {
		option, _, _ := strings.Cut(line, " ")
		option, _, _ = strings.Cut(option, "=")
		return Requirement{}, fmt.Errorf("option %s is not supported: only NAME==VERSION --hash=sha256:… may be here", dspool.Quote(option))
	}
	spec, options, hashed := strings.Cut(line, " --")
	spec, marker, marked := strings.Cut(spec, ";")
	if strings.Contains(spec, "://") { // not repeated, since it may hold a password
		return Requirement{}, errors.New("addresses are not supported: write NAME==VERSION --hash=sha256:…, and index: in the recipe")
	}
	m := requirementPattern.FindStringSubmatch(strings.TrimSpace(spec))
	if m == nil || strings.ContainsAny(m[3], "/:@") {
		return Requirement{}, fmt.Errorf("%s is not the name of a package; write NAME==VERSION --hash=sha256:…", dspool.Quote(strings.TrimSpace(spec)))
	}
	name := strings.ToLower(namePattern.ReplaceAllString(m[1], "-"))
	pin := pinPattern.FindStringSubmatch(m[3])
	if pin == nil {
		return Requirement{}, fmt.Errorf("%s is not pinned to one version; write %s==VERSION", name, name)
	}
	r := Requirement{Name: name, Pin: strings.ReplaceAll(m[2], " ", "") + "==" + pin[1]}
	if marked {
		r.Pin += " ; " + strings.TrimSpace(marker)
	}
	if !hashed {
		return Requirement{}, fmt.Errorf("%s has no hash; write --hash=sha256:… for each file that may be installed", name)
	}
	for option := range strings.FieldsSeq("--" + options) {
		hash, ok := strings.CutPrefix(option, "--hash=")
		if !ok {
			return Requirement{}, fmt.Errorf("%s has the option %s; only --hash=sha256:… may be here", name, dspool.Quote(option))
		}
		if !hashPattern.MatchString(hash) {
			return Requirement{}, fmt.Errorf("%s has the hash %s, which is none of sha256, sha384 and sha512", name, dspool.Quote(hash))
		}
		r.Hashes = append(r.Hashes, hash)
	}
	slices.Sort(r.Hashes)
	r.Hashes = slices.Compact(r.Hashes)
	return r, nil
}
