package agent

import (
	"reflect"
	"sync"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/agent/host"
)

// seats is what the agent knows of users' sessions. It decides and does nothing, as table does
// for attempts.
type seats struct {
	mu      sync.Mutex
	byID    map[int64]*seat // not settled
	settled idSet           // so that an old answer never opens them again
	apps    idSet           // that have ended and are settled, likewise
	changes int64           // of what apps are wanted, in all seats together
	wake    chan struct{}   // the server must hear of something
	fresh   chan struct{}   // a session has just opened
}

// seat is one session on this machine.
type seat struct {
	want      api.SessionDirective
	have      *api.SessionDirective // what was last carried out; nil if that is not known
	busy      bool                  // a goroutine brings have to want
	stops     []int64               // apps that are to end, or never to start
	changed   int64                 // seats.changes when want or have last was
	gone      chan struct{}         // closed when nothing of it is left
	unlisted  bool                  // the server does not ask for it any more
	lost      bool                  // it was open, and the machine does not know it
	report    api.SessionReport     // State is "" until there is something to say
	version   int64
	dirty     bool
	notBefore time.Time // it is not reported before; it was refused
}

func newSeats() *seats {
	return &seats{byID: map[int64]*seat{}, settled: idSet{}, apps: idSet{}, wake: make(chan struct{}, 1), fresh: make(chan struct{}, 1)}
}

// direct takes in directives and returns the seats that need a goroutine. whole says that they
// are all there are: what is not among them is to be closed.
func (t *seats) direct(list []api.SessionDirective, whole bool) (work []*seat) {
	t.mu.Lock()
	defer t.mu.Unlock()
	listed := map[int64]bool{}
	for _, d := range list {
		listed[d.ID] = true
		if t.settled.has(d.ID) {
			continue
		}
		s := t.byID[d.ID]
		if s == nil {
			s = &seat{gone: make(chan struct{}), report: api.SessionReport{ID: d.ID}}
			t.byID[d.ID] = s
		}
		if s.want.Close {
			continue // nothing brings it back
		}
		s.want, s.stops = t.wantedApps(d)
		t.appsChanged(s)
		work = t.start(s, work)
	}
	for id, s := range t.byID {
		if whole && !listed[id] && !s.want.Close {
			s.want.Close, s.want.Reason, s.unlisted = true, dspool.Reason{Code: dspool.WhyUnknownToServer}, true
			work = t.start(s, work)
		}
	}
	return work
}

func (t *seats) start(s *seat, work []*seat) []*seat {
	if s.busy || s.report.State == dspool.SessionClosed {
		return work
	}
	s.busy = true
	return append(work, s)
}

// next returns what is to be done for s: nothing, and its goroutine ends; or want, after
// before is closed, if there is one.
func (t *seats) next(s *seat) (want api.SessionDirective, before <-chan struct{}, more bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s.have != nil && reflect.DeepEqual(*s.have, s.want) || s.report.State == dspool.SessionClosed {
		s.busy = false
		return want, nil, false
	}
	for id, other := range t.byID {
		// A user's earlier session makes room first.
		if !s.want.Close && id != s.want.ID && other.want.UID == s.want.UID && other.want.Close && other.report.State != dspool.SessionClosed {
			return s.want, other.gone, true
		}
	}
	return s.want, nil, true
}

// opened notes that want was carried out.
func (t *seats) opened(s *seat, want api.SessionDirective) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s.have, s.lost = &want, false
	t.appsChanged(s)
	first := s.report.State == ""
	if first || s.report.Rights != want.Rights {
		s.report.State, s.report.Rights = dspool.SessionOpen, want.Rights
		t.tell(s)
	}
	if first {
		signal(t.fresh)
	}
}

// stays says that s is open although want could not be carried out: what lives in it is not
// ended because a change of it fails. The next change is tried again.
func (t *seats) stays(s *seat, want api.SessionDirective) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s.report.State != dspool.SessionOpen || s.lost {
		return false
	}
	s.have = &want
	t.appsChanged(s)
	return true
}

// closed notes that nothing is left of s; failed is why it could not be opened.
func (t *seats) closed(s *seat, failed dspool.Reason) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s.busy = false
	s.report = api.SessionReport{ID: s.report.ID, State: dspool.SessionClosed, Failed: failed, Apps: t.endedApps(s, failed)}
	close(s.gone)
	if s.unlisted {
		delete(t.byID, s.report.ID)
		t.settled.add(s.report.ID)
		return
	}
	t.tell(s)
}

// held is what the sessions hold of the machine together.
func (t *seats) held() (sum dspool.Resources) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range t.byID {
		if s.report.State != dspool.SessionClosed {
			sum = sum.Add(s.want.Request)
		}
	}
	return sum
}

// seen takes in what the machine's sessions are like, and returns seats to work on: those that
// should be open and are not.
func (t *seats) seen(list []host.Session) (work []*seat) {
	t.mu.Lock()
	defer t.mu.Unlock()
	there := map[int64]bool{}
	for _, x := range list {
		there[x.ID] = true
		s := t.byID[x.ID]
		if s == nil || s.report.State != dspool.SessionOpen {
			continue
		}
		if s.report.Active != x.Active || !s.report.Activity.Equal(x.Activity) {
			s.report.Active, s.report.Activity = x.Active, x.Activity
			t.tell(s)
		}
	}
	for id, s := range t.byID {
		if !there[id] && s.report.State == dspool.SessionOpen && !s.want.Close && !s.busy {
			s.have, s.lost = nil, true
			work = t.start(s, work)
		}
	}
	return work
}

// adopt takes over sessions that an earlier agent opened.
func (t *seats) adopt(list []host.Session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, x := range list {
		t.byID[x.ID] = &seat{
			want: api.SessionDirective{ID: x.ID, Account: api.Account{User: x.User, UID: x.UID}}, gone: make(chan struct{}),
			report: api.SessionReport{ID: x.ID, State: dspool.SessionOpen, Active: x.Active, Activity: x.Activity},
		}
	}
}

// tell is called with mu held.
func (t *seats) tell(s *seat) {
	s.version++
	s.dirty = true
	signal(t.wake)
}

// batch returns what the server must hear of now; with all also what it has heard.
func (t *seats) batch(all bool, now time.Time) (out []said) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range t.byID {
		if (s.dirty || all) && s.report.State != "" && !s.notBefore.After(now) {
			out = append(out, said{seat: s, version: s.version, session: s.report})
		}
	}
	return out
}

// heard notes that the server has durably what was said, and returns the apps that are settled by it.
func (t *seats) heard(batch []said) (apps []int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, x := range batch {
		s := x.seat
		if s == nil {
			continue
		}
		apps = append(apps, t.settleApps(s, x.session.Apps)...)
		if s.version != x.version {
			continue
		}
		s.dirty = false
		if s.report.State == dspool.SessionClosed && t.byID[s.report.ID] == s {
			delete(t.byID, s.report.ID)
			t.settled.add(s.report.ID)
		}
	}
	return apps
}

// refused puts off what the server does not take.
func (t *seats) refused(x said, until time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if x.seat != nil {
		x.seat.notBefore = until
	}
}
