package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dspool/dspool"
)

// spaceNeeded is free disk space below which no build begins.
const (
	spaceForBase  = 3 << 30
	spaceForLayer = 1 << 30
)

// Build returns the image of the recipe, building it, and first its parents, where
// they are missing. The same image is built once, however many ask, in whatever
// process. progress may be nil; it is called from one goroutine at a time.
//
// A failing step is a dspool.Error that names the step, the last lines of its output
// and the log file: Invalid where the recipe is at fault, Unavailable where the network
// or the disk is. When ctx ends, everything of the build ends before Build returns.
func (s *Store) Build(ctx context.Context, r Recipe, progress func(Progress)) (Image, error) {
	if progress == nil {
		progress = func(Progress) {}
	}
	if r.Name == "" || (r.Suite == "") == (r.Parent == nil) {
		return Image{}, dspool.Errorf(dspool.Invalid, "image recipe %s was not made by LoadRecipe", dspool.Quote(r.Name))
	}
	key := r.Key()
	if img, err := s.Lookup(key); dspool.ErrorCode(err) != dspool.NotFound {
		return img, err
	}
	if os.Geteuid() != 0 {
		return Image{}, dspool.Errorf(dspool.Forbidden, "image %s is not built, and only root can build images", r.Name)
	}
	b := &build{store: s, recipe: r, key: key, progress: progress}
	if r.Parent != nil {
		parent, err := s.Build(ctx, *r.Parent, progress)
		if err != nil {
			return Image{}, fmt.Errorf("build image %s: %w", r.Name, err)
		}
		unlock, err := s.keep(ctx, parent)
		if err != nil {
			return Image{}, fmt.Errorf("build image %s: %w", r.Name, err)
		}
		defer unlock()
		b.parent = parent.Dir
	}
	lock, err := s.lockFile(ctx, key, unix.LOCK_EX, func() {
		progress(Progress{Image: r.Name, Step: 1, Steps: 1, What: "wait for the build that another process began"})
	})
	if err != nil {
		return Image{}, fmt.Errorf("build image %s: %w", r.Name, err)
	}
	defer lock.Close()
	if img, err := s.Lookup(key); dspool.ErrorCode(err) != dspool.NotFound {
		return img, err
	}
	s.sweep(key)
	b.box.lock = lock
	return b.run(ctx)
}

// build is one build that runs; it holds the key's lock.
type build struct {
	store    *Store
	recipe   Recipe
	key      string
	parent   string // tree of the parent; "" for a first layer
	progress func(Progress)

	dir   string // temporary directory
	box   sandbox
	log   *os.File
	steps []step
	at    int // index of the step that runs
}

// step is one part of a build that can fail.
type step struct {
	what string                      // for people
	do   func(context.Context) error // nil where the step before it does this one, too
}

func (b *build) run(ctx context.Context) (img Image, err error) {
	need := int64(spaceForBase)
	if b.parent != "" {
		need = spaceForLayer
	}
	if free, err := freeSpace(b.store.dir); err == nil && free < need {
		return Image{}, dspool.Errorf(dspool.Unavailable, "build image %s: %s has %s free and a build needs %s",
			b.recipe.Name, b.store.dir, dspool.FormatBytes(free), dspool.FormatBytes(need)).WithHint("make room, or remove old images")
	}
	if b.dir, err = os.MkdirTemp(b.store.path("tmp"), b.key+"."); err != nil {
		return Image{}, fmt.Errorf("build image %s: %w", b.recipe.Name, err)
	}
	defer func() {
		if rmErr := os.RemoveAll(b.dir); rmErr != nil && err == nil {
			b.store.opts.Log.Warn("cannot remove a temporary directory", "directory", b.dir, "error", rmErr)
		}
	}()
	if b.log, err = os.OpenFile(b.store.LogFile(b.key), os.O_CREATE|os.O_TRUNC|os.O_WRONLY|os.O_APPEND, 0o600); err != nil {
		return Image{}, fmt.Errorf("build image %s: %w", b.recipe.Name, err)
	}
	defer b.log.Close()
	if err := b.plan(); err != nil {
		return Image{}, fmt.Errorf("build image %s: %w", b.recipe.Name, err)
	}
	for i, st := range b.steps {
		if st.do == nil {
			continue // a part of the step before it
		}
		b.at = i
		if ctx.Err() != nil {
			return Image{}, b.failed(context.Cause(ctx))
		}
		fmt.Fprintf(b.log, "\n== step %d of %d: %s\n", i+1, len(b.steps), st.what)
		b.report(st.what, 0)
		if err := st.do(ctx); err != nil {
			return Image{}, b.failed(err)
		}
	}
	return b.store.Lookup(b.key)
}

func (b *build) report(what string, fraction float64) {
	b.progress(Progress{Image: b.recipe.Name, Step: b.at + 1, Steps: len(b.steps), What: what, Fraction: fraction})
}

