package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/client"
)

const (
	idleConnections = 500
	idleDoors       = 4 // logins that are made at a time
	hallWithin      = 5 * time.Minute
)

// measureIdle leaves many terminals open and looks at what that costs: the gateway's memory, and
// the time of others' logins.
func (p *people) measureIdle(ctx context.Context, r *report) (err error) {
	if p.login.door == 0 { // the part that measures it was not asked for
		if p.login, _, err = p.warmLogins(ctx); err != nil {
			return err
		}
	}
	if _, err := p.resize(ctx, poolHall, 1); err != nil {
		return err
	}
	before, err := memoryOf(p.clients.gateway)
	if err != nil {
		return err
	}
	progress("people: %d idle terminals of %d users", idleConnections, hallUsers)
	begun := time.Now()
	open, err := p.fillHall(ctx)
	defer func() {
		for _, c := range open {
			c.Close()
		}
	}()
	if err != nil {
		return err
	}
	filled := time.Since(begun)
	at := memory{}
	if at, err = memoryOf(p.clients.gateway); err != nil {
		return err
	}
	if err := breathe(ctx, settle); err != nil {
		return err
	}
	t, text, err := p.warmLogins(ctx)
	if err != nil {
		return err
	}
	after, err := memoryOf(p.clients.gateway)
	if err != nil {
		return err
	}
	each := func(m memory) string {
		return fmt.Sprintf("%.0f KiB", float64(m.total()-before.total())/idleConnections/1024)
	}
	r.add(row{
		what:   fmt.Sprintf("login beside %d idle terminals, median", idleConnections),
		dspool: millis(t.door), peer: millis(p.login.door) + " without them",
		ratio: times(t.door.Seconds() / p.login.door.Seconds()),
	})
	r.note("%d idle terminals: the gateway holds %s for each (%s right after they came, in %s); before them it held %.0f MiB",
		idleConnections, each(after), each(at), seconds(filled), float64(before.total())/(1<<20))
	r.note("  logins beside them: %s, %s of direct", text, times(t.ratio()))
	for _, c := range open {
		c.Close()
	}
	open = nil
	return p.empty(ctx, poolHall)
}

// fillHall opens terminals of a few users. Their clients are in this process: only the gateway is
// looked at, and hundreds of programs would weigh on every other number.
func (p *people) fillHall(ctx context.Context) (open []*ssh.Client, err error) {
	ctx, cancel := context.WithTimeout(ctx, hallWithin)
	defer cancel()
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	var mu sync.Mutex
	var all sync.WaitGroup
	users := crowd()[:hallUsers]
	next := make(chan string)
	for range idleDoors {
		all.Go(func() {
			for user := range next {
				c, err := p.idle(user)
				if err != nil {
					fail(err)
					continue
				}
				mu.Lock()
				open = append(open, c)
				mu.Unlock()
			}
		})
	}
	for i := range idleConnections {
		select {
		case next <- users[i%len(users)]:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			break
		}
	}
	close(next)
	all.Wait()
	return open, context.Cause(ctx)
}

// idle is a login of somebody who looks at a prompt.
func (p *people) idle(user string) (_ *ssh.Client, err error) {
	key, err := signer(p.key(user))
	if err != nil {
		return nil, err
	}
	c, err := ssh.Dial("tcp", p.door, &ssh.ClientConfig{
		Config: ssh.Config{KeyExchanges: []string{keyExchange}, Ciphers: []string{cipher}},
		User:   user + "+" + poolHall, Auth: []ssh.AuthMethod{ssh.PublicKeys(key)},
		HostKeyCallback: ssh.InsecureIgnoreHostKey(), Timeout: loginWithin,
	})
	if err != nil {
		return nil, fmt.Errorf("an idle terminal of %s: %w", user, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("an idle terminal of %s: %w", user, err), c.Close())
		}
	}()
	s, err := c.NewSession()
	if err != nil {
		return nil, err
	}
	out, err := s.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := s.RequestPty("xterm", 24, 80, ssh.TerminalModes{}); err != nil {
		return nil, err
	}
	if err := s.Shell(); err != nil {
		return nil, err
	}
	if _, err := out.Read(make([]byte, 4096)); err != nil {
		return nil, err
	}
	return c, nil
}

// measureCrowd has everybody come at once to a pool at zero.
func (p *people) measureCrowd(ctx context.Context, r *report) error {
	const needed = (crowdSize + crowdSeats - 1) / crowdSeats
	progress("people: %d users at once to a pool at zero", crowdSize)
	users := crowd()
	took, failed := p.allAtOnce(users, func(user string) (time.Duration, error) {
		return p.ssh(ctx, throughDoor, user+"+"+poolCrowd, "true")
	})
	machines, err := p.Machines(ctx, poolCrowd, true)
	if err != nil {
		return err
	}
	sessions, err := p.Sessions(ctx, client.SessionFilter{Pool: poolCrowd, Limit: 2 * crowdSize})
	if err != nil {
		return err
	}
	placed := 0
	at := map[string]string{}
	for _, user := range users {
		machine := machineOf(sessions.Items, user)
		i := slices.IndexFunc(machines.Items, func(m dspool.Machine) bool { return m.Name == machine })
		if i >= 0 {
			placed++
			at[user] = machines.Items[i].Address
		}
	}
	line := row{
		what:   fmt.Sprintf("%d users at once to a pool at zero, until the last is in", crowdSize),
		dspool: "nobody came in", aim: fmt.Sprintf("all in, ≤ %d machines", needed),
		met: len(failed) == 0 && placed == crowdSize && len(machines.Items) <= needed,
	}
	if len(took) > 0 {
		line.dspool = fmt.Sprintf("%s, %d in, %d machines", seconds(slices.Max(took)), len(took), len(machines.Items))
		r.note("%d users at once: the first is in after %s, half after %s", crowdSize, seconds(slices.Min(took)), seconds(median(took)))
	}
	for _, err := range failed[:min(3, len(failed))] {
		r.note("  refused: %v", err)
	}
	if len(failed) == 0 && placed == crowdSize {
		direct, failed := p.allAtOnce(users, func(user string) (time.Duration, error) {
			return p.ssh(ctx, direct, user, "-oHostName="+at[user], "true")
		})
		if len(failed) > 0 {
			return errors.Join(failed...)
		}
		line.peer = seconds(slices.Max(direct)) + " the same direct, to warm machines"
		line.ratio = times(slices.Max(took).Seconds() / slices.Max(direct).Seconds())
	}
	r.add(line)
	return p.empty(ctx, poolCrowd)
}

// allAtOnce does something for everybody at the same time and returns when each was done.
func (p *people) allAtOnce(users []string, do func(user string) (time.Duration, error)) (took []time.Duration, failed []error) {
	var mu sync.Mutex
	var all sync.WaitGroup
	begun := time.Now()
	for _, user := range users {
		all.Go(func() {
			_, err := do(user)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed = append(failed, err)
				return
			}
			took = append(took, time.Since(begun))
		})
	}
	all.Wait()
	return took, failed
}
