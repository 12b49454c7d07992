package gateway

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"
)

// A recording is a line of JSON an event, and has what the terminal showed, whatever the bytes and wherever they
// were cut.
func FuzzRecording(f *testing.F) {
	f.Add([]byte("plain\r\n"), uint8(3))
	f.Add([]byte("käse \U0001f9c0 \x1b[2J"), uint8(1))
	f.Add([]byte{0xff, 0xc3, 0x28, 0xf0, 0x9f}, uint8(2))
	f.Fuzz(func(t *testing.T, shown []byte, step uint8) {
		file, err := os.Create(filepath.Join(t.TempDir(), "x.cast"))
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		r := &recorder{file: file, w: bufio.NewWriter(&out)}
		for rest := shown; len(rest) > 0; {
			n := min(len(rest), 1+int(step))
			r.output(rest[:n])
			rest = rest[n:]
		}
		r.close()
		var played strings.Builder
		for in := json.NewDecoder(&out); ; {
			var event []any
			if err := in.Decode(&event); err == io.EOF {
				break
			} else if err != nil || len(event) != 3 || event[1] != "o" {
				t.Fatalf("%v, %v", event, err)
			}
			played.WriteString(event[2].(string))
		}
		if utf8.Valid(shown) && played.String() != string(shown) {
			t.Fatalf("%q is played as %q", shown, played.String())
		}
	})
}