// failed says which step of which image failed.
func (b *build) failed(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("build image %s: step %d of %d (%s): %w", b.recipe.Name, b.at+1, len(b.steps), b.steps[b.at].what, err)
	}
	code := dspool.Internal
	var people *dspool.Error
	hint := "the whole output is in " + b.store.LogFile(b.key)
	if errors.As(err, &people) {
		code = people.Code
		if people.Hint != "" {
			hint = people.Hint + "; " + hint
		}
		err = errors.New(people.Message)
	}
	fmt.Fprintf(b.log, "\n== failed: %v\n", err)
	return dspool.Errorf(code, "build image %s: step %d of %d (%s): %w", b.recipe.Name, b.at+1, len(b.steps), b.steps[b.at].what, err).WithHint("%s", hint)
}

// plan lists the steps: the same for every build of a recipe.
func (b *build) plan() error {
	tree := filepath.Join(b.dir, "rootfs")
	b.box.root = tree
	if b.parent == "" {
		b.steps = append(b.steps,
			step{"fetch the lists of packages", b.debootstrap},
			step{"base system", nil}, step{"fetch packages", nil}, step{"install packages", nil},
			step{"prepare", b.prepare})
	} else {
		b.box.root = filepath.Join(b.dir, "merged")
		b.box.lower, b.box.upper, b.box.work = b.parent, filepath.Join(b.dir, "upper"), filepath.Join(b.dir, "work")
		for _, d := range []string{b.box.root, b.box.upper, b.box.work} {
			// Chmod, since upper's mode becomes that of the image's root whatever the umask is.
			if err := errors.Join(os.Mkdir(d, 0o700), os.Chmod(d, 0o755)); err != nil {
				return err
			}
		}
		b.steps = append(b.steps, step{"prepare", b.prepare})
		if len(b.recipe.Packages) > 0 {
			b.steps = append(b.steps, step{"fetch the lists of packages", b.aptInstall},
				step{"fetch packages", nil}, step{"install packages", nil})
		}
	}
	if p := b.recipe.Python; p != nil && len(p.Requirements) > 0 {
		b.steps = append(b.steps, step{"fetch Python packages", b.installPython}, step{"install Python packages", nil}, step{compilePython, nil})
	} else if p != nil {
		b.steps = append(b.steps, step{compilePython, b.installPython})
	}
	if len(b.recipe.Files) > 0 {
		b.steps = append(b.steps, step{"files", b.files})
	}
	for i, text := range b.recipe.Run {
		b.steps = append(b.steps, step{fmt.Sprintf("run step %d: %s", i+1, firstLine(text)), func(ctx context.Context) error { return b.runStep(ctx, text) }})
	}
	b.steps = append(b.steps, step{"finish", b.finish})
	if b.parent != "" {
		b.steps = append(b.steps, step{"store the layer", func(ctx context.Context) error { return b.flatten(ctx, tree) }})
	}
	b.steps = append(b.steps, step{"check and publish", func(ctx context.Context) error { return b.publish(tree) }})
	return nil
}

func firstLine(s string) string {
	line, more, cut := strings.Cut(strings.TrimSpace(s), "\n")
	if len(line) > 60 {
		line, cut, more = line[:60], true, "…"
	}
	line = strings.Map(func(r rune) rune {
		if r < 0x20 || r == 0x7f || r == 0xfffd {
			return -1
		}
		return r
	}, line)
	if cut && more != "" {
		line += " …"
	}
	return line
}

// publish makes the finished tree the image: everything on disk first, the marker
// last, then one rename.
func (b *build) publish(tree string) error {
	bytes, err := checkTree(tree)
	if err != nil {
		return err
	}
	out := filepath.Join(b.dir, "image")
	if err := os.Mkdir(out, 0o700); err != nil {
		return err
	}
	if err := os.Rename(tree, filepath.Join(out, "rootfs")); err != nil {
		return err
	}
	d, err := os.Open(out)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return fmt.Errorf("sync image: %w", err)
	}
	img := Image{Name: b.recipe.Name, Key: b.key, Bytes: bytes, Built: time.Now().UTC().Truncate(time.Second)}
	if b.recipe.Parent != nil {
		img.Parent = b.recipe.Parent.Key()
	}
	marker, err := json.MarshalIndent(img, "", "  ")
	if err != nil {
		return err
	}
	if err := writeFile(filepath.Join(out, "image.json"), append(marker, '\n')); err != nil {
		return fmt.Errorf("mark image: %w", err)
	}
	final := b.store.path("images", b.key)
	// What lies there has no marker that Lookup takes, so it is no image.
	if err := os.RemoveAll(final); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove broken image: %w", err)
	}
	if err := os.Rename(out, final); err != nil {
		return fmt.Errorf("publish image: %w", err)
	}
	return syncDir(filepath.Dir(final))
}

func freeSpace(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, err
	}
	return int64(st.Bavail) * st.Bsize, nil
}
