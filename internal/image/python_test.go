package image_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/image"
)

var (
	pybaseOnce sync.Once
	pybaseErr  error
)

const pybaseRecipe = "from: base\npackages: [python3-six, python3-venv]\n"

// pyLayer loads a recipe on top of an image with Python. files lie beside it; those with
// a slash are modules.
func pyLayer(t *testing.T, index image.Index, text string, files map[string]string) (*image.Store, image.Recipe) {
	t.Helper()
	_, base := layer(t, "run: ['true']\n") // the base of all these tests is there
	s, err := image.NewStore(cacheDir, image.Options{Index: &index})
	if err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("py%d", layers.Add(1))
	dir := filepath.Dir(base.Path)
	put := func(file, text string) {
		t.Helper()
		if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(dir, file)), 0o700), os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	for file, text := range files {
		put(file, text)
	}
	put("pybase.yaml", pybaseRecipe)
	put(name+".yaml", "from: pybase\n"+text)
	pybaseOnce.Do(func() {
		_, pybaseErr = s.Build(context.Background(), load(t, filepath.Join(dir, "pybase.yaml")), nil)
	})
	if pybaseErr != nil {
		t.Fatalf("the image with Python of these tests: %v", pybaseErr)
	}
	return s, load(t, filepath.Join(dir, name+".yaml"))
}

