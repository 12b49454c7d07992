// Patch writes a copy of golang.org/x/crypto with what the SSH doors need and its package ssh has no hook for, and a
// go.mod that has it in the library's place; it prints the path of that go.mod. scripts/go calls it;
// docs/adr/0014-the-door-is-openssh.md says why.
package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

const library = "golang.org/x/crypto"

// edit replaces a piece of one of the library's files. The file must be the one that the edit was written for, byte
// by byte: what stands around the piece matters as well.
type edit struct {
	file   string
	sha256 string
	why    string
	old    string // stands in the file exactly once
	new    string
}

var edits = []edit{
	{
		file: "ssh/transport.go", sha256: "245b42435040ca899da4ca5e3b1022ab93e1dfdfbdf3cbbac06d4c656b7f344c",
		why: "a client that does not know a message says so with UNIMPLEMENTED, which asks for nothing",
		old: "(p[0] != msgIgnore && p[0] != msgDebug)",
		new: "(p[0] != msgIgnore && p[0] != msgDebug && p[0] != msgUnimplemented)",
	},
	{
		file: "ssh/server.go", sha256: "758446779119e406275495b33359a31309d6a108bd00291ae38f733f91e5cc57",
		why: "a client may ask for ssh-userauth again before every try; each request counts as an attempt",
		old: "\t\t} else if err = Unmarshal(packet, &userAuthReq); err != nil {\n",
		new: `		} else if packet[0] == msgServiceRequest {
			var again serviceRequestMsg
			if err := Unmarshal(packet, &again); err != nil {
				return nil, err
			}
			if again.Service != serviceUserAuth {
				return nil, fmt.Errorf("ssh: requested service %q before authenticating", again.Service)
			}
			if err := s.transport.writePacket(Marshal(&serviceAcceptMsg{Service: serviceUserAuth})); err != nil {
				return nil, err
			}
			continue
		} else if err = Unmarshal(packet, &userAuthReq); err != nil {
`,
	},
	{
		file: "ssh/mux.go", sha256: "ad105cd022db660961fd3b62d0b07e31dd0a2d032e4b55a02681bcfae6d8161e",
		why: "a client that closes a channel while output comes may still widen its window; like sshd, nobody minds",
		old: "\tdefault:\n\t\treturn fmt.Errorf(\"ssh: invalid channel %d\", id)\n",
		new: `	case *windowAdjustMsg:
		return nil
	default:
		return fmt.Errorf("ssh: invalid channel %d", id)
`,
	},
}

// mark is a file of the copy by which a program knows that it has the copy: an unedited library has no such method.
const mark = `package ssh

// Patched marks the copy that scripts/patch of dspool has made.
func (*ServerConfig) Patched() {}
`

func main() {
	modfile, err := run()
	if err != nil {
		fmt.Fprintln(os.Stderr, "scripts/patch:", err)
		os.Exit(1)
	}
	fmt.Println(modfile)
}

func run() (modfile string, err error) {
	root, err := os.Getwd()
	if err != nil {
		return "", err
	}
	m, err := download()
	if err != nil {
		return "", err
	}
	copied, err := m.copyEdited(filepath.Join(root, "build", "patched"))
	if err != nil {
		return "", err
	}
	return replaceIn(root, copied)
}

// module is the pinned library.
type module struct{ Version, Dir, Error string }

// download finds the library in the module cache, and fetches it into it first where it has to.
func download() (m module, err error) {
	// Without another's go.mod: below scripts/go that would be the one with the copy.
	out, err := exec.Command("go", "mod", "download", "-modfile=", "-json", library).Output()
	if json.Unmarshal(out, &m) == nil && m.Error != "" {
		return m, errors.New(m.Error)
	}
	if err != nil {
		return m, fmt.Errorf("find %s: %w", library, err)
	}
	return m, nil
}

// copyEdited leaves an edited copy of the library, without its tests, in dir. Its name says what is in it, so that
// a copy that is there is whole and right.
func (m module) copyEdited(dir string) (copied string, err error) {
	texts := map[string][]byte{filepath.Join("ssh", "dspool.go"): []byte(mark)}
	for _, e := range edits {
		if texts[filepath.FromSlash(e.file)], err = e.apply(m.Dir); err != nil {
			return "", err
		}
	}
	sum := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		sum.Write(texts[name])
	}
	copied = filepath.Join(dir, fmt.Sprintf("crypto-%s-%x", m.Version, sum.Sum(nil)[:6]))
	if _, err := os.Stat(copied); err == nil {
		return copied, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	making, err := os.MkdirTemp(dir, ".making-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(making)
	err = filepath.WalkDir(m.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(m.Dir, path)
		if err != nil {
			return err
		}
		switch {
		case d.IsDir() && d.Name() == "testdata":
			return filepath.SkipDir
		case d.IsDir():
			return os.MkdirAll(filepath.Join(making, name), 0o755)
		case strings.HasSuffix(name, "_test.go") || texts[name] != nil:
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(making, name), text, 0o644)
	})
	for name, text := range texts {
		err = errors.Join(err, os.WriteFile(filepath.Join(making, name), text, 0o644))
	}
	if err != nil {
		return "", err
	}
	if err := os.Chmod(making, 0o755); err != nil {
		return "", err
	}
	if err := os.Rename(making, copied); err != nil && !errors.Is(err, fs.ErrExist) { // another build was faster
		return "", err
	}
	return copied, nil
}

// apply returns the edited text of a file of the library in dir.
func (e edit) apply(dir string) ([]byte, error) {
	path := filepath.Join(dir, filepath.FromSlash(e.file))
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if sum := sha256.Sum256(text); hex.EncodeToString(sum[:]) != e.sha256 {
		return nil, fmt.Errorf("%s is not the file that this edit was written for: %s. Read what has changed there, then drop the edit "+
			"or note the SHA-256 %x in scripts/patch/main.go; `go test ./scripts/patch` says whether the library still needs it", path, e.why, sum)
	}
	if n := bytes.Count(text, []byte(e.old)); n != 1 {
		return nil, fmt.Errorf("%s has %d times what is to be edited: %q", path, n, e.old)
	}
	return bytes.Replace(text, []byte(e.old), []byte(e.new), 1), nil
}

// replaceIn writes a go.mod like root's, with the copy in the library's place, beside the copy.
func replaceIn(root, copied string) (modfile string, err error) {
	mod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		return "", err
	}
	sums, err := os.ReadFile(filepath.Join(root, "go.sum"))
	if err != nil {
		return "", err
	}
	short, err := filepath.Rel(root, copied)
	if err != nil {
		return "", err
	}
	mod = fmt.Appendf(mod, "\nreplace %s => ./%s\n", library, filepath.ToSlash(short))
	modfile = filepath.Join(filepath.Dir(copied), "go.mod")
	return modfile, errors.Join(keep(modfile, mod), keep(filepath.Join(filepath.Dir(copied), "go.sum"), sums))
}

// keep writes a file whole, unless it is there already: builds run side by side.
func keep(path string, text []byte) error {
	if there, err := os.ReadFile(path); err == nil && bytes.Equal(there, text) {
		return nil
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(text)
	if err := errors.Join(err, f.Chmod(0o644), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
