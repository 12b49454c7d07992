package image_test

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/dspool/dspool/internal/image"
)

// indexPassword is what the index of these tests asks for; no image may hold it.
const indexPassword = "indexsecret"

// pyIndex is a package index with wheels made here
// (https://packaging.python.org/en/latest/specifications/simple-repository-api/).
type pyIndex struct {
	wheels map[string][]byte // by file name
	stall  chan struct{}     // closed when somebody asks for the wheel "stalls" and never gets it; the next one does
}

// wheel adds a wheel and returns its line of a requirements file. Names after it are what
// it depends on.
func (x *pyIndex) wheel(t *testing.T, name, version string, needs ...string) string {
	t.Helper()
	var buf bytes.Buffer
	w := zip.NewWriter(&buf)
	record := ""
	add := func(file, text string) {
		f, err := w.Create(file)
		if err != nil {
			t.Fatal(err)
		}
		f.Write([]byte(text))
		record += file + ",,\n"
	}
	info := fmt.Sprintf("%s-%s.dist-info/", name, version)
	add(name+"/__init__.py", fmt.Sprintf("version = %q\ndef main(): print(%q, version)\n", version, name))
	metadata := fmt.Sprintf("Metadata-Version: 2.1\nName: %s\nVersion: %s\n", name, version)
	for _, need := range needs {
		metadata += "Requires-Dist: " + need + "\n"
	}
	add(info+"METADATA", metadata)
	add(info+"WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
	add(info+"entry_points.txt", fmt.Sprintf("[console_scripts]\n%s-tool = %s:main\n", name, name))
	add(info+"RECORD", record+info+"RECORD,,\n")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if x.wheels == nil {
		x.wheels = map[string][]byte{}
	}
	x.wheels[fmt.Sprintf("%s-%s-py3-none-any.whl", name, version)] = buf.Bytes()
	return fmt.Sprintf("%s==%s --hash=sha256:%x\n", name, version, sha256.Sum256(buf.Bytes()))
}

// serve starts the index and returns how pip gets there.
func (x *pyIndex) serve(t *testing.T) (index image.Index) {
	t.Helper()
	x.stall = make(chan struct{})
	var once sync.Once
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, password, _ := r.BasicAuth(); password != indexPassword {
			w.Header().Set("WWW-Authenticate", "Basic")
			http.Error(w, "who?", http.StatusUnauthorized)
			return
		}
		if name, ok := strings.CutPrefix(r.URL.Path, "/files/"); ok {
			if strings.HasPrefix(name, "stalls-") {
				stalled := false
				once.Do(func() { stalled = true })
				if stalled {
					close(x.stall)
					<-r.Context().Done()
					return
				}
			}
			w.Write(x.wheels[name])
			return
		}
		project := strings.Trim(strings.TrimPrefix(r.URL.Path, "/simple/"), "/")
		w.Header().Set("Content-Type", "text/html")
		for file := range x.wheels {
			if strings.HasPrefix(file, project+"-") {
				fmt.Fprintf(w, "<a href=\"/files/%s\">%s</a>\n", file, file)
			}
		}
	}))
	t.Cleanup(s.Close)
	return image.Index{URL: strings.Replace(s.URL, "://", "://somebody:"+indexPassword+"@", 1) + "/simple/", Retries: "0"}
}
