package image

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/dspool/dspool"
)

// Python is a virtual environment of an image.
type Python struct {
	Venv               string // absolute, in the image
	SystemSitePackages bool   // Debian's own packages are seen, too
	Requirements       []Requirement
	Modules            []Module // folders beneath the recipe's, copied as they are
	Index              string   // address; "" is the store's. It decides nothing, since every file is hashed
}

// Module is a Python package that needs no build: a folder of files.
type Module struct {
	Name  string
	Files []File // by path, which begins with the module's name
}

// pythonScript makes or extends the virtual environment $1 ("$2" is true where it sees
// the system's packages) from the tar on its input.
//
//go:embed python.sh
var pythonScript string

// compilePython is the last of installPython's steps, and the only one where nothing is
// fetched.
const compilePython = "compile Python modules"

// installPython fills the virtual environment. Everything happens in one command of the
// sandbox, so that what fetching needs is in memory and gone with it.
func (b *build) installPython(ctx context.Context) error {
	p := b.recipe.Python
	index := *b.store.opts.Index
	if p.Index != "" {
		index.URL, index.Extra, index.FindLinks, index.None = p.Index, nil, nil, false
	}
	env, files, err := index.pip()
	if err != nil {
		return dspool.Errorf(dspool.Unavailable, "the host's settings for pip name a file that cannot be read: %w", err)
	}
	var requirements strings.Builder
	for _, r := range p.Requirements {
		fmt.Fprintln(&requirements, r.line())
	}
	files = append(files, File{Path: "requirements.txt", Mode: 0o600, Content: []byte(requirements.String())})
	for _, m := range p.Modules {
		for _, f := range m.Files {
			f.Path = "modules/" + f.Path
			files = append(files, f)
		}
	}
	packed, err := pack(files)
	if err != nil {
		return err
	}
	w := &pipWatch{b: b, first: b.at, total: len(p.Requirements)}
	out := &output{log: b.log, watch: w.line}
	err = b.box.rootCommand(ctx, env, packed, out, "/bin/sh", "-c", pythonScript, "python", p.Venv, fmt.Sprint(p.SystemSitePackages), pipDir)
	if err != nil {
		return pipError(err, out)
	}
	return w.missing(p.Requirements)
}

// pipWatch reads what the script and pip print.
type pipWatch struct {
	b              *build
	first          int // index of the first of pythonSteps
	total, fetched int
	checks         bool
	broken         []string // lines of pip check
}

var (
	pipFetched = regexp.MustCompile(`^\s*(?:Downloading|Using cached) (?:\S*/)?([^\s/]+)\.whl(?: |$)`)
	pipBroken  = regexp.MustCompile(`^(\S+) \S+ (?:requires|has requirement) `)
)

func (w *pipWatch) line(line string) {
	step := func(n int, what string, share float64) {
		w.b.at = w.first + n
		w.b.report(what, share)
	}
	switch m := pipFetched.FindStringSubmatch(line); {
	case m != nil:
		if w.fetched < w.total {
			w.fetched++
		}
		name, _, _ := strings.Cut(m[1], "-")
		step(0, fmt.Sprintf("fetch %d of %d Python packages: %s", w.fetched, w.total, name), float64(w.fetched)/float64(w.total))
	case strings.HasPrefix(line, "Installing collected packages"):
		step(1, fmt.Sprintf("install %d Python packages", w.total), 0)
	case line == "I: compile" && w.total > 0:
		step(2, compilePython, 0)
	case line == "I: check":
		w.checks = true
	case w.checks && pipBroken.MatchString(line):
		w.broken = append(w.broken, line)
	}
}

// missing says which of the requirements lack what they depend on. What Debian's own
// packages lack is not this recipe's concern.
func (w *pipWatch) missing(requirements []Requirement) error {
	broken := slices.DeleteFunc(w.broken, func(line string) bool {
		name := strings.ToLower(namePattern.ReplaceAllString(pipBroken.FindStringSubmatch(line)[1], "-"))
		return !slices.ContainsFunc(requirements, func(r Requirement) bool { return r.Name == name })
	})
	if len(broken) == 0 {
		return nil
	}
	return dspool.Errorf(dspool.Invalid, "the requirements are not complete\n  %s", strings.Join(broken, "\n  ")).
		WithHint("list every package that the others need, too; pip-compile and uv pip compile write such files")
}

// pipError says for people why Python packages could not be installed.
func pipError(err error, out *output) error {
	if isContext(err) {
		return err
	}
	tail := strings.Join(out.tail(), "\n  ")
	if _, ok := out.has("E: no venv"); ok {
		return dspool.Errorf(dspool.Invalid, "the image has no Python that makes virtual environments").WithHint("add python3-venv to packages: of this recipe or of one that it is from")
	}
	if _, ok := out.has("No space left on device"); ok {
		return dspool.Errorf(dspool.Unavailable, "the disk is full\n  %s", tail).WithHint("make room, or remove old images")
	}
	if line, ok := out.has("DO NOT MATCH THE HASHES"); ok {
		return dspool.Errorf(dspool.Invalid, "the package index serves other files than the requirements name\n  %s", strings.Join(append([]string{line}, out.after(line, 6)...), "\n  ")).
			WithHint("use the index that the requirements were made with, or make them again")
	}
	if line, ok := out.has("Could not fetch URL", "Temporary failure in name resolution", "Name or service not known", "Failed to establish a new connection", "Connection refused",
		"Network is unreachable", "timed out", "Max retries exceeded", "CERTIFICATE_VERIFY_FAILED", "Cannot connect to proxy", "401 Client Error", "403 Client Error",
		"407 Proxy", "500 Server Error", "502 Server Error", "503 Server Error", "504 Server Error"); ok {
		return dspool.Errorf(dspool.Unavailable, "Python packages cannot be fetched\n  %s", strings.Join(slices.Compact([]string{line, tail}), "\n  ")).
			WithHint("check the network, set index: in the recipe, or set index-url, proxy or cert in the host's /etc/pip.conf")
	}
	if _, ok := out.has("No matching distribution found"); ok {
		return dspool.Errorf(dspool.Invalid, "the package index has no wheel for this Python and computer\n  %s", tail).
			WithHint("correct the requirements; packages without wheels are not built")
	}
	var exit interface{ ExitCode() int }
	if errors.As(err, &exit) {
		return dspool.Errorf(dspool.Invalid, "Python packages could not be installed: %v\n  %s", err, tail)
	}
	return fmt.Errorf("install Python packages: %w", err)
}
