package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/gateway"
)

// Pools: one warm machine; one that is at zero again and again; one for many idle connections;
// one at zero to which everybody comes at once.
const (
	poolLab   = "lab"
	poolCold  = "cold"
	poolHall  = "hall"
	poolCrowd = "crowd"
)

const (
	crowdSize  = 50
	crowdSeats = 4 // people on one machine of the crowd's pool
	hallUsers  = 20
	me         = "ada" // who logs in where one person is enough
)

// peopleTeam has %[1]s for the list of users, %[2]d for the host's cores, %[3]d and %[4]d
// for the people on one machine of the hall and of the crowd.
const peopleTeam = `
server: {listen: "127.0.0.1:0"}
users:
  list: %[1]s
defaults: {user: ada, pool: lab, jobs_share: team}
sizes:
  desk: {cpus: %[2]d, memory: 2GiB, disk: 500MiB}
  hall: {cpus: %[2]d, memory: 6GiB, disk: 1GiB}
  seat: {cpus: 0.25, memory: 256MiB, disk: 200MiB}
shares: {home: {mount: /home}, team: {mount: /mnt/team}}
images: {people: {recipe: people.yaml}}
pools:
  lab: {kind: interactive, image: people, sizes: [desk], min: 0, max: 1, shares: [home, team], internet: false, policy: {sessions_per_machine: 16}}
  cold: {kind: interactive, image: people, sizes: [desk], min: 0, max: 1, shares: [home, team], internet: false}
  hall: {kind: interactive, image: people, sizes: [hall], min: 0, max: 1, shares: [home, team], internet: false, policy: {sessions_per_machine: %[3]d}}
  crowd: {kind: interactive, image: people, sizes: [seat], min: 0, max: 50, shares: [home, team], internet: false, policy: {sessions_per_machine: %[4]d}}
doors: [{listen: "` + sshDoor + `", protocol: ssh, pool: lab}]
`

const sshDoor = "127.0.0.1:0"

//go:embed people.yaml
var peopleRecipe []byte

// people is a server with a door, and the ways to a machine: through the door, through OpenSSH's
// own jump host, and straight to its sshd.
type people struct {
	*server
	clients
	door  string
	lab   dspool.Machine
	login loginTimes // once measured
}

// measurePeople measures what the options ask for of the interactive pool.
func measurePeople(ctx context.Context, o options, work string, r *report) error {
	p := &people{clients: clients{dir: filepath.Join(work, "clients")}}
	var list strings.Builder
	for _, user := range append([]string{me}, crowd()...) {
		key, err := p.makeKey(user)
		if err != nil {
			return err
		}
		fmt.Fprintf(&list, "\n    - {name: %s, keys: [%q]}", user, key)
	}
	var err error
	if p.server, err = newServer(o, filepath.Join(work, "people"), fmt.Sprintf(peopleTeam, &list, runtime.NumCPU(), hallUsers, crowdSeats)); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(p.server.dir, "people.yaml"), peopleRecipe, 0o644); err != nil {
		return err
	}
	jump, err := startJump(ctx, filepath.Join(work, "jump"), o.out, p.public(me))
	if err != nil {
		return fmt.Errorf("start the jump host: %w", err)
	}
	defer jump.stop()
	p.jump = jump
	return p.with(ctx, func() error {
		defer p.keepLog()
		return p.measure(ctx, r)
	})
}

func (p *people) measure(ctx context.Context, r *report) error {
	if _, err := p.waitImage(ctx, "people"); err != nil {
		return err
	}
	err := until(ctx, "an open door", startWithin, func() (bool, error) {
		g, err := gateway.ReadStatus(ctx, p.server.dir)
		if err != nil {
			return false, nil
		}
		for _, d := range g.Doors {
			if d.Listen == sshDoor { // there is one for machines as well
				p.gateway, p.door = g.PID, d.Address
			}
		}
		return p.door != "", nil
	})
	if err != nil {
		return err
	}
	machines, err := p.resize(ctx, poolLab, 1)
	if err != nil {
		return err
	}
	p.lab = machines[0]
	if err := p.certify(filepath.Join(p.server.dir, "pki", "ssh_machine_ca"), append(crowd(), me)); err != nil {
		return err
	}
	if err := p.configure(p.door, p.lab.Address); err != nil {
		return err
	}
	progress("people: a first login each way")
	for _, way := range ways {
		if _, err := p.ssh(ctx, way, me, "true"); err != nil {
			return err
		}
	}
	for _, part := range []struct {
		name    string
		measure func(context.Context, *report) error
	}{
		{"login", p.measureLogin}, {"keystroke", p.measureKeystroke}, {"bulk", p.measureBulk},
		{"zero", p.measureZero}, {"idle", p.measureIdle}, {"crowd", p.measureCrowd},
	} {
		if !p.o.wants(part.name) {
			continue
		}
		r.look()
		if err := part.measure(ctx, r); err != nil {
			return fmt.Errorf("measure %s: %w", part.name, err)
		}
	}
	return nil
}

// keepLog saves the gateway's log from the directory that is removed.
func (p *people) keepLog() {
	log, err := os.ReadFile(filepath.Join(p.server.dir, "gateway", "gateway.log"))
	if err == nil {
		err = os.WriteFile(filepath.Join(p.o.out, "gateway.log"), log, 0o644)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		progress("the gateway's log is lost: %v", err)
	}
}

func crowd() []string {
	users := make([]string, crowdSize)
	for i := range users {
		users[i] = fmt.Sprintf("u%02d", i+1)
	}
	return users
}

// breathe lets a host become quiet between two samples; people do not log in in a loop either.
func breathe(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
