package image

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/dspool/dspool"
)

// DefaultCache is where images lie unless the caller says otherwise.
const DefaultCache = "/var/cache/dspool/images"

// Image is a finished root file system.
type Image struct {
	Name   string    `json:"name"`
	Key    string    `json:"key"`
	Parent string    `json:"parent,omitempty"` // key of the image that it was built on
	Dir    string    `json:"-"`                // the root file system; nobody may write to it
	Bytes  int64     `json:"bytes"`            // on disk, counting what it shares with its parent
	Built  time.Time `json:"built"`
}

// layer says whether the image is but a lower layer of a recipe: no recipe's own name
// has a space.
func (i Image) layer() bool { return strings.Contains(i.Name, " ") }

// Options of a store; the zero value is right.
type Options struct {
	Mirror Mirror       // for recipes without one; empty: HostMirror("/etc/apt")
	Index  *Index       // for recipes without one; nil: HostIndex of this process
	Log    *slog.Logger // of what people should know later; nil discards it
}

// Store is a cache of images that several installations on a host may share. All
// methods are safe for concurrent use, also between processes.
//
//	images/KEY/rootfs       the tree; images/KEY/image.json is its marker, written last
//	users/KEY/INSTALLATION  the state directory of an installation that uses it
//	tmp/KEY.RANDOM/         a build that runs, or a leftover where nobody holds locks/KEY
//	logs/KEY.log            output of the latest build
type Store struct {
	dir  string
	opts Options
}

// NewStore opens the cache in dir, makes it if it is missing, and sweeps what
// killed builds left. Only root may look inside: images hold setuid programs.
func NewStore(dir string, opts Options) (*Store, error) {
	if !filepath.IsAbs(dir) || strings.ContainsAny(dir, ":,\\\n\"'") {
		return nil, dspool.Errorf(dspool.Invalid, "image cache %s is not an absolute path without : , \\ and quotes", dspool.Quote(dir))
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Mirror == (Mirror{}) {
		opts.Mirror = HostMirror("/etc/apt")
	}
	if opts.Index == nil {
		home, _ := os.UserHomeDir() // none for some services; pip.conf of /etc counts then
		index := HostIndex("/etc", home, os.Getenv)
		opts.Index = &index
	}
	s := &Store{dir: filepath.Clean(dir), opts: opts}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, fmt.Errorf("make image cache: %w", err)
	}
	info, err := os.Stat(s.dir)
	if err != nil {
		return nil, fmt.Errorf("look at image cache: %w", err)
	}
	if owner := info.Sys().(*syscall.Stat_t).Uid; int(owner) != os.Geteuid() || info.Mode().Perm()&0o022 != 0 {
		return nil, dspool.Errorf(dspool.Invalid, "image cache %s can be written to by others than the server's user", s.dir).
			WithHint("chown it to root and chmod it 0700, or choose another one")
	}
	for _, d := range []string{"images", "users", "tmp", "locks", "logs"} {
		if err := os.MkdirAll(s.path(d), 0o700); err != nil {
			return nil, fmt.Errorf("make image cache: %w", err)
		}
	}
	s.sweep("")
	s.sweepLogs(time.Now())
	return s, nil
}

func (s *Store) path(elem ...string) string {
	return filepath.Join(append([]string{s.dir}, elem...)...)
}

// LogFile is where the output of the latest build of the image goes.
func (s *Store) LogFile(key string) string { return s.path("logs", key+".log") }

// Lookup returns the finished image with that key, or an error with code NotFound.
func (s *Store) Lookup(key string) (Image, error) {
	missing := func() (Image, error) {
		return Image{}, dspool.Errorf(dspool.NotFound, "image %s is not built", dspool.Quote(key))
	}
	if !keyPattern.MatchString(key) {
		return missing()
	}
	text, err := os.ReadFile(s.path("images", key, "image.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return missing()
	} else if err != nil {
		return Image{}, fmt.Errorf("read image %s: %w", key, err)
	}
	var img Image
	if err := json.Unmarshal(text, &img); err != nil || img.Key != key {
		return missing() // only a broken disk writes such a marker; a build replaces it
	}
	img.Dir = s.path("images", key, "rootfs")
	return img, nil
}

// List returns all finished images by name, the newest of a name first.
func (s *Store) List() ([]Image, error) {
	entries, err := os.ReadDir(s.path("images"))
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	var out []Image
	for _, e := range entries {
		img, err := s.Lookup(e.Name())
		if dspool.ErrorCode(err) == dspool.NotFound {
			continue
		} else if err != nil {
			return nil, err
		}
		out = append(out, img)
	}
	slices.SortFunc(out, func(a, b Image) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), b.Built.Compare(a.Built), cmp.Compare(a.Key, b.Key))
	})
	return out, nil
}

