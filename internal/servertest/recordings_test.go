package servertest_test

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/client"
	"github.com/dspool/dspool/internal/servertest"
)

const castText = `{"version": 2, "width": 100, "height": 30}` + "\n" + `[0.5, "o", "hello"]` + "\n"

func TestRecordings(t *testing.T) {
	t.Parallel()
	s := servertest.New(t, servertest.Options{})
	ctx := t.Context()
	folder := filepath.Join(s.Dir, "recordings")
	t.Run("there are none before something was recorded", func(t *testing.T) {
		l, err := s.Recordings(ctx, client.RecordingFilter{})
		if err != nil || len(l.Items) != 0 {
			t.Fatalf("%v %v", l, err)
		}
		if _, err := s.Recording(ctx, castID(1, 1)); dspool.ErrorCode(err) != dspool.NotFound {
			t.Fatal(err)
		}
	})
	write := func(path, text string) {
		t.Helper()
		path = filepath.Join(folder, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	link := func(to, path string) {
		t.Helper()
		if err := os.Symlink(to, filepath.Join(folder, path)); err != nil {
			t.Fatal(err)
		}
	}
	write("ada/"+castID(1, 1)+".cast", castText)
	write("ada/"+castID(3, 1)+"-2.cast", castText)
	write("bob/"+castID(2, 2)+".cast", "")
	// None of these is a recording.
	write("ada/notes.txt", "x")
	write("ada/20269999T000000Z-"+connection(9)+".cast", castText)
	write("not a user/"+castID(4, 4)+".cast", castText)
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte(castText), 0o600); err != nil {
		t.Fatal(err)
	}
	link(secret, "ada/"+castID(5, 5)+".cast")
	link(castID(1, 1)+".cast", "ada/"+castID(6, 6)+".cast")
	link("ada", "carol")
	link(filepath.Dir(secret), "dave")
	if err := os.Mkdir(filepath.Join(folder, "bob", castID(7, 7)+".cast"), 0o700); err != nil {
		t.Fatal(err)
	}

	t.Run("an administrator sees all, newest first, page by page", func(t *testing.T) {
		grace := s.As("grace")
		var ids []string
		before := ""
		for {
			l, err := grace.Recordings(ctx, client.RecordingFilter{Before: before, Limit: 1})
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range l.Items {
				ids = append(ids, r.User+" "+r.ID)
				before = r.ID
			}
			if !l.More {
				break
			}
		}
		if got, want := strings.Join(ids, ", "), "ada "+castID(3, 1)+"-2, bob "+castID(2, 2)+", ada "+castID(1, 1); got != want {
			t.Fatalf("got %s, want %s", got, want)
		}
		l, err := grace.Recordings(ctx, client.RecordingFilter{User: "bob"})
		if err != nil || len(l.Items) != 1 || l.Items[0].User != "bob" || l.Items[0].Columns != 0 {
			t.Fatalf("%+v %v", l, err)
		}
	})
	t.Run("one says what it is, and reading it is an event", func(t *testing.T) {
		r, err := s.Recording(ctx, castID(1, 1))
		if err != nil || r.User != "ada" || r.Columns != 100 || r.Rows != 30 || r.Connection != connection(1) || r.Bytes != int64(len(castText)) || r.Began.Day() != 1 || r.Open {
			t.Fatalf("%+v %v", r, err)
		}
		cast, err := s.As("grace").ReadRecording(ctx, r.ID)
		if err != nil {
			t.Fatal(err)
		}
		defer cast.Close()
		if text, err := io.ReadAll(cast); err != nil || string(text) != castText {
			t.Fatalf("%q %v", text, err)
		}
		events, err := s.Events(ctx, client.EventFilter{Latest: true, Limit: 20})
		if err != nil {
			t.Fatal(err)
		}
		if last := events.Items[len(events.Items)-1]; last.Kind != "recording.read" || last.Actor != "grace" || last.User != "ada" {
			t.Fatalf("%+v", last)
		}
	})
	t.Run("users see none, also not their own", func(t *testing.T) {
		ada := s.As("ada")
		_, list := ada.Recordings(ctx, client.RecordingFilter{User: "ada"})
		_, show := ada.Recording(ctx, castID(1, 1))
		_, read := ada.ReadRecording(ctx, castID(1, 1))
		_, missing := ada.Recording(ctx, castID(8, 8))
		for what, err := range map[string]error{"list": list, "show": show, "read": read, "missing": missing} {
			if dspool.ErrorCode(err) != dspool.Forbidden || !strings.HasPrefix(err.Error(), "only administrators may see recordings") {
				t.Errorf("%s: %v", what, err)
			}
		}
	})
	for _, id := range []string{
		castID(5, 5), castID(6, 6), castID(7, 7), castID(4, 4), castID(8, 8), "20269999T000000Z-" + connection(9), castID(1, 1) + ".cast", castID(1, 1) + "-0",
		"../ada/" + castID(1, 1), "ada/" + castID(1, 1), "../../state.db", "notes.txt", "\x00", strings.Repeat("a", 64),
	} {
		t.Run(fmt.Sprintf("%q is no recording", id), func(t *testing.T) {
			if _, err := s.Recording(ctx, id); dspool.ErrorCode(err) != dspool.NotFound {
				t.Errorf("show: %v", err)
			}
			if _, err := s.ReadRecording(ctx, id); dspool.ErrorCode(err) != dspool.NotFound {
				t.Errorf("read: %v", err)
			}
		})
	}
	t.Run("a folder that is a link is refused", func(t *testing.T) {
		if err := os.Rename(folder, folder+".moved"); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(folder+".moved", folder); err != nil {
			t.Fatal(err)
		}
		if l, err := s.Recordings(ctx, client.RecordingFilter{}); err == nil {
			t.Fatalf("%+v", l)
		}
	})
}

func connection(n int) string { return strings.Repeat(string(rune('a'+n)), 26) }

// castID is a recording of the nth day whose connection is another number.
func castID(day, conn int) string { return fmt.Sprintf("202603%02dT101500Z-%s", day, connection(conn)) }
