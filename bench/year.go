package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/client"
	"github.com/dspool/dspool/internal/store"
	"github.com/dspool/dspool/internal/store/storetest"
)

const (
	yearAttempts = 1_000_000
	yearEvents   = 3_000_000
	yearBills    = 4 // at once
	foldedWithin = 15 * time.Minute
	writeEvery   = 20 * time.Millisecond
)

// The users are those of the made-up year, by name and number.
const yearTeam = `
server: {listen: "127.0.0.1:0"}
users: {list: [{name: user0}, {name: user1}]}
defaults: {user: user0, pool: p0, jobs_share: team}
sizes: {s0: {cpus: 1, memory: 2GiB, disk: 1GiB}}
shares: {home: {mount: /home}, team: {mount: /mnt/team}}
images: {minimal: {}}
pools:
  p0: {image: minimal, sizes: [s0], min: 0, max: 1, shares: [home, team]}
retention: {events: never, jobs: never, sessions: never}
`

// measureYear starts a server with a busy year's history, waits until it is folded, and asks for bills and lists.
func measureYear(ctx context.Context, o options, work string, r *report) error {
	// An empty state first: its start is what the year's is compared with.
	none, err := newServer(o, filepath.Join(work, "noyear"), yearTeam)
	if err != nil {
		return err
	}
	var empty time.Duration
	if err := none.with(ctx, func() (err error) {
		none.stop()
		empty, err = none.start(ctx)
		return err
	}); err != nil {
		return err
	}
	s, err := newServer(o, filepath.Join(work, "year"), yearTeam)
	if err != nil {
		return err
	}
	progress("making a year of %d attempts and %d events", yearAttempts, yearEvents)
	path := filepath.Join(s.dir, "state.db")
	db, err := store.Open(ctx, path)
	if err != nil {
		return err
	}
	if err := db.Close(); err != nil {
		return err
	}
	today := store.Day(time.Now())
	begun := time.Now()
	if err := (storetest.Year{Attempts: yearAttempts, Events: yearEvents, End: today}).Make(ctx, path); err != nil {
		return err
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	r.note("a year: made in %s, %d MB", seconds(time.Since(begun)), info.Size()>>20)
	return s.with(ctx, func() error { return s.askYear(ctx, path, today, empty, r) })
}

func (s *server) askYear(ctx context.Context, path string, today time.Time, empty time.Duration, r *report) error {
	db, err := sql.Open("sqlite", "file:"+path+"?mode=ro")
	if err != nil {
		return err
	}
	defer db.Close()
	took, longest, err := s.waitFolded(ctx, db, today)
	if err != nil {
		return err
	}
	r.note("a year: folded in %s; meanwhile a write by the API took %s at most", seconds(took), millis(longest))
	s.stop()
	start, err := s.start(ctx)
	if err != nil {
		return err
	}
	r.add(row{what: "start with a year's history", dspool: millis(start), peer: millis(empty) + " empty", ratio: times(start.Seconds() / empty.Seconds()), aim: "≤ 1 s", met: start <= time.Second})
	before, err := s.weigh(ctx)
	if err != nil {
		return err
	}
	var plain []time.Duration
	for range 5 {
		begun := time.Now()
		var cost, seconds int64
		if err := db.QueryRowContext(ctx, `SELECT sum(cost), sum(machine) FROM usage_days`).Scan(&cost, &seconds); err != nil {
			return err
		}
		plain = append(plain, time.Since(begun))
	}
	year := today.AddDate(-1, 0, 0)
	for _, by := range []string{"user", "pool", "job"} {
		if by == "job" {
			if err := s.weighBills(before, r); err != nil {
				return err
			}
		}
		var together []time.Duration
		for range 3 {
			begun := time.Now()
			if err := s.bills(ctx, by, year); err != nil {
				return err
			}
			together = append(together, time.Since(begun))
		}
		one := row{what: fmt.Sprintf("the year's bill by %s, %d at once", by, yearBills), dspool: spread(together), peer: millis(median(plain)) + " one SELECT sum",
			ratio: times(median(together).Seconds() / median(plain).Seconds())}
		if by != "job" { // tens of thousands of lines
			one.aim, one.met = "≤ 1 s", median(together) <= time.Second
		}
		r.add(one)
	}
	peak, err := peakMemory(s.pid())
	if err != nil {
		return err
	}
	r.note("a year: with the bills by job the server had %d MB at most", peak>>20)
	return s.listYear(ctx, r)
}

// weighBills tells how much memory bills have taken at most.
func (s *server) weighBills(before memory, r *report) error {
	peak, err := peakMemory(s.pid())
	if err != nil {
		return err
	}
	grown := peak - before.total()
	r.add(row{what: "the server's memory for them", dspool: fmt.Sprintf("+%d MB at most", grown>>20), peer: fmt.Sprintf("%d MB at rest", before.total()>>20),
		ratio: times(float64(peak) / float64(before.total())), aim: "≤ +100 MB", met: grown <= 100<<20})
	return nil
}

func (s *server) bills(ctx context.Context, by string, from time.Time) error {
	var all sync.WaitGroup
	errs := make([]error, yearBills)
	for i := range errs {
		all.Go(func() { _, errs[i] = s.Usage(ctx, by, from, time.Time{}) })
	}
	all.Wait()
	return errors.Join(errs...)
}

// waitFolded waits until the year is folded, and writes meanwhile.
func (s *server) waitFolded(ctx context.Context, db *sql.DB, today time.Time) (took, longest time.Duration, err error) {
	begun := time.Now()
	n := 0
	err = until(ctx, "that the year is folded", foldedWithin, func() (bool, error) {
		n++
		most := 1 + n%2
		one := time.Now()
		if _, err := s.ResizePool(ctx, "p0", api.ResizeRequest{Max: &most}); err != nil {
			return false, err
		}
		longest = max(longest, time.Since(one))
		var folded int64
		err := db.QueryRowContext(ctx, `SELECT folded FROM installation`).Scan(&folded)
		time.Sleep(writeEvery)
		return folded >= today.AddDate(0, 0, -1).UnixMicro(), err
	})
	return time.Since(begun), longest, err
}

func (s *server) listYear(ctx context.Context, r *report) error {
	token, err := s.AddToken(ctx, api.AddTokenRequest{User: "user1", Name: "lists"})
	if err != nil {
		return err
	}
	user, err := client.New(client.Options{Socket: filepath.Join(s.dir, "dspool.sock"), Token: token.Secret})
	if err != nil {
		return err
	}
	var slowest time.Duration
	var which string
	for name, ask := range map[string]func() error{
		"events of a user": func() error { _, err := user.Events(ctx, client.EventFilter{Latest: true, Limit: 100}); return err },
		"events of a pool": func() error {
			_, err := s.Events(ctx, client.EventFilter{Pool: "p1", Latest: true, Limit: 100})
			return err
		},
		"events of a machine": func() error { _, err := s.Events(ctx, client.EventFilter{Machine: "p0-300", Limit: 100}); return err },
		"events of a job":     func() error { _, err := s.Events(ctx, client.EventFilter{Job: 20000, Limit: 100}); return err },
		"jobs of a user":      func() error { _, err := user.Jobs(ctx, client.JobFilter{Limit: 100}); return err },
		"failed jobs":         func() error { _, err := s.Jobs(ctx, client.JobFilter{State: "failed", Limit: 100}); return err },
		"sessions":            func() error { _, err := s.Sessions(ctx, client.SessionFilter{All: true, Limit: 100}); return err },
		"tasks of a job":      func() error { _, err := s.Tasks(ctx, 20000, client.TaskFilter{Limit: 100}); return err },
	} {
		var samples []time.Duration
		for range 5 {
			begun := time.Now()
			if err := ask(); err != nil {
				return fmt.Errorf("list %s: %w", name, err)
			}
			samples = append(samples, time.Since(begun))
		}
		if m := median(samples); m > slowest {
			slowest, which = m, name
		}
	}
	r.add(row{what: "the slowest list of the year", dspool: millis(slowest) + " " + which, aim: "≤ 0.3 s", met: slowest <= 300*time.Millisecond})
	return nil
}

// peakMemory is the most that a process has had.
func peakMemory(pid int) (int64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if value, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
			return kib << 10, err
		}
	}
	return 0, errors.New("the kernel does not say how much memory a process has had")
}