func TestBuildPython(t *testing.T) {
	t.Parallel()
	x := &pyIndex{}
	requirements := x.wheel(t, "alpha", "1.0", "beta>=2") + x.wheel(t, "beta", "2.1") + x.wheel(t, "six", "1.17.0")
	index := x.serve(t)
	s, r := pyLayer(t, index, `
python: {venv: /opt/tools, requirements: tools.txt, modules: [ours], system_site_packages: false}
run:
  - /opt/tools/bin/alpha-tool >/opt/said
  - /opt/tools/bin/python -c 'import six; print(six.__file__)' >/opt/six
  - /opt/tools/bin/python -B -m ours.deep.inner >>/opt/said
`, map[string]string{"tools.txt": requirements, "ours/__init__.py": "", "ours/deep/__init__.py": "", "ours/deep/inner.py": "print('ours')\n",
		"ours/data.txt": "kept", "ours/__pycache__/x.pyc": "no", "ours/.hidden": "no"})
	var saw []string
	last := image.Progress{}
	img, err := s.Build(t.Context(), r, func(p image.Progress) {
		if p.Image == last.Image && (p.Step < last.Step || p.Step > last.Step+1 || p.Step > p.Steps) {
			t.Errorf("progress %+v after %+v", p, last)
		}
		saw, last = append(saw, p.What), p
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"fetch Python packages", "fetch 3 of 3 Python packages: six", "install 3 Python packages", "compile Python modules"} {
		if !slices.Contains(saw, want) {
			t.Errorf("progress lacks %q: %q", want, saw)
		}
	}
	if got := read(t, img, "opt/said"); got != "alpha 1.0\nours\n" {
		t.Errorf("the programs said %q", got)
	}
	// Debian's six has the same version, and nobody checked its hash.
	if got := read(t, img, "opt/six"); !strings.HasPrefix(got, "/opt/tools/lib/") {
		t.Errorf("six comes from %q", got)
	}
	site, _ := filepath.Glob(filepath.Join(img.Dir, "opt/tools/lib/python3.*/site-packages"))
	if len(site) != 1 {
		t.Fatalf("found %v", site)
	}
	for name, want := range map[string]int{"ours/data.txt": 1, "ours/__pycache__/x.pyc": 0, "ours/.hidden": 0, "pip*": 0,
		"ours/deep/__pycache__/inner.cpython-*.pyc": 1, "alpha/__pycache__/__init__.cpython-*.pyc": 1, "*.dist-info/direct_url.json": 0} {
		if got, _ := filepath.Glob(filepath.Join(site[0], name)); len(got) != want {
			t.Errorf("%s: found %v", name, got)
		}
	}
	leftovers(t, s, r, img, index.URL)
}

// leftovers looks for the index's address and password, and for what pip needed.
func leftovers(t *testing.T, s *image.Store, r image.Recipe, img image.Image, url string) {
	t.Helper()
	host := url[strings.Index(url, "@")+1 : strings.LastIndex(url, "/simple")]
	for _, word := range []string{indexPassword, host} {
		if out, _ := exec.Command("grep", "-rlF", "--devices=skip", word, img.Dir).Output(); len(out) > 0 {
			t.Errorf("%q is in the image: %s", word, out)
		}
	}
	for _, key := range []string{r.Key(), r.Parent.Key()} {
		if log, err := os.ReadFile(s.LogFile(key)); err != nil || strings.Contains(string(log), indexPassword) {
			t.Errorf("the index's password is in the log, or %v", err)
		}
		clean(t, key)
	}
	err := filepath.WalkDir(img.Dir, func(p string, e fs.DirEntry, err error) error {
		if name := filepath.Base(p); name == "pip.conf" || name == "requirements.txt" || name == ".tmp" || strings.HasPrefix(name, "pip-unpack") {
			t.Errorf("left in the image: %s", p)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestBuildPythonSeesDebiansPackages(t *testing.T) {
	t.Parallel()
	x := &pyIndex{}
	requirements := x.wheel(t, "alpha", "1.0")
	s, r := pyLayer(t, x.serve(t), "python: {venv: /opt/tools, requirements: tools.txt, system_site_packages: true}\nrun: [\"/opt/tools/bin/python -c 'import alpha, six; print(six.__file__)' >/opt/six\"]\n",
		map[string]string{"tools.txt": requirements})
	img, err := s.Build(t.Context(), r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := read(t, img, "opt/six"); !strings.HasPrefix(got, "/usr/lib/python3/") {
		t.Errorf("six comes from %q", got)
	}
}

func TestBuildPythonAddsToAParentsVenv(t *testing.T) {
	t.Parallel()
	x := &pyIndex{}
	first, second := x.wheel(t, "alpha", "1.0")+x.wheel(t, "beta", "1.0"), x.wheel(t, "beta", "2.0")
	s, lower := pyLayer(t, x.serve(t), "python: {venv: /opt/tools, requirements: first.txt, modules: [ours], system_site_packages: true}\n",
		map[string]string{"first.txt": first, "second.txt": second, "ours/__init__.py": "old = 1\n", "ours/old.py": ""})
	dir := filepath.Dir(lower.Path)
	theirs := t.TempDir() // where the modules lie that come with dspool
	for path, text := range map[string]string{
		filepath.Join(dir, "upper.yaml"):          "from: " + lower.Name + "\npython: {venv: /opt/tools, requirements: second.txt, modules: [ours]}\nrun: [\"/opt/tools/bin/python -c 'import alpha, beta, six, ours; print(alpha.version, beta.version, ours.new)' >/opt/said\"]\n",
		filepath.Join(theirs, "ours/__init__.py"): "new = 1\n",
	} {
		os.MkdirAll(filepath.Dir(path), 0o700)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Build(t.Context(), lower, nil); err != nil {
		t.Fatal(err)
	}
	os.RemoveAll(filepath.Join(dir, "ours"))
	r, err := image.LoadRecipe(filepath.Join(dir, "upper.yaml"), theirs)
	if err != nil {
		t.Fatal(err)
	}
	img, err := s.Build(t.Context(), r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := read(t, img, "opt/said"); got != "1.0 2.0 1\n" {
		t.Errorf("the programs said %q", got)
	}
	for _, gone := range []string{"beta-1.0.dist-info", "ours/old.py"} {
		if left, _ := filepath.Glob(filepath.Join(img.Dir, "opt/tools/lib/python3.*/site-packages", gone)); len(left) > 0 {
			t.Errorf("left of the parent's: %v", left)
		}
	}
}

func TestBuildPythonSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	const nothing = " --hash=sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n"
	x := &pyIndex{}
	alpha, needy := x.wheel(t, "alpha", "1.0"), x.wheel(t, "needy", "1.0", "beta>=2")
	index := x.serve(t)
	away := image.Index{URL: "http://127.0.0.1:1/simple", Retries: "0"} // nobody listens there
	for _, c := range []struct {
		claim        string
		index        image.Index
		text         string // "" is the usual one
		requirements string
		code         dspool.Code
		want         []string
	}{
		{"other files than were hashed", index, "", "alpha==1.0" + nothing, dspool.Invalid, []string{"serves other files than the requirements name", "alpha==1.0", "make them again"}},
		{"a version that is not there", index, "", "alpha==7.0" + nothing, dspool.Invalid, []string{"has no wheel for this Python and computer", "alpha==7.0"}},
		{"a package that is not there", index, "", "gamma==1.0" + nothing, dspool.Invalid, []string{"No matching distribution found for gamma==1.0"}},
		{"a dependency that is not listed", index, "", needy, dspool.Invalid, []string{"the requirements are not complete", "needy 1.0 requires beta", "pip-compile"}},
		{"an index that is away", away, "", alpha, dspool.Unavailable, []string{"Python packages cannot be fetched", "check the network"}},
		{"the recipe's index goes before the host's", index, "python: {venv: /opt/tools, requirements: tools.txt, index: 'http://127.0.0.1:1/simple'}\n", alpha, dspool.Unavailable, []string{"cannot be fetched"}},
		{"an index that wants another password", image.Index{URL: strings.Replace(index.URL, indexPassword, "other", 1), Retries: "0"}, "", alpha, dspool.Unavailable, []string{"cannot be fetched"}},
		{"a host's certificate that is missing", image.Index{URL: index.URL, Cert: "/no/such.pem"}, "", alpha, dspool.Unavailable, []string{"settings for pip name a file", "/no/such.pem"}},
		{"a folder that is something else", index, "python: {venv: /usr/share, requirements: tools.txt}\n", alpha, dspool.Invalid, []string{"/usr/share is there and is not a virtual environment"}},
	} {
		t.Run(c.claim, func(t *testing.T) {
			t.Parallel()
			if c.text == "" {
				c.text = "python: {venv: /opt/tools, requirements: tools.txt}\n"
			}
			s, r := pyLayer(t, c.index, c.text, map[string]string{"tools.txt": c.requirements})
			_, err := s.Build(t.Context(), r, nil)
			if dspool.ErrorCode(err) != c.code {
				t.Fatalf("code is %s: %v", dspool.ErrorCode(err), err)
			}
			for _, want := range append(c.want, "step ", s.LogFile(r.Key())) {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error lacks %q:\n%v", want, err)
				}
			}
			if strings.Contains(err.Error(), indexPassword) {
				t.Errorf("error shows a password: %v", err)
			}
			clean(t, r.Key())
		})
	}
	t.Run("an image without Python", func(t *testing.T) {
		t.Parallel()
		_, r := layer(t, "run: ['true']\n")
		dir := filepath.Dir(r.Path)
		os.WriteFile(filepath.Join(dir, "tools.txt"), []byte(alpha), 0o600)
		os.WriteFile(filepath.Join(dir, "bare.yaml"), []byte("from: base\npython: {venv: /opt/tools, requirements: tools.txt}\n"), 0o600)
		s := newStore(t)
		_, err := s.Build(t.Context(), load(t, filepath.Join(dir, "bare.yaml")), nil)
		if dspool.ErrorCode(err) != dspool.Invalid || !strings.Contains(err.Error(), "add python3-venv to packages:") {
			t.Errorf("error is %v", err)
		}
	})
}

func TestBuildEndedWhilePythonPackagesAreFetched(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		claim, venv string
		end         func(t *testing.T, s *image.Store, r image.Recipe, index image.Index, x *pyIndex)
	}{
		{"by the caller", "/opt/cancelled", func(t *testing.T, s *image.Store, r image.Recipe, _ image.Index, x *pyIndex) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			done := make(chan error, 1)
			go func() {
				_, err := s.Build(ctx, r, nil)
				done <- err
			}()
			select {
			case <-x.stall:
			case err := <-done:
				t.Fatalf("ended early: %v", err)
			}
			cancel()
			if err := <-done; !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "fetch Python packages") {
				t.Errorf("error is %v", err)
			}
			clean(t, r.Key())
		}},
		{"by the death of the builder", "/opt/killed", func(t *testing.T, _ *image.Store, r image.Recipe, index image.Index, x *pyIndex) {
			cmd := child(t, r.Path, "fetch Python packages", "PIP_INDEX_URL="+index.URL)
			<-x.stall
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			cmd.Wait()
		}},
	} {
		t.Run(c.claim, func(t *testing.T) {
			t.Parallel()
			x := &pyIndex{}
			requirements := x.wheel(t, "stalls", "1.0")
			index := x.serve(t)
			s, r := pyLayer(t, index, "python: {venv: "+c.venv+", requirements: tools.txt}\n", map[string]string{"tools.txt": requirements})
			c.end(t, s, r, index, x)
			if _, err := s.Lookup(r.Key()); dspool.ErrorCode(err) != dspool.NotFound {
				t.Errorf("after the end the image is found: %v", err)
			}
			if _, err := s.Build(t.Context(), r, nil); err != nil {
				t.Error(err)
			}
			clean(t, r.Key())
			if out, _ := exec.Command("pgrep", "-f", c.venv).Output(); len(out) > 0 {
				t.Errorf("processes are left: %s", out)
			}
		})
	}
}
