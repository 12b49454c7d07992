package image_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/image"
)

const someKey = "0123456789abcdef0123456789abcdef"

// place puts a finished image into a cache by hand.
func place(t *testing.T, cache, name, key string) { placeOn(t, cache, name, key, "") }

// placeOn is place for an image that was built on the parent.
func placeOn(t *testing.T, cache, name, key, parent string) {
	t.Helper()
	dir := filepath.Join(cache, "images", key)
	if err := os.MkdirAll(filepath.Join(dir, "rootfs"), 0o700); err != nil {
		t.Fatal(err)
	}
	text, _ := json.Marshal(image.Image{Name: name, Key: key, Parent: parent, Bytes: 1})
	if err := os.WriteFile(filepath.Join(dir, "image.json"), text, 0o600); err != nil {
		t.Fatal(err)
	}
}

func emptyStore(t *testing.T) (*image.Store, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "cache")
	s, err := image.NewStore(dir, image.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return s, dir
}

func TestOnlyMarkedDirectoriesAreImages(t *testing.T) {
	t.Parallel()
	s, dir := emptyStore(t)
	other := strings.Repeat("f", 32)
	place(t, dir, "b", someKey)
	place(t, dir, "a", other)
	os.MkdirAll(filepath.Join(dir, "images", strings.Repeat("1", 32), "rootfs"), 0o700)
	place(t, dir, "moved", strings.Repeat("2", 32))
	os.Rename(filepath.Join(dir, "images", strings.Repeat("2", 32)), filepath.Join(dir, "images", strings.Repeat("3", 32)))
	os.WriteFile(filepath.Join(dir, "images", other, "image.json.tmp"), nil, 0o600)

	list, err := s.List()
	if err != nil || len(list) != 2 || list[0].Name != "a" || list[1].Key != someKey || list[1].Dir != filepath.Join(dir, "images", someKey, "rootfs") {
		t.Errorf("list is %+v, %v", list, err)
	}
	for _, key := range []string{"", "..", "../images/" + someKey, strings.Repeat("1", 32), strings.Repeat("3", 32), someKey + "\x00"} {
		if _, err := s.Lookup(key); dspool.ErrorCode(err) != dspool.NotFound {
			t.Errorf("lookup of %q: %v", key, err)
		}
	}
}

