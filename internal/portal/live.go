package portal

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/control"
)

const (
	// liveEvery is how often a part of a page is looked at although nothing has told of a change: verdicts of
	// agents and times make no events.
	liveEvery = 10 * time.Second
	// liveRest is how long after one change another may wait.
	liveRest = 500 * time.Millisecond
	// mostLive is how many pages of a user are live together. Others show what was when they were loaded.
	mostLive = 40
)

// audience counts live pages by user.
type audience struct {
	mu sync.Mutex
	of map[string]int
}

func (a *audience) enter(user string) (leave func(), ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.of[user] >= mostLive {
		return nil, false
	}
	if a.of == nil {
		a.of = map[string]int{}
	}
	a.of[user]++
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.of[user]--; a.of[user] == 0 {
			delete(a.of, user)
		}
	}, true
}

// finder reads what a page shows. It is asked again for every change.
type finder func(ctx context.Context, r *http.Request, m *member) (any, error)

// page shows what a finder finds.
func (p *Portal) page(name string, find finder) http.HandlerFunc {
	return p.member(func(w http.ResponseWriter, r *http.Request, m *member) {
		data, err := find(r.Context(), r, m)
		if err != nil {
			p.fail(w, r, m, err)
			return
		}
		p.render(w, m.visit, http.StatusOK, name, data, m)
	})
}

// live sends the part "live" of a page whenever it has changed (WHATWG HTML, section 9.2), until the login
// ends or has other rights.
func (p *Portal) live(name string, find finder) http.HandlerFunc {
	return p.member(func(w http.ResponseWriter, r *http.Request, m *member) {
		if !m.ownRequest(r) {
			p.fail(w, r, m, errForeign)
			return
		}
		leave, ok := p.audience.enter(m.Who.User)
		if !ok {
			p.fail(w, r, m, dspool.Errorf(dspool.Unavailable, "%s has %d pages open", m.Who.User, mostLive))
			return
		}
		defer leave()
		m.guard(w, name)
		w.Header().Set("Content-Type", "text/event-stream")
		w.Header().Set("X-Accel-Buffering", "no")
		w.WriteHeader(http.StatusOK)
		s := sender{w, http.NewResponseController(w)}
		defer s.c.SetWriteDeadline(time.Time{}) // the connection may carry other answers
		if s.send("", "") != nil || r.Method == http.MethodHead {
			return
		}
		last := ""
		for {
			changed, access := p.Control.Changed(control.TopicEvents), p.Control.Changed(control.TopicAccess)
			b, err := p.Control.WebLoginStands(r.Context(), m.ID)
			if r.Context().Err() != nil {
				return
			}
			if dspool.ErrorCode(err) == dspool.Unauthenticated || err == nil && b.Who != m.Who {
				_ = s.send("gone", "the login has ended")
				return
			}
			if err == nil {
				err = p.sendPart(&s, name, find, r, m, &last)
			}
			if err != nil {
				return // the browser asks again
			}
			if !p.rest(r.Context(), liveRest, nil, nil) || !p.rest(r.Context(), liveEvery, changed, access) {
				return
			}
		}
	})
}

// rest waits for a time or a change; false means that it is over.
func (p *Portal) rest(ctx context.Context, d time.Duration, changed, access <-chan struct{}) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-changed:
	case <-access:
	case <-ctx.Done():
		return false
	case <-p.Control.Stopping():
		return false
	}
	return true
}

func (p *Portal) sendPart(s *sender, name string, find finder, r *http.Request, m *member, last *string) error {
	data, err := find(r.Context(), r, m)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if err := pages[name].ExecuteTemplate(&b, "live", view{Page: name, Member: m, Data: data, Hub: m.settings.Hub, now: p.now()}); err != nil {
		p.Log.Error("render a part of a page", "page", name, "err", err)
		return err
	}
	if now := b.String(); now != *last {
		*last = now
		return s.send("part", now)
	}
	return s.send("", "")
}

// sender sends Server-Sent Events at once.
type sender struct {
	w http.ResponseWriter
	c *http.ResponseController
}

// sendWithin is how long a browser may take nothing.
const sendWithin = 30 * time.Second

// send sends an event, or without a name a sign of life.
func (s *sender) send(event, data string) error {
	var b strings.Builder
	if event == "" {
		b.WriteString(": alive\n\n")
	} else {
		fmt.Fprintf(&b, "event: %s\n", event)
		for line := range strings.Lines(data) {
			fmt.Fprintf(&b, "data: %s\n", strings.TrimRight(line, "\r\n"))
		}
		b.WriteString("\n")
	}
	_ = s.c.SetWriteDeadline(time.Now().Add(sendWithin)) // where it is not possible, it is a test
	if _, err := s.w.Write([]byte(b.String())); err != nil {
		return err
	}
	return s.c.Flush()
}
