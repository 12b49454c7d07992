package cgroup2_test

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path"
)

// archive writes what the kernel unpacks as its first root file system: cpio, "newc".
type archive struct {
	w    *bufio.Writer
	made map[string]bool
	next int
	err  error
}

func newArchive(w io.Writer) *archive {
	return &archive{w: bufio.NewWriter(w), made: map[string]bool{".": true}}
}

// add writes a file, after the directories that it lies in.
func (a *archive) add(name string, mode uint32, content []byte) {
	a.directory(path.Dir(name))
	a.entry(name, 0o100000|mode, content)
}

func (a *archive) addFile(name string, mode uint32, file string) {
	content, err := os.ReadFile(file)
	if err != nil && a.err == nil {
		a.err = err
	}
	a.add(name, mode, content)
}

func (a *archive) directory(name string) {
	if a.made[name] {
		return
	}
	a.directory(path.Dir(name))
	a.made[name] = true
	a.entry(name, 0o40755, nil)
}

func (a *archive) entry(name string, mode uint32, content []byte) {
	a.next++
	a.printf("070701")
	for _, field := range []int{a.next, int(mode), 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0} {
		a.printf("%08x", field)
	}
	a.printf("%s\x00", name)
	a.pad(6 + 13*8 + len(name) + 1)
	a.printf("%s", content)
	a.pad(len(content))
}

func (a *archive) pad(written int) { a.printf("%s", "\x00\x00\x00"[:(4-written%4)%4]) }

func (a *archive) printf(format string, args ...any) {
	if a.err == nil {
		_, a.err = fmt.Fprintf(a.w, format, args...)
	}
}

func (a *archive) close() error {
	a.entry("TRAILER!!!", 0, nil)
	if a.err != nil {
		return a.err
	}
	return a.w.Flush()
}
