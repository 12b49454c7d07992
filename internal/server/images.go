package server

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/images"
	"github.com/dspool/dspool/internal/image"
	"github.com/dspool/dspool/python"
)

// imageStore is the host's image cache as control wants it.
type imageStore struct {
	store        *image.Store
	installation string
	stateDir     string
	recipes      string // copies of the recipes inside the binary, and the Python modules that they name
}

func newImageStore(cache, stateDir, installation string) (*imageStore, error) {
	store, err := image.NewStore(cache, image.Options{})
	if err != nil {
		return nil, err
	}
	s := &imageStore{store: store, installation: installation, stateDir: stateDir, recipes: filepath.Join(stateDir, "recipes")}
	if err := os.RemoveAll(s.recipes); err != nil {
		return nil, fmt.Errorf("unpack recipes: %w", err)
	}
	for _, fsys := range []fs.FS{images.FS, python.FS} {
		if err := os.CopyFS(s.recipes, fsys); err != nil {
			return nil, fmt.Errorf("unpack recipes: %w", err)
		}
	}
	return s, nil
}

func (s *imageStore) Resolve(img dspool.Image, dirs ...string) (string, error) {
	if img.Recipe != "" {
		return img.Recipe, nil
	}
	for _, dir := range append(dirs, s.recipes) {
		path := filepath.Join(dir, img.Name+".yaml")
		if _, err := os.Stat(path); err == nil {
			return path, nil
		} else if !os.IsNotExist(err) {
			return "", fmt.Errorf("look for recipe of image %s: %w", img.Name, err)
		}
	}
	known, err := fs.Glob(images.FS, "*.yaml")
	if err != nil {
		return "", err
	}
	return "", dspool.Errorf(dspool.Invalid, "image %s has no recipe", img.Name).
		WithHint("give its recipe file, or use one that comes with dspool: %v", known)
}

func (s *imageStore) Key(img dspool.Image) (string, error) {
	r, err := image.LoadRecipe(img.Recipe, s.recipes)
	return r.Key(), err
}

func (s *imageStore) Has(key string) bool {
	_, err := s.store.Lookup(key)
	return err == nil
}

// Dir is where the image of a key lies.
func (s *imageStore) Dir(key string) string {
	img, err := s.store.Lookup(key)
	if err != nil {
		return "" // the provider refuses it, with the machine's name
	}
	return img.Dir
}

func (s *imageStore) Build(ctx context.Context, img dspool.Image, progress func(string)) (string, int64, error) {
	r, err := image.LoadRecipe(img.Recipe, s.recipes)
	if err != nil {
		return "", 0, err
	}
	built, err := s.store.Build(ctx, r, func(p image.Progress) { progress(p.String()) })
	if err != nil {
		return "", 0, err
	}
	return built.Key, built.Bytes, s.store.Use(built.Key, s.installation, s.stateDir)
}

func (s *imageStore) Held() ([]string, error) {
	all, err := s.store.List()
	if err != nil {
		return nil, err
	}
	var held []string
	for _, img := range all {
		users, err := s.store.Users(img.Key)
		if err != nil {
			return nil, err
		}
		if _, ours := users[s.installation]; ours {
			held = append(held, img.Key)
		}
	}
	return held, nil
}

func (s *imageStore) Release(key string) error {
	if err := s.store.Unuse(key, s.installation); err != nil {
		return err
	}
	err := s.store.Remove(key, s.installation)
	if dspool.ErrorCode(err) == dspool.Conflict {
		return nil // another installation holds it
	}
	return err
}
