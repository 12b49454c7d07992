// Package usage turns intervals of machines and of claims on them into a bill.
//
// A claim costs its largest share of the machine (of its cpus, memory or gpus) for as
// long as it lasts. Where the shares of concurrent claims add up to more than the
// machine, they are scaled down to it for that slice of time. What nobody claimed is
// idle time. So the rows of a bill add up to machine seconds times price, and no
// second is billed twice.
package usage

import (
	"cmp"
	"slices"
	"strconv"
	"time"

	"github.com/dspool/dspool"
)

// By is what the rows of a bill stand for.
type By string

const (
	ByUser By = "user"
	ByPool By = "pool"
	ByJob  By = "job"
)

// ParseBy reads "user", "pool" or "job"; "" is by user.
func ParseBy(s string) (By, error) {
	switch by := By(s); by {
	case ByUser, ByPool, ByJob:
		return by, nil
	case "":
		return ByUser, nil
	}
	return "", dspool.Errorf(dspool.Invalid, "usage by %s is not possible", dspool.Quote(s)).WithHint("use user, pool or job")
}

// Idle is the key of the rows for what nobody claimed.
const Idle = "(idle)"

// Machine is a time in which a machine existed and cost money. A machine may have
// several; where they overlap the later one counts from the end of the earlier.
type Machine struct {
	Machine   string
	Pool      string
	Resources dspool.Resources
	Price     float64 // per hour
	From, To  time.Time
}

// Claim is a time in which a task or a session held a part of a machine.
type Claim struct {
	Machine  string
	User     string
	Job      int64 // of the task; 0 if a session's
	Session  int64 // 0 if a task's
	Request  dspool.Resources
	From, To time.Time
}

// Compute returns the bill, dearest row first and idle time last: one idle row, or by
// pool one for each. By job, every session has a row of its own, with the key "session N".
// Every task's claim on a machine of machines counts as a task of its row, even one that
// took no time; claims on other machines are left out, and so is the part of a claim
// that lies outside its machine's time. It does not modify its input.
func Compute(machines []Machine, claims []Claim, by By) []dspool.UsageRow {
	b := bill{by: by, rows: map[rowKey]*dspool.UsageRow{}}
	spans := byName(machines)
	held := byMachine(claims)
	// In the order of the input, so that sums of fractions come out the same every time.
	for _, m := range machines {
		list := spans[m.Machine]
		if list == nil {
			continue
		}
		spans[m.Machine] = nil
		own := held[m.Machine]
		for i := range own {
			if r := b.row(&own[i], list[0].Pool); own[i].Session == 0 {
				r.Tasks++
			}
		}
		for _, span := range list {
			b.add(span, own)
		}
	}
	return b.sorted()
}

// byName groups the times of each machine, in order and without overlaps.
func byName(machines []Machine) map[string][]Machine {
	spans := make(map[string][]Machine, len(machines))
	for _, m := range machines {
		spans[m.Machine] = append(spans[m.Machine], m)
	}
	for _, list := range spans {
		slices.SortStableFunc(list, func(a, b Machine) int { return a.From.Compare(b.From) })
		for i := 1; i < len(list); i++ {
			if before := list[i-1].To; list[i].From.Before(before) {
				list[i].From = before
			}
			if list[i].To.Before(list[i].From) {
				list[i].To = list[i].From
			}
		}
	}
	return spans
}

func byMachine(claims []Claim) map[string][]Claim {
	held := map[string][]Claim{}
	for _, c := range claims {
		held[c.Machine] = append(held[c.Machine], c)
	}
	return held
}

type rowKey struct {
	user, pool   string
	job, session int64
	idle         bool
}

type bill struct {
	by      By
	rows    map[rowKey]*dspool.UsageRow
	last    rowKey // and lastRow: claims of a job come in runs
	lastRow *dspool.UsageRow
}

// row returns the row that a claim on a machine of the pool belongs to.
func (b *bill) row(c *Claim, pool string) *dspool.UsageRow {
	switch b.by {
	case ByPool:
		return b.at(rowKey{pool: pool}, pool)
	case ByJob:
		if c.Session != 0 {
			return b.at(rowKey{user: c.User, pool: pool, session: c.Session}, "session "+strconv.FormatInt(c.Session, 10))
		}
		return b.at(rowKey{user: c.User, pool: pool, job: c.Job}, strconv.FormatInt(c.Job, 10))
	}
	return b.at(rowKey{user: c.User}, c.User)
}

func (b *bill) idleRow(pool string) *dspool.UsageRow {
	if b.by != ByPool {
		pool = ""
	}
	return b.at(rowKey{pool: pool, idle: true}, Idle)
}

func (b *bill) at(k rowKey, name string) *dspool.UsageRow {
	if b.lastRow != nil && b.last == k {
		return b.lastRow
	}
	r := b.rows[k]
	if r == nil {
		r = &dspool.UsageRow{Key: name, Pool: k.pool, User: k.user}
		b.rows[k] = r
	}
	b.last, b.lastRow = k, r
	return r
}

// sorted returns the rows, dearest first, idle ones last.
func (b *bill) sorted() []dspool.UsageRow {
	type line struct {
		k rowKey
		r *dspool.UsageRow
	}
	lines := make([]line, 0, len(b.rows))
	for k, r := range b.rows {
		lines = append(lines, line{k, r})
	}
	slices.SortFunc(lines, func(x, y line) int {
		if x.k.idle != y.k.idle {
			if y.k.idle {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(y.r.Cost, x.r.Cost), cmp.Compare(x.k.job, y.k.job), cmp.Compare(x.k.session, y.k.session),
			cmp.Compare(x.r.Key, y.r.Key), cmp.Compare(x.k.pool, y.k.pool), cmp.Compare(x.k.user, y.k.user))
	})
	rows := make([]dspool.UsageRow, len(lines))
	for i, l := range lines {
		rows[i] = *l.r
	}
	return rows
}
