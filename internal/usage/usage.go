// Package usage turns intervals of machines and of claims on them into a bill.
//
// A claim costs its largest share of the machine (of its cpus, memory or gpus) for as
// long as it lasts. Where the shares of concurrent claims add up to more than the
// machine, they are scaled down to it for that slice of time. What nobody claimed is
// idle time. So the rows of a bill add up to machine seconds times price, and no
// second is billed twice.
//
// A bill is the sum of its days' totals, which are whole numbers: it comes out the same
// whether a day's totals are computed now or were written down long ago.
package usage

import (
	"cmp"
	"maps"
	"math"
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

// Idle is the key of the rows for what nobody claimed, Older of those for jobs and sessions that are no longer kept.
const (
	Idle  = "(idle)"
	Older = "(older)"
)

// What a part of a machine was for.
const (
	KindTask    = "task"
	KindSession = "session"
	KindService = "service" // a session of a service's account
	KindIdle    = "idle"
)

// Forgotten is the number that stands for jobs, or sessions, that are no longer kept.
const Forgotten = -1

// Machine is a time in which a machine existed and cost money. A machine may have
// several; where they overlap the later one counts from the end of the earlier.
type Machine struct {
	Machine    string
	Pool, Size string
	Resources  dspool.Resources
	Price      float64 // per hour
	From, To   time.Time
}

// Claim is a time in which a task or a session held a part of a machine.
type Claim struct {
	Machine  string
	Kind     string
	User     string
	UID      int
	Job      int64 // of the task; 0 if a session's
	Session  int64 // 0 if a task's
	Carried  bool  // it began before From, which is cut
	Again    bool  // the claims have another part of it
	Request  dspool.Resources
	From, To time.Time
}

// Key is whose a total is, and what for.
type Key struct {
	Kind       string
	Pool, Size string
	User       string // "" if idle
	UID        int
	Job        int64
	Session    int64
}

// Amount is what was used, in millionths of seconds and of money, and how many tasks' claims began and
// how many had begun before. A claim counts once in a bill, however many days it lasted.
type Amount struct {
	Machine, CPU, GiB, GPU, Cost int64
	Tasks, Carried               int64
}

// Plus returns the sum of a and what came after it.
func (a Amount) Plus(o Amount) Amount {
	return Amount{
		Machine: a.Machine + o.Machine, CPU: a.CPU + o.CPU, GiB: a.GiB + o.GiB, GPU: a.GPU + o.GPU, Cost: a.Cost + o.Cost,
		Tasks: a.Tasks + o.Tasks, Carried: a.Carried + o.Carried,
	}
}

// Totals are amounts by key.
type Totals map[Key]Amount

// Add adds an amount.
func (t Totals) Add(k Key, a Amount) { t[k] = t[k].Plus(a) }

// Compute returns the totals of a stretch of time. Every task's claim on a machine of machines counts as a
// task, even one that took no time; claims on other machines are left out, and so is the part of a claim
// that lies outside its machine's time. It does not modify its input.
func Compute(machines []Machine, claims []Claim) Totals {
	s := sums{}
	spans := byName(machines)
	held := byMachine(claims)
	out := Totals{}
	// In the order of the input, so that sums of fractions come out the same every time.
	for _, m := range machines {
		list := spans[m.Machine]
		if list == nil {
			continue
		}
		spans[m.Machine] = nil
		own := held[m.Machine]
		for i := range own {
			switch c := &own[i]; {
			case c.Session != 0 || c.Again:
			case c.Carried:
				out.Add(keyOf(c, &list[0]), Amount{Carried: 1})
			default:
				out.Add(keyOf(c, &list[0]), Amount{Tasks: 1})
			}
		}
		for _, span := range list {
			s.add(span, own)
		}
	}
	for k, r := range s {
		out.Add(k, Amount{Machine: millionths(r.machine), CPU: millionths(r.cpu), GiB: millionths(r.gib), GPU: millionths(r.gpu), Cost: millionths(r.cost)})
	}
	return out
}

func millionths(f float64) int64     { return int64(math.Round(f * 1e6)) }
func fromMillionths(n int64) float64 { return float64(n) / 1e6 }

func keyOf(c *Claim, m *Machine) Key {
	return Key{Kind: c.Kind, Pool: m.Pool, Size: m.Size, User: c.User, UID: c.UID, Job: c.Job, Session: c.Session}
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

// Rows returns the totals as lines of a bill, dearest first and idle time last: one idle row, or by
// pool one for each. By job, every session has a row of its own, with the key "session N". What was
// carried into the totals counts as theirs.
func (t Totals) Rows(by By) []dspool.UsageRow {
	type line struct {
		idle         bool
		job, session int64
		user, pool   string
	}
	merged := map[line]Amount{}
	for k, a := range t {
		l := line{idle: k.Kind == KindIdle}
		switch {
		case by == ByPool:
			l.pool = k.Pool
		case l.idle:
		case by == ByJob:
			l.job, l.session, l.user, l.pool = k.Job, k.Session, k.User, k.Pool
		default:
			l.user = k.User
		}
		merged[l] = merged[l].Plus(a)
	}
	lines := slices.SortedFunc(maps.Keys(merged), func(x, y line) int {
		if x.idle != y.idle {
			if y.idle {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(merged[y].Cost, merged[x].Cost), cmp.Compare(x.job, y.job), cmp.Compare(x.session, y.session),
			cmp.Compare(x.pool, y.pool), cmp.Compare(x.user, y.user))
	})
	rows := make([]dspool.UsageRow, len(lines))
	for i, l := range lines {
		a := merged[l]
		rows[i] = dspool.UsageRow{
			Pool: l.pool, User: l.user,
			MachineSeconds: fromMillionths(a.Machine), CPUSeconds: fromMillionths(a.CPU), GiBSeconds: fromMillionths(a.GiB), GPUSeconds: fromMillionths(a.GPU),
			Cost: fromMillionths(a.Cost), Tasks: a.Tasks + a.Carried,
		}
		r := &rows[i]
		switch {
		case l.idle:
			r.Key = Idle
		case by == ByPool:
			r.Key = l.pool
		case by != ByJob:
			r.Key = l.user
		case l.job == Forgotten || l.session == Forgotten:
			r.Key = Older
		case l.session != 0:
			r.Key = "session " + strconv.FormatInt(l.session, 10)
		default:
			r.Key = strconv.FormatInt(l.job, 10)
		}
	}
	return rows
}
