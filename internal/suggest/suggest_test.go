package suggest_test

import (
	"strings"
	"testing"

	"github.com/dspool/dspool/internal/suggest"
)

func TestNearest(t *testing.T) {
	t.Parallel()
	keys := []string{"image", "images", "max", "min", "sizes", "shares", "idle_after", "UbuntuDSVM"}
	for got, want := range map[string]string{
		"mx":                      "max",
		"imgae":                   "image",
		"idleafter":               "idle_after",
		"size":                    "sizes",
		"ubuntudsvm":              "UbuntuDSVM",
		"frobnicate":              "",
		"":                        "",
		strings.Repeat("a", 1000): "",
	} {
		if s := suggest.Nearest(got, keys); s != want {
			t.Errorf("Nearest(%q) = %q, want %q", got, s, want)
		}
	}
}
