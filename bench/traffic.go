package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

const (
	gib          = 1 << 30
	bulkRounds   = 3
	keyRounds    = 1000
	keysAtOnce   = 50
	readyToType  = "ready-to-type"
	leastBulk    = 1.1 // of ProxyJump
	keysWithin   = time.Minute
	transferTime = 3 * time.Minute
)

// transfer is what a GiB cost: its time, and the time on cores of whoever is between the client and
// the command. Only those on its way count.
type transfer struct{ took, gateway, jump, sshd time.Duration }

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
		for i := range bulkRounds {
			for k := range ways {
				way := ways[(i+k)%len(ways)]
				t, err := p.transfer(ctx, way, to.command, to.input)
				if err != nil {
					return err
				}
				seen[way] = append(seen[way], t)
			}
		}
		mid := func(way string, of func(transfer) time.Duration) time.Duration {
			var all []time.Duration
			for _, t := range seen[way] {
				all = append(all, of(t))
			}
			return median(all)
		}
		took := func(way string) time.Duration { return mid(way, func(t transfer) time.Duration { return t.took }) }
		speed := func(way string) string { return fmt.Sprintf("%.0f MiB/s", (gib>>20)/took(way).Seconds()) }
		ratio := took(throughJump).Seconds() / took(throughDoor).Seconds()
		r.add(row{
			what:   "1 GiB " + to.name + ", " + cipher + ", median of " + strconv.Itoa(bulkRounds),
			dspool: speed(throughDoor), peer: speed(throughJump) + " OpenSSH's ProxyJump",
			ratio: times(ratio), aim: fmt.Sprintf("≥ %.1f×", leastBulk), met: ratio >= leastBulk,
		})
		r.note("1 GiB %s: direct %s; time on cores per GiB: the gateway %s, the jump host's sshd %s, the machine's own sshd %s (direct), %s (behind the gateway)",
			to.name, speed(direct), seconds(mid(throughDoor, func(t transfer) time.Duration { return t.gateway })),
			seconds(mid(throughJump, func(t transfer) time.Duration { return t.jump })),
			seconds(mid(direct, func(t transfer) time.Duration { return t.sshd })),
			seconds(mid(throughDoor, func(t transfer) time.Duration { return t.sshd })))
	}
	return os.Remove(zeros)
}

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
	if err := breathe(ctx, pause); err != nil {
		return t, err
	}
	before, err := p.spent(ctx)
	if err != nil {
		return t, err
	}
	var said bytes.Buffer
	cmd := p.command(ctx, way, me, command)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, nothing, &said // files: this process carries nothing
	begun := time.Now()
	err = cmd.Run()
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
	own, err := commandTime(said.String())
	t.gateway, t.jump, t.sshd = after.gateway-before.gateway, after.jump-before.jump, after.sshd-before.sshd-own
	return t, err
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

// measureKeystroke types one key after another at terminals, and waits for the echo of each.
func (p *people) measureKeystroke(ctx context.Context, r *report) error {
	progress("people: %d keystrokes each way", keyRounds)
	ctx, cancel := context.WithTimeout(ctx, keysWithin)
	defer cancel()
	terminals := map[string]*terminal{}
	for _, way := range ways {
		t, err := p.terminal(ctx, way)
		if err != nil {
			return err
		}
		defer t.close()
		terminals[way] = t
	}
	took := map[string][]time.Duration{}
	for range keyRounds / keysAtOnce {
		for _, way := range ways {
			for range keysAtOnce {
				one, err := terminals[way].key()
				if err != nil {
					return fmt.Errorf("type %s: %w", way, err)
				}
				took[way] = append(took[way], one)
			}
		}
	}
	added := func(way string) time.Duration { return median(took[way]) - median(took[direct]) }
	r.add(row{
		what:   "keystroke and its echo, added to direct, median of " + strconv.Itoa(keyRounds),
		dspool: micros(added(throughDoor)), peer: micros(added(throughJump)) + " OpenSSH's ProxyJump",
		ratio: times(added(throughDoor).Seconds() / added(throughJump).Seconds()),
	})
	r.note("keystrokes: direct %s, through the door %s, through ProxyJump %s",
		micros(median(took[direct])), micros(median(took[throughDoor])), micros(median(took[throughJump])))
	return nil
}

func micros(d time.Duration) string { return fmt.Sprintf("%d µs", d.Microseconds()) }

// terminal is one on a machine whose kernel echoes what is typed.
type terminal struct {
	in  *os.File
	out *bufio.Reader
	end func()
}

func (p *people) terminal(ctx context.Context, way string) (*terminal, error) {
	ctx, cancel := context.WithCancel(ctx)
	cmd := p.command(ctx, way, me, "-tt", "echo "+readyToType+"; exec cat >/dev/null")
	theirIn, in, err := os.Pipe()
	if err != nil {
		cancel()
		return nil, err
	}
	out, theirOut, err := os.Pipe()
	if err != nil {
		cancel()
		return nil, err
	}
	cmd.Stdin, cmd.Stdout = theirIn, theirOut
	err = cmd.Start()
	theirIn.Close()
	theirOut.Close()
	t := &terminal{in: in, out: bufio.NewReader(out)}
	t.end = func() {
		cancel()
		_ = cmd.Wait()
		in.Close()
		out.Close()
	}
	if err != nil {
		cancel()
		return nil, err
	}
	for {
		line, err := t.out.ReadString('\n')
		if strings.TrimSpace(line) == readyToType {
			return t, nil
		}
		if err != nil {
			t.close()
			return nil, fmt.Errorf("a terminal %s: %w", way, err)
		}
	}
}

// key types a key and waits for its echo.
func (t *terminal) key() (time.Duration, error) {
	begun := time.Now()
	if _, err := t.in.Write([]byte{'x'}); err != nil {
		return 0, err
	}
	_, err := t.out.ReadByte()
	return time.Since(begun), err
}

func (t *terminal) close() { t.end() }
