package agent

import (
	"reflect"
	"slices"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/agent/host"
)

// wantedApps returns d with the apps that are to run, and those that are to end. Of those whose end
// the server has it names none: an old answer starts none again. mu is held.
func (t *seats) wantedApps(d api.SessionDirective) (api.SessionDirective, []int64) {
	var run []api.AppDirective
	var stops []int64
	for _, a := range d.Apps {
		switch {
		case t.apps.has(a.ID):
		case a.Stop:
			stops = append(stops, a.ID)
		default:
			run = append(run, a)
		}
	}
	d.Apps = run
	return d, stops
}

// appsChanged notes that what is seen of apps from now on is another; mu is held.
func (t *seats) appsChanged(s *seat) {
	t.changes++
	s.changed = t.changes
}

// lookAtApps returns what seenApps needs to know of the moment before the look.
func (t *seats) lookAtApps() (changes int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.changes
}

// seenApps takes in how all apps stand since lookAtApps. It returns whether any is starting, which is
// looked at more often.
func (t *seats) seenApps(list []host.App, changes int64) (starting bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	bySession := map[int64][]api.AppReport{}
	for _, a := range list {
		if t.apps.has(a.ID) {
			continue // it is about to be forgotten
		}
		bySession[a.Session] = append(bySession[a.Session], a.AppReport)
		starting = starting || a.State == dspool.AppStarting
	}
	for id, s := range t.byID {
		if s.report.State != dspool.SessionOpen {
			continue
		}
		apps := append(bySession[id], t.neverBegun(s, bySession[id], changes)...)
		if reflect.DeepEqual(s.report.Apps, apps) {
			continue
		}
		s.report.Apps = apps
		t.tell(s)
	}
	return starting
}

// neverBegun are apps of s that were stopped before the machine began them; mu is held.
func (t *seats) neverBegun(s *seat, seen []api.AppReport, changes int64) (out []api.AppReport) {
	if s.changed > changes || s.have == nil || !reflect.DeepEqual(*s.have, s.want) {
		return nil // one may be about to be started
	}
	for _, id := range s.stops {
		if !t.apps.has(id) && !slices.ContainsFunc(seen, func(a api.AppReport) bool { return a.ID == id }) {
			out = append(out, api.AppReport{ID: id, State: dspool.AppEnded, Reason: dspool.Reason{Code: dspool.WhyAppUnwanted}})
		}
	}
	return out
}

// settleApps drops the apps of s whose end the server has by now, and returns them; mu is held.
func (t *seats) settleApps(s *seat, told []api.AppReport) (ids []int64) {
	for _, a := range told {
		if a.State != dspool.AppEnded || t.apps.has(a.ID) {
			continue
		}
		t.apps.add(a.ID)
		ids = append(ids, a.ID)
	}
	if len(ids) > 0 {
		// What was told is not changed: it may be on its way once more.
		s.report.Apps = slices.DeleteFunc(slices.Clone(s.report.Apps), func(a api.AppReport) bool { return t.apps.has(a.ID) })
		if len(s.report.Apps) == 0 {
			s.report.Apps = nil
		}
		s.want, _ = t.wantedApps(s.want)
		if s.have != nil {
			have, _ := t.wantedApps(*s.have)
			s.have = &have
		}
	}
	return ids
}

// endedApps are the apps of a session that is closed: all have ended with it. mu is held.
func (t *seats) endedApps(s *seat, failed dspool.Reason) []api.AppReport {
	reason := dspool.Reason{Code: dspool.WhySessionEnded}.With(failed.Or(s.want.Reason).Or(dspool.Reason{Code: dspool.WhyClosed}))
	apps := slices.Clone(s.report.Apps)
	for i, a := range apps {
		if a.State != dspool.AppEnded {
			apps[i] = api.AppReport{ID: a.ID, State: dspool.AppEnded, Reason: reason}
		}
	}
	directed := slices.Clone(s.stops)
	for _, d := range s.want.Apps {
		directed = append(directed, d.ID)
	}
	if s.have != nil {
		for _, d := range s.have.Apps {
			directed = append(directed, d.ID)
		}
	}
	for _, id := range directed {
		if !t.apps.has(id) && !slices.ContainsFunc(apps, func(a api.AppReport) bool { return a.ID == id }) {
			apps = append(apps, api.AppReport{ID: id, State: dspool.AppEnded, Reason: reason})
		}
	}
	return apps
}
