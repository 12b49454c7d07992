package cli

import (
	"slices"
	"strings"
)

// screen passes on what draws on a terminal and nothing that makes a terminal do anything else:
// answer (its answer would be typed into the reader's own shell), write the clipboard, print, report the
// mouse, rename windows. What a user's program wrote must be harmless on an administrator's terminal.
// Sequences may be cut anywhere between two pieces; see ECMA-48 and xterm's ctlseqs.
type screen struct {
	out   strings.Builder
	state byte // 0, or what is being read: 'e'scape, 'c'ontrol sequence, 's'tring that is left out
	seq   []byte
	other bool // the other screen is shown, as by an editor
}

const longestSequence = 64 // bytes; longer ones draw nothing that anybody uses

// pass returns what of text may reach the terminal.
func (s *screen) pass(text string) string {
	s.out.Reset()
	for _, r := range text {
		switch s.state {
		case 'e':
			s.escape(r)
		case 'c':
			s.control(r)
		case 's':
			s.skip(r)
		default:
			s.ground(r)
		}
	}
	return s.out.String()
}

func (s *screen) ground(r rune) {
	switch {
	case r == 0x1b:
		s.state, s.seq = 'e', s.seq[:0]
	case r >= 0x20 && r < 0x7f, r >= 0xa0, strings.ContainsRune("\b\t\n\r\x0e\x0f", r):
		s.out.WriteRune(r)
	}
}

// again begins anew with a character that ends a sequence early.
func (s *screen) again(r rune) {
	s.state = 0
	s.ground(r)
}

func (s *screen) escape(r rune) {
	switch {
	case r >= 0x20 && r <= 0x2f && len(s.seq) < 2:
		s.seq = append(s.seq, byte(r))
	case r < 0x20 || r > 0x7e:
		s.again(r)
	case len(s.seq) == 0 && r == '[':
		s.state = 'c'
	case len(s.seq) == 0 && strings.ContainsRune("]PX^_", r):
		s.state = 's'
	case len(s.seq) == 0 && strings.ContainsRune("78DEHMc", r),
		len(s.seq) == 1 && strings.IndexByte("()*+", s.seq[0]) >= 0: // character sets
		s.out.WriteString("\x1b" + string(s.seq) + string(r))
		s.state = 0
	default:
		s.state = 0
	}
}

// skip leaves out a string, up to its end or to what ends everything.
func (s *screen) skip(r rune) {
	switch r {
	case 0x1b:
		s.state, s.seq = 'e', s.seq[:0] // a backslash, which ends it, follows and is left out too
	case '\a', 0x18, 0x1a:
		s.state = 0
	}
}

func (s *screen) control(r rune) {
	if r < 0x20 || r > 0x7e {
		s.again(r)
		return
	}
	if r < 0x40 {
		if s.seq = append(s.seq, byte(r)); len(s.seq) > longestSequence {
			s.state = 0
		}
		return
	}
	s.state = 0
	params, private := string(s.seq), false
	if rest, ok := strings.CutPrefix(params, "?"); ok {
		params, private = rest, true
	}
	if strings.Trim(params, "0123456789;:") != "" {
		return
	}
	numbers := strings.FieldsFunc(params, func(r rune) bool { return r == ';' || r == ':' })
	if slices.ContainsFunc(numbers, func(n string) bool { return len(n) > 5 }) {
		return // it would only keep the terminal busy
	}
	switch {
	case r == 'h' || r == 'l':
		s.mode(numbers, private, r)
	case r == 'J' && slices.Contains(numbers, "3"): // the reader's own lines further up
	case private && (r == 'J' || r == 'K'):
		s.out.WriteString("\x1b[?" + params + string(r))
	case !private && strings.ContainsRune("@ABCDEFGHIJKLMPSTXZ`abdefgmrsu", r):
		s.out.WriteString("\x1b[" + params + string(r))
	}
}

// drawing are the private modes that change what is seen: reverse, origin, wrapping, cursor, the other screen.
var drawing = []string{"5", "6", "7", "25", "47", "1047", "1048", "1049"}

func (s *screen) mode(numbers []string, private bool, r rune) {
	for _, n := range numbers {
		switch {
		case private && slices.Contains(drawing, n):
			s.out.WriteString("\x1b[?" + n + string(r))
			if n == "47" || n == "1047" || n == "1049" {
				s.other = r == 'h'
			}
		case !private && n == "4": // insert
			s.out.WriteString("\x1b[4" + string(r))
		}
	}
}

// restore is what puts a terminal back to where it was before.
func (s *screen) restore() string {
	text := "\x1b[!p" // soft reset: colours, margins, cursor, character sets
	if s.other {
		text = "\x1b[?1049l" + text
	}
	return text + "\r\n"
}
