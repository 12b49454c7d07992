// Package suggest finds the name that somebody probably meant.
package suggest

import "slices"

// Nearest returns the candidate closest to got by edit distance (insert, delete,
// replace, swap of neighbours), or "" when none is near enough to be meant.
func Nearest(got string, candidates []string) string {
	if len(got) > 64 {
		return ""
	}
	best, bestDistance := "", max(1, len(got)/3)+1
	for _, c := range slices.Sorted(slices.Values(candidates)) {
		if d := distance(got, c); d < bestDistance && d < len(c) {
			best, bestDistance = c, d
		}
	}
	return best
}

// distance is the optimal string alignment distance in bytes; letter case costs nothing.
func distance(a, b string) int {
	before, last, cur := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if lower(a[i-1]) == lower(b[j-1]) {
				cost = 0
			}
			cur[j] = min(last[j]+1, cur[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], before[j-2]+1)
			}
		}
		before, last, cur = last, cur, before
	}
	return last[len(b)]
}

func lower(c byte) byte {
	if c >= 'A' && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}
