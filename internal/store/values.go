package store

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/dspool/dspool"
)

// micros is the stored form of a time; NULL for none.
func micros(t *time.Time) any {
	if t == nil || t.IsZero() {
		return nil
	}
	return t.UnixMicro()
}

// stored is micros for a time that is no pointer.
func stored(t time.Time) any { return micros(&t) }

// timeIn reads a stored time into a time (NULL is the zero time), maybeIn into a pointer.
type timeIn struct{ t *time.Time }

func (d timeIn) Scan(v any) error {
	*d.t = time.Time{}
	if v == nil {
		return nil
	}
	n, ok := v.(int64)
	if !ok {
		return fmt.Errorf("%T is no stored time", v)
	}
	*d.t = time.UnixMicro(n).UTC()
	return nil
}

type maybeIn struct{ t **time.Time }

func (d maybeIn) Scan(v any) error {
	*d.t = nil
	if v == nil {
		return nil
	}
	t := new(time.Time)
	*d.t = t
	return timeIn{t}.Scan(v)
}

// textIn reads text that may be NULL.
type textIn struct{ s *string }

func (d textIn) Scan(v any) error {
	switch v := v.(type) {
	case nil:
		*d.s = ""
	case string:
		*d.s = v
	case []byte:
		*d.s = string(v)
	default:
		return fmt.Errorf("%T is no stored text", v)
	}
	return nil
}

// text is the stored form of text that is NULL when empty.
func text(s string) any {
	if s == "" {
		return nil
	}
	return s
}

// Thousandths of a core are added by the database without error.
func toMilli(cpus float64) int64    { return int64(math.Round(cpus * 1000)) }
func fromMilli(milli int64) float64 { return float64(milli) / 1000 }

// limit is the stored form of a limit where 0 is none.
func limit(n int) int64 {
	if n <= 0 {
		return math.MaxInt64
	}
	return int64(n)
}

// chunks calls fn with ids in groups whose sizes are few, so that the statements made for them
// can be kept: a group is filled up by repeating its last one. query holds the place for them as
// "(?)" once.
func chunks(query string, ids []int64, fn func(query string, args []any) error) error {
	for len(ids) > 0 {
		n := min(len(ids), 256)
		size := 1
		for size < n {
			size *= 4
		}
		args := make([]any, size)
		for i := range args {
			args[i] = ids[min(i, n-1)]
		}
		if err := fn(strings.Replace(query, "(?)", "(?"+strings.Repeat(",?", size-1)+")", 1), args); err != nil {
			return err
		}
		ids = ids[n:]
	}
	return nil
}

// reason is the stored form of a reason: its JSON, "" for none.
func reason(r dspool.Reason) string {
	if r.IsZero() {
		return ""
	}
	r.Text = "" // written anew for whoever reads it
	b, err := json.Marshal(r)
	if err != nil {
		panic(fmt.Sprintf("a reason has no JSON: %v", err)) // a number that is none
	}
	return string(b)
}

// reasonIn reads a stored reason. Rows from before reasons were data hold a sentence.
type reasonIn struct{ r *dspool.Reason }

func (d reasonIn) Scan(v any) error {
	*d.r = dspool.Reason{}
	var s string
	if err := (textIn{&s}).Scan(v); err != nil || s == "" {
		return err
	}
	if s[0] != '{' || json.Unmarshal([]byte(s), d.r) != nil || d.r.IsZero() {
		*d.r = dspool.Why(dspool.WhyRecorded, dspool.ReasonParams{Detail: s})
	}
	return nil
}
