package webdoor

import (
	"sync/atomic"
	"time"
)

// Meter counts what passes between people and one route. Its zero value is ready.
type Meter struct {
	active     atomic.Int64 // Unix time in milliseconds
	sent       atomic.Int64
	received   atomic.Int64
	webSockets atomic.Int64
}

// LastActivity is when something last passed, or when the route was made.
func (m *Meter) LastActivity() time.Time { return time.UnixMilli(m.active.Load()).UTC() }

// Sent is how many bytes of bodies and WebSockets have gone to people.
func (m *Meter) Sent() int64 { return m.sent.Load() }

// Received is how many bytes of bodies and WebSockets have come from people.
func (m *Meter) Received() int64 { return m.received.Load() }

// WebSockets is how many are open.
func (m *Meter) WebSockets() int64 { return m.webSockets.Load() }

// Note records activity now, also where a clock that was wrong has recorded some later.
func (m *Meter) Note() { m.active.Store(time.Now().UnixMilli()) }

// NoteAt records activity at a time, unless there was some later.
func (m *Meter) NoteAt(when time.Time) {
	now := when.UnixMilli()
	for {
		old := m.active.Load()
		if old >= now || m.active.CompareAndSwap(old, now) {
			return
		}
	}
}
