package main

import (
	"context"
	"fmt"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/client"
)

const (
	loginRounds = 21
	zeroRounds  = 11
	pause       = 300 * time.Millisecond // between two logins
	firstUsers  = 9                      // who log in to the warm machine for the first time
)

// loginTimes are medians of one measurement.
type loginTimes struct{ door, direct time.Duration }

func (t loginTimes) ratio() float64 { return t.door.Seconds() / t.direct.Seconds() }

// logins times `ssh true` both ways in turn, each way first as often as the other.
func (p *people) logins(ctx context.Context, rounds int, wait time.Duration) (door, straight []time.Duration, err error) {
	for i := range rounds + 1 {
		for k := range 2 {
			if err := breathe(ctx, wait); err != nil {
				return nil, nil, err
			}
			way, into := direct, &straight
			if (i+k)%2 == 0 {
				way, into = throughDoor, &door
			}
			took, err := p.ssh(ctx, way, me, "true")
			if err != nil {
				return nil, nil, err
			}
			if i > 0 {
				*into = append(*into, took)
			}
		}
	}
	return door, straight, nil
}

// warmLogins are logins as people make them: with a pause in between.
func (p *people) warmLogins(ctx context.Context) (t loginTimes, text string, err error) {
	door, straight, err := p.logins(ctx, loginRounds, pause)
	if err != nil {
		return t, "", err
	}
	return loginTimes{median(door), median(straight)}, fmt.Sprintf("through the door %s, direct %s", spread(door), spread(straight)), nil
}

func (p *people) measureLogin(ctx context.Context, r *report) error {
	progress("people: %d logins to a warm machine each way", loginRounds)
	t, text, err := p.warmLogins(ctx)
	if err != nil {
		return err
	}
	p.login = t
	r.add(row{
		what:   "login to a warm machine, `ssh true`, median",
		dspool: millis(t.door), peer: millis(t.direct) + " direct to the machine's sshd",
		ratio: times(t.ratio()), aim: "≤ 1.0×", met: t.ratio() <= 1,
	})
	r.note("logins: %s", text)

	// Nothing is prepared for somebody who comes for the first time, nor for one on the heels of another.
	var first []time.Duration
	for _, user := range crowd()[:firstUsers] {
		if err := breathe(ctx, pause); err != nil {
			return err
		}
		took, err := p.ssh(ctx, throughDoor, user, "true")
		if err != nil {
			return err
		}
		first = append(first, took)
	}
	door, straight, err := p.atOnce(ctx, firstUsers)
	if err != nil {
		return err
	}
	r.note("  a user's first, session and all: %s; one after another without a pause: through the door %s, direct %s",
		spread(first), spread(door), spread(straight))
	return nil
}

// atOnce times logins that follow each other without a pause, one way after the other.
func (p *people) atOnce(ctx context.Context, rounds int) (door, straight []time.Duration, err error) {
	for _, leg := range []struct {
		way  string
		into *[]time.Duration
	}{{throughDoor, &door}, {direct, &straight}} {
		for range rounds {
			took, err := p.ssh(ctx, leg.way, me, "true")
			if err != nil {
				return nil, nil, err
			}
			*leg.into = append(*leg.into, took)
		}
	}
	return door, straight, nil
}

// measureZero logs in to a pool without a machine, in turn with direct logins to a warm one.
func (p *people) measureZero(ctx context.Context, r *report) error {
	progress("people: %d logins to a pool at zero", zeroRounds)
	var zero, straight, made []time.Duration
	for i := range zeroRounds + 1 {
		if err := breathe(ctx, pause); err != nil {
			return err
		}
		cold, err := p.ssh(ctx, throughDoor, me+"+"+poolCold, "true")
		if err != nil {
			return err
		}
		machines, err := p.Machines(ctx, poolCold, false)
		if err != nil {
			return err
		}
		if len(machines.Items) != 1 || machines.Items[0].ReadyAt == nil {
			return fmt.Errorf("after a login the pool has %d machines", len(machines.Items))
		}
		m := machines.Items[0]
		if err := p.empty(ctx, poolCold); err != nil {
			return err
		}
		if err := breathe(ctx, pause); err != nil {
			return err
		}
		warm, err := p.ssh(ctx, direct, me, "true")
		if err != nil {
			return err
		}
		if i > 0 { // the first also makes the disk's template
			zero, straight, made = append(zero, cold), append(straight, warm), append(made, m.ReadyAt.Sub(m.Created))
		}
	}
	ratio := median(zero).Seconds() / median(straight).Seconds()
	r.add(row{
		what:   "login to a pool at zero, `ssh true`, median",
		dspool: millis(median(zero)), peer: millis(median(straight)) + " direct to a warm machine",
		ratio: times(ratio), aim: "≤ 2.5×", met: ratio <= 2.5,
	})
	r.note("pool at zero: logins %s, of which the machine took %s; direct %s", spread(zero), spread(made), spread(straight))
	return nil
}

// empty removes a pool's machines and waits until nobody's session is left there.
func (p *people) empty(ctx context.Context, pool string) error {
	if _, err := p.resize(ctx, pool, 0); err != nil {
		return err
	}
	return until(ctx, "the end of the sessions in pool "+pool, machineWithin, func() (bool, error) {
		list, err := p.Sessions(ctx, client.SessionFilter{Pool: pool})
		return len(list.Items) == 0, err
	})
}

// machineOf is where a user's session in a pool is.
func machineOf(sessions []dspool.Session, user string) string {
	for _, s := range sessions {
		if s.User == user {
			return s.Machine
		}
	}
	return ""
}
