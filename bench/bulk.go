package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	gib          = 1 << 30
	bulkRounds   = 9
	bulkAgain    = 9   // rounds that are gone again when other work came between
	leastBulk    = 1.1 // of ProxyJump
	transferTime = 3 * time.Minute
	// mostOthers is the time on cores of other work that spoils a transfer, which takes some two seconds itself.
	mostOthers = 300 * time.Millisecond
	calmWithin = 20 * time.Second
)

// transfer is what a GiB cost: its time, and the time on cores of everybody between the file and the
// command, of the command, and of all others meanwhile.
type transfer struct{ took, client, gateway, jump, sshd, command, others time.Duration }

// bulkRound carries a GiB each way; turn says which is first. quiet is whether nobody else worked.
func (p *people) bulkRound(ctx context.Context, turn int, command, input string) (round map[string]transfer, quiet bool, err error) {
	round, quiet = map[string]transfer{}, true
	for k := range ways {
		way := ways[(turn+k)%len(ways)]
		t, err := p.transfer(ctx, way, command, input)
		if err != nil {
			return nil, false, err
		}
		round[way] = t
		quiet = quiet && t.others < mostOthers
	}
	return round, quiet, nil
}

// measureBulk carries a GiB into a machine and out of it, each way in turn.
func (p *people) measureBulk(ctx context.Context, r *report) error {
	zeros := filepath.Join(p.clients.dir, "zeros")
	if err := os.WriteFile(zeros, nil, 0o600); err != nil {
		return err
	}
	if err := os.Truncate(zeros, gib); err != nil {
		return err
	}
	for _, to := range []struct{ name, command, input string }{
		{"into a machine", "cat >/dev/null; times >&2", zeros},
		{"out of a machine", fmt.Sprintf("head -c %d /dev/zero; times >&2", gib), os.DevNull},
	} {
		progress("people: %d × 1 GiB %s each way", bulkRounds, to.name)
		seen := map[string][]transfer{}
		var ratios []float64
		disturbed, again := 0, 0
		for len(ratios) < bulkRounds {
			round, quiet, err := p.bulkRound(ctx, len(ratios)+again, to.command, to.input)
			if err != nil {
				return err
			}
			if !quiet && again < bulkAgain {
				again++
				continue
			} else if !quiet {
				disturbed++
			}
			for way, t := range round {
				seen[way] = append(seen[way], t)
			}
			// A host's own speed wanders within minutes; what follows each other is compared.
			ratios = append(ratios, round[throughJump].took.Seconds()/round[throughDoor].took.Seconds())
		}
		slices.Sort(ratios)
		ratio := ratios[len(ratios)/2]
		mid := func(way string, of func(transfer) time.Duration) time.Duration {
			var all []time.Duration
			for _, t := range seen[way] {
				all = append(all, of(t))
			}
			return median(all)
		}
		took := func(way string) time.Duration { return mid(way, func(t transfer) time.Duration { return t.took }) }
		speed := func(way string) string { return fmt.Sprintf("%.0f MiB/s", (gib>>20)/took(way).Seconds()) }
		r.add(row{
			what:   "1 GiB " + to.name + ", " + cipher + ", median of " + strconv.Itoa(bulkRounds),
			dspool: speed(throughDoor), peer: speed(throughJump) + " OpenSSH's ProxyJump",
			ratio: times(ratio), aim: fmt.Sprintf("≥ %.1f×", leastBulk), met: ratio >= leastBulk,
		})
		span := func(way string) string {
			slowest, fastest := slices.MaxFunc(seen[way], byTime), slices.MinFunc(seen[way], byTime)
			return fmt.Sprintf("%.0f to %.0f", (gib>>20)/slowest.took.Seconds(), (gib>>20)/fastest.took.Seconds())
		}
		client := func(t transfer) time.Duration { return t.client }
		sshd := func(t transfer) time.Duration { return t.sshd }
		r.note("1 GiB %s: direct %s; through the door from %s, through ProxyJump from %s; of ProxyJump in each round %s", to.name, speed(direct), span(throughDoor), span(throughJump), allTimes(ratios))
		if again > 0 {
			r.note("  other work came between: %d rounds were gone again, %d of those that count were disturbed too", again, disturbed)
		}
		r.note("  time on cores: through the door client %s, gateway %s, machine's sshd %s; ProxyJump clients %s, jump host's sshd %s, machine's sshd %s; direct client %s, machine's sshd %s",
			seconds(mid(throughDoor, client)), seconds(mid(throughDoor, func(t transfer) time.Duration { return t.gateway })), seconds(mid(throughDoor, sshd)),
			seconds(mid(throughJump, client)), seconds(mid(throughJump, func(t transfer) time.Duration { return t.jump })), seconds(mid(throughJump, sshd)),
			seconds(mid(direct, client)), seconds(mid(direct, sshd)))
	}
	return os.Remove(zeros)
}

