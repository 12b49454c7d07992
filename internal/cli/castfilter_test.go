package cli

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestScreenPassesWhatDrawsAndNothingElse(t *testing.T) {
	t.Parallel()
	for claim, tt := range map[string]struct{ text, want string }{
		"text of any script":                {"Größe 数据 ✓\r\n\tx\b", "Größe 数据 ✓\r\n\tx\b"},
		"colours and moves of the cursor":   {"\x1b[1;38;5;9mred\x1b[0m\x1b[2;5H\x1b[K\x1b[2J\x1b[38:2::1:2:3m", "\x1b[1;38;5;9mred\x1b[0m\x1b[2;5H\x1b[K\x1b[2J\x1b[38:2::1:2:3m"},
		"an editor's screen":                {"\x1b[?1049h\x1b[?25l\x1b7\x1b(0q\x1b(B\x1b8\x1b[?25h", "\x1b[?1049h\x1b[?25l\x1b7\x1b(0q\x1b(B\x1b8\x1b[?25h"},
		"no question to the terminal":       {"a\x1b[6n\x1b[c\x1b[>c\x1b[0x\x1b[?6n\x1b[>q\x1b[14t\x1b[?1$p\x1bZ\x05b", "ab"},
		"no window title and no clipboard":  {"a\x1b]0;evil\ab\x1b]52;c;ZXZpbA==\x1b\\c", "abc"},
		"no device strings":                 {"a\x1bP+q544e\x1b\\b\x1b_Gx\x1b\\c\x1b^x\x1b\\d\x1bXy\x1b\\e", "abcde"},
		"no mouse, paste and keyboard mode": {"\x1b[?1000;1006;25h\x1b[?2004hx\x1b[>4;2m\x1b[=1u\x1b[>1u\x1b=\x1b[?1h", "\x1b[?25hx"},
		"no printing":                       {"\x1b[5ix\x1b[?4i", "x"},
		"no erasing of the reader's lines":  {"\x1b[3J\x1b[H", "\x1b[H"},
		"no endless repetition":             {"x\x1b[9999999999b\x1b[3b", "x\x1b[3b"},
		"no 8-bit controls":                 {"a\u009b6n\u0090q\u009cb", "a6nqb"},
		"a string that an escape breaks":    {"\x1b]0;x\x1b[31mred", "\x1b[31mred"},
		"a sequence that a letter breaks":   {"\x1b[3\u00e9x", "\u00e9x"},
		"an overlong sequence as text":      {"\x1b[" + strings.Repeat("1;", 40) + "m", strings.Repeat("1;", 40)[65:] + "m"},
	} {
		t.Run(claim, func(t *testing.T) {
			t.Parallel()
			var whole screen
			if got := whole.pass(tt.text); got != tt.want {
				t.Errorf("got  %q\nwant %q", got, tt.want)
			}
			var cut screen
			var got strings.Builder
			for _, r := range tt.text { // wherever it is cut
				got.WriteString(cut.pass(string(r)))
			}
			if got.String() != tt.want {
				t.Errorf("in pieces: got %q, want %q", got.String(), tt.want)
			}
		})
	}
}

func FuzzScreen(f *testing.F) {
	f.Add("\x1b[?1000;25h\x1b]52;c;x\a\x1b[6nabc")
	f.Fuzz(func(t *testing.T, text string) {
		var s screen
		out := s.pass(text)
		for _, bad := range []string{"\x1b]", "\x1bP", "\x1b_", "\x1b^", "\x1bX", "\x1bZ", "\x05", "\a"} {
			if strings.Contains(out, bad) {
				t.Errorf("%q became %q", text, out)
			}
		}
		var again screen
		if twice := again.pass(out); twice != out {
			t.Errorf("%q is passed on only as %q", out, twice)
		}
	})
}

func TestCastsArePlayedInTheirTime(t *testing.T) {
	t.Parallel()
	const cast = `{"version": 2, "width": 100, "height": 24, "timestamp": 1}
[0.5, "o", "$ "]
[2.5, "r", "80x24"]
[4.5, "o", "make\r\n"]
[3604.5, "o", "done"]
[3605, "o", "cut `
	for claim, tt := range map[string]struct {
		speed  float64
		longer time.Duration
		want   time.Duration
	}{
		"as it was":               {1, 2 * time.Hour, 3604500 * time.Millisecond},
		"faster":                  {10, 2 * time.Hour, 360450 * time.Millisecond},
		"without its long pauses": {1, 3 * time.Second, 7500 * time.Millisecond},
		"at once":                 {0, 0, 0},
	} {
		t.Run(claim, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var out strings.Builder
				head := castHead{}
				began := time.Now()
				if err := playCast(t.Context(), &out, strings.NewReader(cast), tt.speed, tt.longer, func(h castHead) { head = h }); err != nil {
					t.Fatal(err)
				}
				if took := time.Since(began).Round(time.Millisecond); took != tt.want {
					t.Errorf("it took %s, want %s", took, tt.want)
				}
				want := "$ make\r\ndone"
				if tt.speed > 0 {
					want += "\x1b[!p\r\n"
				}
				if out.String() != want || head.Width != 100 {
					t.Errorf("got %q, head %+v", out.String(), head)
				}
			})
		})
	}
	for claim, text := range map[string]string{
		"no cast":         "#!/bin/sh\n",
		"another version": `{"version": 1}`,
		"no event":        `{"version": 2}` + "\n[1, 2, 3]\n",
		"broken":          `{"version": 2}` + "\n[1, \"o\", oops]\n",
	} {
		t.Run("refused: "+claim, func(t *testing.T) {
			t.Parallel()
			if err := playCast(t.Context(), &strings.Builder{}, strings.NewReader(text), 0, 0, func(castHead) {}); err == nil {
				t.Error("it was played")
			}
		})
	}
}
