package config

import (
	"fmt"
	"strings"
)

// Reference returns docs/config.md. It follows the tables that Parse reads by.
func Reference() string {
	var b strings.Builder
	b.WriteString(`# team.yaml

One file says what a team has. ` + "`dspool server --config team.yaml`" + ` applies it at start, ` + "`dspool apply team.yaml`" + ` later;
` + "`--dry-run`" + ` only shows the difference. All problems of a file are reported at once, each with its line, and nothing is
applied while there is one. [examples/team.yaml](../examples/team.yaml) is one to begin with.

Every section and every key may be left out unless its default below is empty and something names it. Amounts of bytes are
written 2GiB, 512MiB, 1.5GB; durations 90s, 10m, 2h30m, 1d. Names of users, sizes, shares and pools are 1 to 32 of a-z, 0-9
and inner "-", beginning with a letter; image names may also hold capitals, "." and "_". A relative path begins at the file's
own directory. This page is made from the reader's own tables.
`)
	r := &reader{lines: map[string]int{}, refused: map[any]bool{}}
	for _, f := range r.rootFields(&Config{}) {
		fmt.Fprintf(&b, "\n## %s\n\n%s\n\n| key | value | default | |\n| --- | --- | --- | --- |\n", f.key, f.doc)
		prefix := ""
		if f.named {
			prefix = "NAME."
		}
		rows(&b, prefix, f.inner)
	}
	return b.String()
}

func rows(b *strings.Builder, prefix string, fields []field) {
	for _, f := range fields {
		fmt.Fprintf(b, "| `%s%s` | %s | %s | %s |\n", prefix, f.key, f.form, f.unless, f.doc)
		if f.inner != nil {
			sub := prefix + f.key + "."
			if strings.HasPrefix(f.form, "list") {
				sub = prefix + f.key + "[]."
			}
			rows(b, sub, f.inner)
		}
	}
}
