package webdoor_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/dspool/dspool/internal/webdoor"
)

// open opens a door that keeps a journal, and does not close it: it may be killed.
func openDoor(t *testing.T, o webdoor.Options) *webdoor.Door {
	t.Helper()
	d, err := webdoor.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func routesOf(d *webdoor.Door) string {
	var s []string
	for _, r := range d.Routes() {
		s = append(s, r.Path+"="+string(r.Data))
	}
	return strings.Join(s, "\n")
}

func add(t *testing.T, d *webdoor.Door, path, user string) {
	t.Helper()
	if err := d.Add(path, []byte(`{"target":"http://127.0.0.1:1","user":"`+user+`"}`)); err != nil {
		t.Fatal(err)
	}
}

func TestRoutesOutliveTheProcess(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "routes")
	o := webdoor.Options{Journal: file}
	d := openDoor(t, o)
	for i := range 20 {
		add(t, d, fmt.Sprintf("/user/%02d", i), "ada")
	}
	add(t, d, "/user/03", "bob")
	if _, err := d.Remove("/user/04"); err != nil {
		t.Fatal(err)
	}
	want := routesOf(d)
	active := d.Routes()[0].Meter.LastActivity()
	for name, spoil := range map[string]func([]byte) []byte{
		"killed":                              func(b []byte) []byte { return b },
		"killed in the middle of a line":      func(b []byte) []byte { return append(b, `{"path":"/user/99","da`...) },
		"with lines that are none":            func(b []byte) []byte { return append([]byte("{}\n\x00\x00\nnull\n[]\n"), b...) },
		"with a route that is none any more":  func(b []byte) []byte { return append(b, `{"path":"/a/../b","data":{"target":"http://x"}}`+"\n"...) },
		"with a target that is none any more": func(b []byte) []byte { return append(b, `{"path":"/x","data":{"target":7}}`+"\n"...) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			copied := filepath.Join(t.TempDir(), "routes")
			if err := os.WriteFile(copied, spoil(bytes.Clone(data)), 0o600); err != nil {
				t.Fatal(err)
			}
			for range 2 { // and once more after it was written anew
				d := openDoor(t, webdoor.Options{Journal: copied})
				if got := routesOf(d); got != want {
					t.Errorf("%s\nwant\n%s", got, want)
				}
				if got := d.Routes()[0].Meter.LastActivity(); !got.Equal(active) {
					t.Errorf("last used %s, want %s", got, active)
				}
				if err := d.Close(); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func TestAJournalStaysSmall(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "routes")
	d := openDoor(t, webdoor.Options{Journal: file})
	var all sync.WaitGroup
	for k := range 4 {
		all.Go(func() {
			for range 2000 {
				path := fmt.Sprintf("/user/%d", k)
				add(t, d, path, "ada")
				if k > 0 {
					d.Remove(path)
				}
			}
		})
	}
	all.Wait()
	if info, err := os.Stat(file); err != nil || info.Size() > 64<<10 || info.Mode().Perm() != 0o600 {
		t.Error(info, err)
	}
	want := routesOf(d)
	if got := routesOf(openDoor(t, webdoor.Options{Journal: file})); got != want || !strings.HasPrefix(got, "/user/0=") {
		t.Errorf("%s, want %s", got, want)
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) != 1 {
		t.Error(files, err)
	}
}

func TestAJournalThatCannotBeKeptIsAnError(t *testing.T) {
	t.Parallel()
	if _, err := webdoor.New(webdoor.Options{Journal: filepath.Join(t.TempDir(), "none", "routes")}); err == nil || !strings.Contains(err.Error(), "journal of routes") {
		t.Error(err)
	}
	if _, err := webdoor.New(webdoor.Options{Inherit: []byte("x")}); err == nil {
		t.Error("inherited nonsense")
	}
}

func TestADoorHandsItsRoutesOver(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "routes")
	before := openDoor(t, webdoor.Options{Journal: file})
	add(t, before, "/user/ada", "ada")
	routes, err := before.HandOver()
	if err != nil {
		t.Fatal(err)
	}
	after := openDoor(t, webdoor.Options{Journal: file, Inherit: routes})
	if routesOf(before) != routesOf(after) {
		t.Errorf("%s, want %s", routesOf(after), routesOf(before))
	}
	// The one takes no more changes, the other does.
	if err := before.Add("/user/bob", json.RawMessage(`{"target":"http://127.0.0.1:1"}`)); err == nil {
		t.Error("a route was added to the door that has handed over")
	}
	if _, err := before.Remove("/user/ada"); err == nil {
		t.Error("a route was removed from the door that has handed over")
	}
	add(t, after, "/user/bob", "bob")
	// What is used through the one counts at the other.
	before.Routes()[0].Meter.Note()
	after.NoteActivity(before.Activity())
	if a, b := before.Routes()[0].Meter.LastActivity(), after.Routes()[0].Meter.LastActivity(); b.Before(a) {
		t.Errorf("%s, want %s", b, a)
	}
	// A door whose successor has failed takes them back.
	if err := after.Close(); err != nil {
		t.Fatal(err)
	}
	if err := before.TakeBack(); err != nil {
		t.Fatal(err)
	}
	add(t, before, "/user/eve", "eve")
	if err := before.Close(); err != nil {
		t.Fatal(err)
	}
	if got := routesOf(openDoor(t, webdoor.Options{Journal: file})); !strings.Contains(got, "/user/eve") {
		t.Error(got)
	}
}

func TestADefaultTargetIsARoute(t *testing.T) {
	t.Parallel()
	o := webdoor.Options{Default: mustURL(t, "http://127.0.0.1:9001")}
	d := openDoor(t, o)
	if r := d.Routes(); len(r) != 1 || r[0].Path != "/" || r[0].Target != "http://127.0.0.1:9001" {
		t.Error(r)
	}
}
