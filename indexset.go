package dspool

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// MaxArray is the most tasks that one job may have.
const MaxArray = 10_000_000

// IndexSet is a set of task indices kept as sorted, disjoint, non-adjacent
// ranges, so that a million pending tasks are one row and a few bytes.
// The zero value is empty.
type IndexSet struct{ ranges []indexRange }

type indexRange struct{ first, last int64 }

// ParseIndexSet reads "1-1000", "7" or "1-10,20,30-40": indices from 0 to 2^31-1,
// at most MaxArray of them.
func ParseIndexSet(s string) (IndexSet, error) {
	if n := strings.Count(s, ",") + 1; n > 10_000 {
		return IndexSet{}, Errorf(Invalid, "array %s has %d parts", Quote(s), n).WithHint("at most 10000")
	}
	return readIndexSet(s)
}

// readIndexSet reads as many parts as there are: what is left of a set may have more than
// any that a person gave.
func readIndexSet(s string) (IndexSet, error) {
	var set IndexSet
	if s == "" {
		return set, nil
	}
	for part := range strings.SplitSeq(s, ",") {
		a, b, isRange := strings.Cut(part, "-")
		if !isRange {
			b = a
		}
		first, err1 := strconv.ParseUint(a, 10, 31)
		last, err2 := strconv.ParseUint(b, 10, 31)
		if err1 != nil || err2 != nil || last < first {
			return IndexSet{}, Errorf(Invalid, "array %s is not a set of task indices", Quote(s)).
				WithHint("for example 1-1000 or 1-10,20; indices from 0 to 2147483647")
		}
		set.ranges = append(set.ranges, indexRange{int64(first), int64(last)})
	}
	before := int64(0)
	for _, r := range set.ranges {
		before += r.last - r.first + 1
	}
	set.normalise()
	if set.Len() != before {
		return IndexSet{}, Errorf(Invalid, "array %s names an index twice", Quote(s)).WithHint("name each index once")
	}
	if before > MaxArray {
		return IndexSet{}, Errorf(Invalid, "array %s has %d tasks", Quote(s), before).WithHint("at most %d in one job", MaxArray)
	}
	return set, nil
}

func (s *IndexSet) normalise() {
	slices.SortFunc(s.ranges, func(a, b indexRange) int { return int(a.first - b.first) })
	out := s.ranges[:0]
	for _, r := range s.ranges {
		if n := len(out); n > 0 && r.first <= out[n-1].last+1 {
			out[n-1].last = max(out[n-1].last, r.last)
			continue
		}
		out = append(out, r)
	}
	s.ranges = out
}

// Len returns the number of indices.
func (s IndexSet) Len() int64 {
	n := int64(0)
	for _, r := range s.ranges {
		n += r.last - r.first + 1
	}
	return n
}

// Contains says whether i is in the set.
func (s IndexSet) Contains(i int64) bool {
	for _, r := range s.ranges {
		if i >= r.first && i <= r.last {
			return true
		}
	}
	return false
}

// Add puts i into the set.
func (s *IndexSet) Add(i int64) {
	s.ranges = append(slices.Clone(s.ranges), indexRange{i, i})
	s.normalise()
}

// Take removes and returns the n lowest indices, or all when there are fewer.
func (s *IndexSet) Take(n int) []int64 {
	var out []int64
	s.ranges = slices.Clone(s.ranges)
	for n > len(out) && len(s.ranges) > 0 {
		r := &s.ranges[0]
		out = append(out, r.first)
		if r.first++; r.first > r.last {
			s.ranges = s.ranges[1:]
		}
	}
	return out
}

// TakeNth removes and returns the index with n lower ones in the set; false if there is none.
func (s *IndexSet) TakeNth(n int64) (int64, bool) {
	for i, r := range s.ranges {
		if size := r.last - r.first + 1; n >= size {
			n -= size
			continue
		}
		at := r.first + n
		parts := slices.DeleteFunc([]indexRange{{r.first, at - 1}, {at + 1, r.last}}, func(p indexRange) bool { return p.first > p.last })
		s.ranges = slices.Replace(slices.Clone(s.ranges), i, i+1, parts...)
		return at, true
	}
	return 0, false
}

// All yields the indices in order.
func (s IndexSet) All(yield func(int64) bool) {
	for _, r := range s.ranges {
		for i := r.first; i <= r.last; i++ {
			if !yield(i) {
				return
			}
		}
	}
}

func (s IndexSet) String() string {
	var b strings.Builder
	for i, r := range s.ranges {
		if i > 0 {
			b.WriteByte(',')
		}
		if r.first == r.last {
			fmt.Fprintf(&b, "%d", r.first)
		} else {
			fmt.Fprintf(&b, "%d-%d", r.first, r.last)
		}
	}
	return b.String()
}

// MarshalText writes the form that ParseIndexSet reads.
func (s IndexSet) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads what MarshalText writes, however many ranges that has.
func (s *IndexSet) UnmarshalText(b []byte) (err error) {
	*s, err = readIndexSet(string(b))
	return err
}
