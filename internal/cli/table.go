package cli

import (
	"encoding/csv"
	"encoding/json"
	"strings"
	"unicode/utf8"
)

// column is one column of a listing.
type column[T any] struct {
	name  string         // heading; in csv in lower case with _ for spaces
	text  func(T) string // for people
	raw   func(T) string // for csv; nil is text
	paint func(T) string // colour of the text; nil is none
	right bool
}

// list prints items in the form that -o names. empty is said to people when there is none.
func list[T any](a *app, form string, items []T, empty string, columns ...column[T]) error {
	switch form {
	case "json":
		if items == nil {
			items = []T{}
		}
		return a.json(items)
	case "csv":
		w := csv.NewWriter(a.Stdout)
		var row []string
		for _, c := range columns {
			row = append(row, strings.ReplaceAll(strings.ToLower(c.name), " ", "_"))
		}
		_ = w.Write(row)
		for _, item := range items {
			row = row[:0]
			for _, c := range columns {
				text := c.raw
				if text == nil {
					text = c.text
				}
				row = append(row, clean(text(item)))
			}
			_ = w.Write(row)
		}
		w.Flush()
		return w.Error()
	}
	if len(items) == 0 {
		a.say("%s", empty)
		return nil
	}
	table(a, "", items, columns...)
	return nil
}

// table prints aligned columns without borders; the last one is not padded.
func table[T any](a *app, margin string, items []T, columns ...column[T]) {
	widths := make([]int, len(columns))
	cells := make([][]string, len(items))
	for j, c := range columns {
		widths[j] = utf8.RuneCountInString(c.name)
	}
	for i, item := range items {
		for j, c := range columns {
			s := clean(c.text(item))
			if s == "" {
				s = "-"
			}
			cells[i] = append(cells[i], s)
			widths[j] = max(widths[j], utf8.RuneCountInString(s))
		}
	}
	var out, b strings.Builder
	line := func(cell func(j int) (text, paint string)) {
		b.WriteString(margin)
		for j, c := range columns {
			text, paint := cell(j)
			gap := strings.Repeat(" ", widths[j]-utf8.RuneCountInString(text))
			if paint != "" && a.colours() {
				text = paint + text + reset
			}
			switch {
			case c.right:
				b.WriteString(gap + text)
			case j < len(columns)-1:
				b.WriteString(text + gap)
			default:
				b.WriteString(text)
			}
			if j < len(columns)-1 {
				b.WriteString("  ")
			}
		}
		out.WriteString(strings.TrimRight(b.String(), " ") + "\n")
		b.Reset()
	}
	line(func(j int) (string, string) { return columns[j].name, dim })
	for i, item := range items {
		line(func(j int) (string, string) {
			if p := columns[j].paint; p != nil {
				return cells[i][j], p(item)
			}
			return cells[i][j], ""
		})
	}
	a.printf("%s", out.String())
}

// json prints v indented.
func (a *app) json(v any) error {
	e := json.NewEncoder(a.Stdout)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// fact is one line of a "show": what, and its value; lines without a value are left out.
type fact struct{ what, value string }

func (a *app) facts(facts ...fact) {
	width := 0
	for _, f := range facts {
		if f.value != "" {
			width = max(width, len(f.what))
		}
	}
	for _, f := range facts {
		if f.value == "" {
			continue
		}
		what := f.what + strings.Repeat(" ", width-len(f.what))
		if a.colours() {
			what = dim + what + reset
		}
		a.printf("  %s  %s\n", what, f.value)
	}
}
