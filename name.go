package dspool

import (
	"regexp"
	"strconv"
	"strings"
)

var namePattern = regexp.MustCompile(`^[a-z][a-z0-9-]{0,30}[a-z0-9]$|^[a-z]$`)

// CheckName refuses a name of a pool, size, share or user that is not 1 to 32 of
// a-z, 0-9 and inner "-", beginning with a letter. kind is the noun for the sentence.
// Such names are safe as host names, path elements, cgroup and interface parts.
func CheckName(kind, name string) error {
	if namePattern.MatchString(name) {
		return nil
	}
	return Errorf(Invalid, "%s name %s is not allowed", kind, Quote(name)).
		WithHint("use 1 to 32 of a-z, 0-9 and inner \"-\", beginning with a letter")
}

var imagePattern = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9._-]{0,62}$`)

// CheckImageName refuses an image name that is not 1 to 63 of letters, digits,
// ".", "_" and "-", beginning with a letter. Image names keep their case
// because Azure's own names ("UbuntuDSVM") do.
func CheckImageName(name string) error {
	if imagePattern.MatchString(name) {
		return nil
	}
	return Errorf(Invalid, "image name %s is not allowed", Quote(name)).
		WithHint("use 1 to 63 of letters, digits, \".\", \"_\" and \"-\", beginning with a letter")
}

// CheckTitle refuses a free text for people (a job's name) that is longer than
// 128 bytes or holds anything but printable characters.
func CheckTitle(kind, s string) error {
	if len(s) > 128 {
		return Errorf(Invalid, "%s is %d bytes long", kind, len(s)).WithHint("at most 128")
	}
	for _, r := range s {
		if r < 0x20 || r == 0x7f || (r >= 0x80 && r < 0xa0) || r == 0xfffd || (r >= 0x2028 && r <= 0x202e) || (r >= 0x2066 && r <= 0x2069) {
			return Errorf(Invalid, "%s %s holds a character that cannot be printed", kind, Quote(s)).WithHint("use printable characters only")
		}
	}
	return nil
}

// Quote makes any text safe and short for a sentence: Go-quoted ASCII, cut after 64 bytes.
func Quote(s string) string {
	const most = 64
	if len(s) > most {
		return strconv.QuoteToASCII(s[:most]) + "…"
	}
	return strconv.QuoteToASCII(s)
}

// Clip bounds what a machine or a program may make us store and print: neither long nor with characters that
// move a terminal's cursor or turn the text around.
func Clip(s string) string {
	const most = 500
	if len(s) > most {
		s = s[:most] + "…"
	}
	return strings.Map(func(r rune) rune {
		if CheckTitle("", string(r)) != nil {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, ""))
}
