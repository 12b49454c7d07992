package runc

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// mountLine is a mount as a process sees it.
type mountLine struct {
	id, parent           uint64
	target, kind, source string
}

// mountsOf reads the mounts of a process.
func mountsOf(pid int) ([]mountLine, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	var list []mountLine
	for line := range strings.Lines(string(data)) {
		before, after, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " - ")
		head, tail := strings.Split(before, " "), strings.Split(after, " ")
		if !ok || len(head) < 6 || len(tail) < 2 {
			return nil, fmt.Errorf("read mounts: line %q is not understood", line)
		}
		id, err1 := strconv.ParseUint(head[0], 10, 64)
		parent, err2 := strconv.ParseUint(head[1], 10, 64)
		if err1 != nil || err2 != nil {
			return nil, fmt.Errorf("read mounts: line %q is not understood", line)
		}
		list = append(list, mountLine{id: id, parent: parent, target: octal.Replace(head[4]), kind: tail[0], source: octal.Replace(tail[1])})
	}
	return list, nil
}

// octal undoes how the kernel writes what would break a line.
var octal = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
