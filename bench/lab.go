package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/client"
	"github.com/dspool/dspool/internal/gateway"
)

// labTeam is the embedded default with one person: JupyterHub on a machine of its own, JupyterLab in
// the default image.
const labTeam = `
server: {listen: "127.0.0.1:0"}
users: {list: [{name: ada}]}
defaults: {user: ada, pool: lab, jobs_share: home}
sizes: {small: {cpus: 1, memory: 2GiB, disk: 1GiB}, tiny: {cpus: 1, memory: 1GiB}}
shares: {home: {mount: /home}, services: {mount: /home}}
images: {UbuntuDSVM: {}, JupyterHub: {}}
pools:
  lab: {kind: interactive, image: UbuntuDSVM, sizes: [small], min: 0, max: 1, shares: [home]}
  hub: {kind: service, runs: jupyterhub, image: JupyterHub, sizes: [tiny], shares: [services], internet: false}
doors: [{listen: "127.0.0.1:0", protocol: web, pool: lab}]
web: {url: http://localhost} # the bench finds the door's port by itself
`

const (
	labRounds   = 5
	hubWithin   = 2 * time.Minute
	labWithin   = 2 * time.Minute
	labPassword = "measured by bench"
)

// The ways to JupyterLab that are measured.
const (
	labZero = "from zero machines"
	labWarm = "from a warm machine"
	labRuns = "to a notebook server that runs"
)

// labTimes are the steps of one way to JupyterLab.
type labTimes struct {
	login   time.Duration // the password, and all redirects until JupyterHub shows what it does
	machine time.Duration // until the machine has the session
	server  time.Duration // until the notebook server listens, by the word of the machine's agent
	page    time.Duration // until JupyterLab's page is there, by the notebook server's own login at JupyterHub
}

func (t labTimes) sum() time.Duration { return t.login + t.machine + t.server + t.page }

// lab is a server with a web door.
type lab struct {
	*server
	door string
}

// measureLab measures how long it takes somebody with a password until JupyterLab's page is there.
func measureLab(ctx context.Context, o options, work string, r *report) error {
	s, err := newServer(o, filepath.Join(work, "lab"), labTeam)
	if err != nil {
		return err
	}
	l := &lab{server: s}
	return l.with(ctx, func() error {
		defer l.keepLogs()
		if err := l.ready(ctx); err != nil {
			return err
		}
		return l.measure(ctx, r)
	})
}

// ready waits until JupyterHub runs.
func (l *lab) ready(ctx context.Context) error {
	for _, image := range []string{"JupyterHub", "UbuntuDSVM"} {
		if _, err := l.waitImage(ctx, image); err != nil {
			return err
		}
	}
	err := until(ctx, "an open web door", startWithin, func() (bool, error) {
		g, err := gateway.ReadStatus(ctx, l.dir)
		for _, d := range g.Doors {
			if d.Listen == "127.0.0.1:0" {
				l.door = d.Address
			}
		}
		return err == nil && l.door != "", nil
	})
	if err != nil {
		return err
	}
	err = until(ctx, "JupyterHub", hubWithin, func() (bool, error) {
		apps, err := l.Apps(ctx, client.AppFilter{User: dspool.HubUser, Limit: 1})
		return err == nil && len(apps.Items) == 1 && apps.Items[0].State == dspool.AppRunning, err
	})
	if err != nil {
		return err
	}
	return l.SetPassword(ctx, me, api.PasswordRequest{New: labPassword})
}

func (l *lab) measure(ctx context.Context, r *report) error {
	progress("jupyterlab: %d starts from zero, from a warm machine, and to a server that runs", labRounds)
	seen := map[string][]labTimes{}
	for i := range labRounds + 1 {
		for _, way := range []string{labZero, labWarm, labRuns} {
			if err := l.prepare(ctx, way); err != nil {
				return fmt.Errorf("prepare a start %s: %w", way, err)
			}
			if err := breathe(ctx, pause); err != nil {
				return err
			}
			t, err := l.visit(ctx)
			if err != nil {
				return fmt.Errorf("start %s: %w", way, err)
			}
			if i > 0 { // the first also fills caches of files
				seen[way] = append(seen[way], t)
			}
		}
	}
	part := func(way string, of func(labTimes) time.Duration) (all []time.Duration) {
		for _, t := range seen[way] {
			all = append(all, of(t))
		}
		return all
	}
	warm := median(part(labWarm, labTimes.sum))
	for _, way := range []string{labZero, labWarm, labRuns} {
		all := part(way, labTimes.sum)
		r.add(row{what: fmt.Sprintf("JupyterLab's page %s, login and all, median of %d", way, labRounds), dspool: seconds(median(all)),
			peer: seconds(warm) + " " + labWarm, ratio: times(median(all).Seconds() / warm.Seconds())})
		r.note("JupyterLab %s: login %s, machine %s, notebook server %s, page %s", way,
			spread(part(way, func(t labTimes) time.Duration { return t.login })), spread(part(way, func(t labTimes) time.Duration { return t.machine })),
			spread(part(way, func(t labTimes) time.Duration { return t.server })), spread(part(way, func(t labTimes) time.Duration { return t.page })))
	}
	return nil
}

// prepare brings the pool to where a way begins.
func (l *lab) prepare(ctx context.Context, way string) error {
	if way == labRuns {
		return nil // by the way before
	}
	b, err := l.browser(ctx, "/hub/home")
	if err != nil {
		return err
	}
	if err := b.stopServer(ctx, me); err != nil {
		return err
	}
	sessions, err := l.Sessions(ctx, client.SessionFilter{Pool: poolLab})
	if err != nil {
		return err
	}
	for _, s := range sessions.Items {
		if _, err := l.CloseSession(ctx, s.ID); err != nil {
			return err
		}
	}
	n := 0
	if way == labWarm {
		n = 1
	}
	if _, err := l.resize(ctx, poolLab, n); err != nil {
		return err
	}
	return until(ctx, "the end of the session", machineWithin, func() (bool, error) {
		list, err := l.Sessions(ctx, client.SessionFilter{Pool: poolLab})
		return len(list.Items) == 0, err
	})
}

// visit goes to JupyterLab as somebody who is logged in nowhere.
func (l *lab) visit(ctx context.Context) (t labTimes, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, labWithin, fmt.Errorf("JupyterLab: not within %s", labWithin))
	defer cancel()
	begun := time.Now()
	lap := func(into *time.Duration) {
		now := time.Now()
		*into, begun = now.Sub(begun), now
	}
	b, err := l.browser(ctx, "/")
	if err != nil {
		return t, err
	}
	lap(&t.login)
	if b.waits() {
		err := b.progress(ctx, me, func(message string) {
			if strings.HasPrefix(message, "Starting ") && t.machine == 0 {
				lap(&t.machine)
			}
		})
		if err != nil {
			return t, err
		}
		lap(&t.server)
	}
	if err := b.openLab(ctx, me); err != nil {
		return t, err
	}
	lap(&t.page)
	return t, nil
}

// keepLogs saves logs from the directory that is removed.
func (l *lab) keepLogs() {
	for from, to := range map[string]string{
		"gateway/gateway.log": "lab-gateway.log", "shares/services/jupyterhub/.local/state/dspool/hub.log": "lab-hub.log",
		"shares/home/" + me + "/.local/state/dspool/jupyter.log": "lab-jupyter.log",
	} {
		text, err := os.ReadFile(filepath.Join(l.dir, from))
		if err == nil {
			err = os.WriteFile(filepath.Join(l.o.out, to), text, 0o644)
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			progress("the log %s is lost: %v", from, err)
		}
	}
}