func allTimes(ratios []float64) string {
	var all []string
	for _, r := range ratios {
		all = append(all, times(r))
	}
	return strings.Join(all, " ")
}

func byTime(a, b transfer) int { return cmp.Compare(a.took, b.took) }

func (p *people) transfer(ctx context.Context, way, command, input string) (t transfer, err error) {
	ctx, cancel := context.WithTimeout(ctx, transferTime)
	defer cancel()
	in, err := os.Open(input)
	if err != nil {
		return t, err
	}
	defer in.Close()
	nothing, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		return t, err
	}
	defer nothing.Close()
	if err := calm(ctx); err != nil {
		return t, err
	}
	before, err := p.spent(ctx)
	if err != nil {
		return t, err
	}
	busy, err := hostBusy()
	if err != nil {
		return t, err
	}
	var said bytes.Buffer
	cmd := p.command(ctx, way, me, command)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, nothing, &said // files: this process carries nothing
	begun := time.Now()
	if err := cmd.Start(); err != nil {
		return t, err
	}
	t.client, err = watch(cmd)
	t.took = time.Since(begun)
	if err != nil {
		return t, fmt.Errorf("1 GiB %s: %w: %s", way, err, tail(said.String()))
	}
	if err := breathe(ctx, pause); err != nil { // sshd has to bury its processes
		return t, err
	}
	after, err := p.spent(ctx)
	if err != nil {
		return t, err
	}
	now, err := hostBusy()
	if err != nil {
		return t, err
	}
	t.command, err = commandTime(said.String())
	t.gateway, t.jump, t.sshd = after.gateway-before.gateway, after.jump-before.jump, after.sshd-before.sshd-t.command
	t.others = now - busy - t.client - t.gateway - t.jump - t.sshd - t.command
	return t, err
}

// calm waits until nobody works on the host, at most calmWithin: other work may not end.
func calm(ctx context.Context) error {
	for end := time.Now().Add(calmWithin); ; {
		before, err := hostBusy()
		if err != nil {
			return err
		}
		if err := breathe(ctx, pause); err != nil {
			return err
		}
		after, err := hostBusy()
		if err != nil || after-before < pause/5 || time.Now().After(end) {
			return err
		}
	}
}

func (p *people) spent(ctx context.Context) (t transfer, err error) {
	if t.jump, err = p.jump.used(ctx); err != nil {
		return t, err
	}
	g, err := usageOf(p.clients.gateway)
	if err != nil {
		return t, err
	}
	t.gateway = g.own
	sshd, err := p.sshd(p.lab.Name)
	if err != nil {
		return t, err
	}
	u, err := usageOf(sshd)
	t.sshd = u.own + u.children
	return t, err
}

// sshd is the host's pid of a machine's sshd.
func (s *server) sshd(machine string) (int, error) {
	init, err := s.initPID(machine)
	if err != nil {
		return 0, err
	}
	children, err := childrenOf(init)
	if err != nil {
		return 0, err
	}
	for _, pid := range children {
		if name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); err == nil && strings.TrimSpace(string(name)) == "sshd" {
			return pid, nil
		}
	}
	return 0, fmt.Errorf("machine %s runs no sshd", machine)
}

var minutes = regexp.MustCompile(`(\d+)m([\d.]+)s`)

// commandTime reads what the shell's `times` says of its children.
func commandTime(said string) (sum time.Duration, err error) {
	m := minutes.FindAllStringSubmatch(tail(said), -1)
	if len(m) != 2 {
		return 0, fmt.Errorf("the shell says %q of its children's time", said)
	}
	for _, f := range m {
		d, err := time.ParseDuration(f[1] + "m" + f[2] + "s")
		if err != nil {
			return 0, err
		}
		sum += d
	}
	return sum, nil
}
