package image_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/dspool/dspool/internal/image"
)

func TestHostMirror(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		claim string
		files map[string]string
		want  image.Mirror
	}{
		{"no sources give none", nil, image.Mirror{}},
		{"the one-line form is read", map[string]string{
			"sources.list": "# deb http://no/debian trixie main\ndeb-src http://no/debian trixie main\ndeb [arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://m1/debian/ bookworm main contrib\ndeb http://m1/debian-security bookworm-security main\n",
		}, image.Mirror{Archive: "http://m1/debian", Security: "http://m1/debian-security"}},
		{"the deb822 form is read", map[string]string{
			"sources.list.d/debian.sources": "Types: deb deb-src\n# a comment\nURIs: https://m2/artifacts/debian\nSuites: trixie\n trixie-updates\nComponents: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\nTypes: deb\nURIs: https://m2/debian-security\nSuites: trixie-security\nComponents: main\n",
		}, image.Mirror{Archive: "https://m2/artifacts/debian", Security: "https://m2/debian-security"}},
		{"a host without security sources gives none", map[string]string{
			"sources.list": "deb http://m3/debian trixie main\n",
		}, image.Mirror{Archive: "http://m3/debian"}},
		{"what is switched off, foreign, secret or no archive is passed over", map[string]string{
			"sources.list.d/a.sources":      "Types: deb\nURIs: http://off/debian\nSuites: trixie\nComponents: main\nEnabled: no\n",
			"sources.list.d/b.list":         "deb [signed-by=/etc/apt/keyrings/x.gpg] https://other/debian stable main\n",
			"sources.list.d/c.list":         "deb https://download/linux/debian trixie stable\n",
			"sources.list.d/d.list":         "deb http://user:secret@m/debian trixie main\n",
			"sources.list.d/e.list":         "deb cdrom:[Debian]/ trixie main\ndeb\ndeb [x\n",
			"sources.list.d/f.sources.orig": "Types: deb\nURIs: http://orig/debian\nSuites: trixie\nComponents: main\n",
			"sources.list.d/z.list":         "deb\thttp://tab/debian\ttrixie\tmain\ndeb   http://last/debian trixie   main\n",
		}, image.Mirror{Archive: "http://tab/debian"}},
	} {
		t.Run(c.claim, func(t *testing.T) {
			t.Parallel()
			etc := t.TempDir()
			os.Mkdir(filepath.Join(etc, "sources.list.d"), 0o700)
			for name, text := range c.files {
				if err := os.WriteFile(filepath.Join(etc, name), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if got := image.HostMirror(etc); got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}

	t.Run("a list of mirrors in a file is looked up", func(t *testing.T) {
		t.Parallel()
		etc := t.TempDir()
		list := filepath.Join(etc, "mirrors")
		os.WriteFile(list, []byte("# first\nhttps://cloud/debian\tpriority:1\n"), 0o600)
		os.WriteFile(filepath.Join(etc, "sources.list"), []byte("deb mirror+file://"+list+" trixie main\n"), 0o600)
		if got := image.HostMirror(etc); got.Archive != "https://cloud/debian" {
			t.Errorf("got %+v", got)
		}
	})
}
