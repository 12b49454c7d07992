package agent

import (
	"reflect"
	"slices"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/agent/host"
)

// withoutSettled returns d without apps whose end the server has: an old answer starts none again.
// mu is held.
func (t *seats) withoutSettled(d api.SessionDirective) api.SessionDirective {
	d.Apps = slices.DeleteFunc(slices.Clone(d.Apps), func(a api.AppDirective) bool { return t.apps.has(a.ID) })
	if len(d.Apps) == 0 {
		d.Apps = nil
	}
	return d
}

// seenApps takes in how all apps stand. It returns whether any is starting, which is looked at more often.
func (t *seats) seenApps(list []host.App) (starting bool) {
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
		apps := bySession[id]
		if s.report.State != dspool.SessionOpen || reflect.DeepEqual(s.report.Apps, apps) {
			continue
		}
		s.report.Apps = apps
		t.tell(s)
	}
	return starting
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
		s.want = t.withoutSettled(s.want)
		if s.have != nil {
			have := t.withoutSettled(*s.have)
			s.have = &have
		}
	}
	return ids
}

// endedApps are the apps of a session that is closed: all have ended with it. mu is held.
func (t *seats) endedApps(s *seat, failed string) []api.AppReport {
	reason := s.want.Reason
	if failed != "" {
		reason = failed
	}
	if reason == "" {
		reason = "it was closed"
	}
	reason = "the session ended: " + reason
	apps := slices.Clone(s.report.Apps)
	for i, a := range apps {
		if a.State != dspool.AppEnded {
			apps[i] = api.AppReport{ID: a.ID, State: dspool.AppEnded, Reason: reason}
		}
	}
	directed := s.want.Apps
	if s.have != nil {
		directed = slices.Concat(directed, s.have.Apps)
	}
	for _, d := range directed {
		if !t.apps.has(d.ID) && !slices.ContainsFunc(apps, func(a api.AppReport) bool { return a.ID == d.ID }) {
			apps = append(apps, api.AppReport{ID: d.ID, State: dspool.AppEnded, Reason: reason})
		}
	}
	return apps
}
