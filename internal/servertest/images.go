package servertest

import (
	"context"
	"maps"
	"slices"
	"sync"

	"github.com/dspool/dspool"
)

// Images is an image store in which every image is built.
type Images struct{}

func (Images) Resolve(dspool.Image, ...string) (string, error) { return "recipe.yaml", nil }
func (Images) Key(dspool.Image) (string, error)                { return "key", nil }
func (Images) Has(string) bool                                 { return true }
func (Images) Held() ([]string, error)                         { return nil, nil }
func (Images) Release(string) error                            { return nil }
func (Images) Build(context.Context, dspool.Image, func(string)) (string, int64, error) {
	return "key", 1, nil
}

// Recipes is an image store whose recipes are words: an image's key is its recipe's text.
type Recipes struct {
	Built chan string // if set, a build yields its text and waits until that is taken

	mu    sync.Mutex
	texts map[string]string // by path
	fault error             // of builds
	held  map[string]bool
}

// NewRecipes returns a store with nothing built, in which every image's recipe is text.
func NewRecipes(text string) *Recipes {
	return &Recipes{texts: map[string]string{"recipe.yaml": text}, held: map[string]bool{}}
}

// Write changes a recipe's text.
func (r *Recipes) Write(path, text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.texts[path] = text
}

// Fail makes builds fail until it is called with nil.
func (r *Recipes) Fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fault = err
}

// Resolve finds the recipe that an image names, else recipe.yaml.
func (r *Recipes) Resolve(img dspool.Image, _ ...string) (string, error) {
	if img.Recipe != "" {
		return img.Recipe, nil
	}
	return "recipe.yaml", nil
}

// Key is the recipe's text.
func (r *Recipes) Key(img dspool.Image) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	text, ok := r.texts[img.Recipe]
	if !ok {
		return "", dspool.Errorf(dspool.NotFound, "there is no recipe %s", img.Recipe)
	}
	return text, nil
}

// Build builds the recipe as it is when it begins.
func (r *Recipes) Build(ctx context.Context, img dspool.Image, progress func(string)) (string, int64, error) {
	text, err := r.Key(img)
	if err != nil {
		return "", 0, err
	}
	progress("packages")
	if r.Built != nil {
		select {
		case r.Built <- text:
		case <-ctx.Done():
			return "", 0, ctx.Err()
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fault != nil {
		return "", 0, r.fault
	}
	r.held[text] = true
	return text, int64(len(text)), nil
}

// Has says whether a text has been built and not been released.
func (r *Recipes) Has(key string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.held[key]
}

// Held returns the texts that were built and not released.
func (r *Recipes) Held() ([]string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Sorted(maps.Keys(r.held)), nil
}

// Release forgets what was built of a text.
func (r *Recipes) Release(key string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.held, key)
	return nil
}
