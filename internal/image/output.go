package image

import (
	"bytes"
	"io"
	"slices"
	"strings"
	"unicode"
)

// output takes what a command prints: all of it goes to the log, line by line to
// watch, and the last lines stay for an error message. Not safe for concurrent use;
// os/exec writes from one goroutine.
type output struct {
	log   io.Writer
	watch func(line string)
	part  []byte
	last  []string
}

const keptLines = 200

func (o *output) Write(p []byte) (int, error) {
	if _, err := o.log.Write(p); err != nil {
		return 0, err
	}
	o.part = append(o.part, p...)
	for {
		line, rest, ok := bytes.Cut(o.part, []byte("\n"))
		if !ok {
			break
		}
		o.add(line)
		o.part = rest
	}
	if len(o.part) > 16<<10 {
		o.add(o.part)
		o.part = nil
	}
	return len(p), nil
}

// add cleans a line: what a terminal would hide or act on is no part of it.
func (o *output) add(raw []byte) {
	line := strings.TrimRight(string(raw), "\r ")
	if i := strings.LastIndexByte(line, '\r'); i >= 0 {
		line = line[i+1:]
	}
	line = strings.Map(func(r rune) rune {
		if r == '\t' {
			return ' '
		}
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, line)
	if line == "" {
		return
	}
	if o.watch != nil {
		o.watch(line)
	}
	if o.last = append(o.last, line); len(o.last) > keptLines {
		o.last = o.last[1:]
	}
}

// tail returns the lines that most likely say what went wrong: the errors of apt,
// dpkg, mmdebstrap and pip, else the last ones.
func (o *output) tail() []string {
	const most = 8
	if len(o.part) > 0 {
		o.add(o.part)
		o.part = nil
	}
	var bad []string
	seen := map[string]bool{}
	for _, line := range o.last {
		if strings.HasPrefix(line, "E: ") || strings.HasPrefix(line, "Err:") || strings.HasPrefix(line, "dpkg: error") || strings.HasPrefix(line, "mount: ") || strings.HasPrefix(line, "ERROR: ") {
			if !seen[line] {
				bad = append(bad, line)
			}
			seen[line] = true
		}
	}
	if len(bad) == 0 {
		bad = o.last
	}
	if len(bad) > most {
		bad = bad[len(bad)-most:]
	}
	for i, line := range bad {
		if len(line) > 300 {
			bad[i] = strings.ToValidUTF8(line[:300], "") + "…"
		}
	}
	return bad
}

// has says whether any kept line contains one of the texts, and returns that line.
func (o *output) has(texts ...string) (string, bool) {
	for _, line := range o.last {
		for _, t := range texts {
			if strings.Contains(line, t) {
				return line, true
			}
		}
	}
	return "", false
}

// after returns the kept lines after the first that is line, at most n.
func (o *output) after(line string, n int) []string {
	rest := o.last[slices.Index(o.last, line)+1:]
	return rest[:min(n, len(rest))]
}