// Use marks that an installation needs the image, so that no other removes it. The
// mark counts as long as stateDir exists. Marking twice is the same as once.
func (s *Store) Use(key, installation, stateDir string) error {
	if err := checkInstallation(installation); err != nil {
		return err
	}
	if !filepath.IsAbs(stateDir) {
		return dspool.Errorf(dspool.Invalid, "state directory %s is not an absolute path", dspool.Quote(stateDir))
	}
	unlock, err := s.lockUsers()
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := s.Lookup(key); err != nil {
		return err
	}
	if err := os.MkdirAll(s.path("users", key), 0o700); err != nil {
		return fmt.Errorf("mark image as used: %w", err)
	}
	if err := writeFile(s.path("users", key, installation), []byte(stateDir)); err != nil {
		return fmt.Errorf("mark image as used: %w", err)
	}
	return nil
}

// Unuse takes the installation's mark away; nil if there is none.
func (s *Store) Unuse(key, installation string) error {
	if err := checkInstallation(installation); err != nil || !keyPattern.MatchString(key) {
		return err
	}
	if err := os.Remove(s.path("users", key, installation)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("unmark image: %w", err)
	}
	os.Remove(s.path("users", key)) // fails while others are in it, as it should
	return nil
}

// Users returns the state directories of the installations that use the image, by
// installation, leaving out those whose state directory is gone.
func (s *Store) Users(key string) (map[string]string, error) {
	out := map[string]string{}
	if !keyPattern.MatchString(key) {
		return out, nil
	}
	entries, err := os.ReadDir(s.path("users", key))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list users of image: %w", err)
	}
	for _, e := range entries {
		if checkInstallation(e.Name()) != nil {
			continue // half-written
		}
		text, err := os.ReadFile(s.path("users", key, e.Name()))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("list users of image: %w", err)
		}
		stateDir := string(bytes.TrimSpace(text))
		if _, err := os.Stat(stateDir); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		out[e.Name()] = stateDir
	}
	return out, nil
}

// Remove deletes an image and the installation's own mark; nil if it is already gone.
// It refuses with code Conflict while another installation uses the image. That no
// machine of the caller's own runs on it is for the caller to see to. The lower layers of
// its recipe go with it, unless another image was built on them.
func (s *Store) Remove(key, installation string) error {
	if err := checkInstallation(installation); err != nil {
		return err
	}
	unlock, err := s.lockUsers()
	if err != nil {
		return err
	}
	defer unlock()
	img, err := s.Lookup(key)
	if dspool.ErrorCode(err) == dspool.NotFound {
		return nil
	} else if err != nil {
		return err
	}
	if err := s.remove(img, installation); err != nil {
		return err
	}
	for {
		below, err := s.Lookup(img.Parent)
		if err != nil || !below.layer() || s.builtOn(below.Key) {
			return nil
		}
		if err := s.remove(below, installation); err != nil {
			return nil // it is used or built upon just now, and only takes up space
		}
		img = below
	}
}

// builtOn says whether an image was built on that with the key, or that it cannot be known.
func (s *Store) builtOn(key string) bool {
	all, err := s.List()
	return err != nil || slices.ContainsFunc(all, func(i Image) bool { return i.Parent == key })
}

// remove deletes one image; the caller has locked the users.
func (s *Store) remove(img Image, installation string) error {
	key := img.Key
	users, err := s.Users(key)
	if err != nil {
		return err
	}
	delete(users, installation)
	for other, stateDir := range users {
		return dspool.Errorf(dspool.Conflict, "image %s (%s) is used by installation %s in %s", img.Name, key, other, stateDir).
			WithHint("remove it there first")
	}
	building, err := s.tryLock(key)
	if err == errLocked {
		return dspool.Errorf(dspool.Conflict, "an image is being built on image %s (%s)", img.Name, key).WithHint("wait until that build has ended")
	} else if err != nil {
		return err
	}
	defer building.Close()
	trash, err := os.MkdirTemp(s.path("tmp"), "removed.")
	if err != nil {
		return fmt.Errorf("remove image: %w", err)
	}
	if err := os.Rename(s.path("images", key), filepath.Join(trash, "image")); err != nil {
		return fmt.Errorf("remove image: %w", err)
	}
	os.RemoveAll(s.path("users", key))
	os.Remove(s.LogFile(key))
	if err := os.RemoveAll(trash); err != nil {
		return fmt.Errorf("remove image: %w", err)
	}
	return nil
}

func checkInstallation(id string) error {
	ok := len(id) > 0 && len(id) <= 64 && strings.Trim(id, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") == ""
	if !ok {
		return dspool.Errorf(dspool.Invalid, "installation id %s is not 1 to 64 of letters, digits, - and _", dspool.Quote(id))
	}
	return nil
}
