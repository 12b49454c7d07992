package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

const (
	keyRounds   = 1000
	keysAtOnce  = 50 // typed at one terminal before the next one's turn
	readyToType = "ready-to-type"
	keysWithin  = time.Minute
)

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