func TestRemoveKeepsWhatOthersUse(t *testing.T) {
	t.Parallel()
	s, dir := emptyStore(t)
	place(t, dir, "img", someKey)
	mine, theirs := t.TempDir(), t.TempDir()
	for id, state := range map[string]string{"mine": mine, "theirs": theirs} {
		if err := s.Use(someKey, id, state); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Use(someKey, "mine", mine); err != nil {
		t.Errorf("use twice: %v", err)
	}
	err := s.Remove(someKey, "mine")
	if dspool.ErrorCode(err) != dspool.Conflict || !strings.Contains(err.Error(), "theirs in "+theirs) {
		t.Errorf("remove while another uses it: %v", err)
	}
	if _, err := s.Lookup(someKey); err != nil {
		t.Errorf("the refused removal removed it: %v", err)
	}

	if err := os.Remove(theirs); err != nil {
		t.Fatal(err)
	}
	if users, err := s.Users(someKey); err != nil || len(users) != 1 || users["mine"] != mine {
		t.Errorf("users are %v, %v", users, err)
	}
	if err := s.Remove(someKey, "mine"); err != nil {
		t.Errorf("remove after the other's state directory is gone: %v", err)
	}
	if _, err := s.Lookup(someKey); dspool.ErrorCode(err) != dspool.NotFound {
		t.Errorf("it is still there: %v", err)
	}
	if err := s.Remove(someKey, "mine"); err != nil {
		t.Errorf("remove twice: %v", err)
	}
	if users, _ := s.Users(someKey); len(users) != 0 {
		t.Errorf("marks are left: %v", users)
	}
}

func TestUnuseFreesTheImage(t *testing.T) {
	t.Parallel()
	s, dir := emptyStore(t)
	place(t, dir, "img", someKey)
	if err := s.Use(someKey, "other", t.TempDir()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Unuse(someKey, "other"); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Remove(someKey, "mine"); err != nil {
		t.Error(err)
	}
}

func TestRemoveTakesLowerLayersAlong(t *testing.T) {
	t.Parallel()
	s, dir := emptyStore(t)
	key := func(digit string) string { return strings.Repeat(digit, 32) }
	place(t, dir, "minimal", key("1"))
	placeOn(t, dir, "hub packages", key("2"), key("1"))
	placeOn(t, dir, "hub Python packages", key("3"), key("2"))
	placeOn(t, dir, "hub", key("4"), key("3"))
	placeOn(t, dir, "hub", key("5"), key("3")) // of a changed recipe
	left := func() (keys string) {
		t.Helper()
		all, err := s.List()
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range all {
			keys += i.Key[:1]
		}
		return keys
	}
	if err := s.Remove(key("4"), "mine"); err != nil || left() != "5321" {
		t.Errorf("layers that another image stands on: %s are left, %v", left(), err)
	}
	if err := s.Remove(key("5"), "mine"); err != nil || left() != "1" {
		t.Errorf("layers that none stands on: %s are left, %v", left(), err)
	}
}

func TestUseRefusesBadInput(t *testing.T) {
	t.Parallel()
	s, dir := emptyStore(t)
	place(t, dir, "img", someKey)
	for _, id := range []string{"", "..", "a/b", ".x", "a\n", strings.Repeat("a", 65)} {
		if err := s.Use(someKey, id, "/"); dspool.ErrorCode(err) != dspool.Invalid {
			t.Errorf("installation %q: %v", id, err)
		}
		if err := s.Remove(someKey, id); dspool.ErrorCode(err) != dspool.Invalid {
			t.Errorf("installation %q: %v", id, err)
		}
	}
	if err := s.Use(someKey, "x", "relative"); dspool.ErrorCode(err) != dspool.Invalid {
		t.Error(err)
	}
	if err := s.Use(strings.Repeat("9", 32), "x", "/"); dspool.ErrorCode(err) != dspool.NotFound {
		t.Errorf("an image that is not built: %v", err)
	}
}

func TestNewStoreRefusesAnUnsafeCache(t *testing.T) {
	t.Parallel()
	open := t.TempDir()
	os.Chmod(open, 0o777)
	for _, dir := range []string{"relative", "", "/tmp/a:b", "/tmp/a,b", open} {
		if _, err := image.NewStore(dir, image.Options{}); dspool.ErrorCode(err) != dspool.Invalid {
			t.Errorf("%q: %v", dir, err)
		}
	}
}

func TestNewStoreSweepsLeftovers(t *testing.T) {
	t.Parallel()
	_, dir := emptyStore(t)
	left := filepath.Join(dir, "tmp", someKey+".123", "rootfs")
	if err := os.MkdirAll(left, 0o700); err != nil {
		t.Fatal(err)
	}
	old, fresh := filepath.Join(dir, "logs", someKey+".log"), filepath.Join(dir, "logs", strings.Repeat("1", 32)+".log")
	for _, log := range []string{old, fresh} {
		if err := os.WriteFile(log, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	longAgo := time.Now().Add(-60 * 24 * time.Hour)
	if err := os.Chtimes(old, longAgo, longAgo); err != nil {
		t.Fatal(err)
	}
	if _, err := image.NewStore(dir, image.Options{}); err != nil {
		t.Fatal(err)
	}
	if logs, _ := filepath.Glob(filepath.Join(dir, "logs", "*")); len(logs) != 1 || logs[0] != fresh {
		t.Errorf("logs are %v", logs)
	}
	if entries, _ := os.ReadDir(filepath.Join(dir, "tmp")); len(entries) > 0 {
		t.Errorf("left: %v", entries)
	}
}

func TestCheckTellsHowToGetWhatIsMissing(t *testing.T) {
	t.Parallel()
	findings := image.Check(t.Context(), filepath.Join(t.TempDir(), "not", "there"))
	if len(findings) < 3 {
		t.Errorf("findings are %+v", findings)
	}
	for _, f := range findings {
		if f.Subject == "" || f.Detail == "" || f.OK == (f.Fix != "") {
			t.Errorf("finding %+v", f)
		}
	}
}
