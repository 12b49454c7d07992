package gateway

import (
	"net"
	"net/netip"
	"sync"
)

// stage is how far somebody who has not logged in has come; whoever has come further costs an
// attacker more, and is dropped later.
type stage int

const (
	silent     stage = iota // has not begun a key exchange
	exchanging              // keys are being exchanged
	known                   // has named a user and a key that belong together
)

// slots bound the connections that have not logged in. When they are full, room is made by closing
// the one that has come least far, and of these the oldest, rather than by refusing the newest:
// a real login is over in moments, a half-open one is not.
type slots struct {
	Limits
	mu       sync.Mutex
	all      map[*slot]struct{}
	bySource map[netip.Prefix]sourceUse
	sequence uint64
}

type sourceUse struct{ all, silent int }

type slot struct {
	slots  *slots
	conn   net.Conn
	source netip.Prefix
	number uint64
	stage  stage
	gone   bool
}

func newSlots(l Limits) *slots {
	return &slots{Limits: l, all: map[*slot]struct{}{}, bySource: map[netip.Prefix]sourceUse{}}
}

// source is what counts as one place: an IPv4 address, an IPv6 /64.
func source(addr net.Addr) netip.Prefix {
	a, err := netip.ParseAddrPort(addr.String())
	if err != nil {
		return netip.Prefix{}
	}
	ip, bits := a.Addr().Unmap().WithZone(""), 32
	if ip.Is6() {
		bits = 64
	}
	p, _ := ip.Prefix(bits)
	return p
}

// enter takes a slot for c, and makes room where there is none.
func (s *slots) enter(c net.Conn) *slot {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sequence++
	sl := &slot{slots: s, conn: c, source: source(c.RemoteAddr()), number: s.sequence}
	use := s.bySource[sl.source]
	if use.silent >= s.Silent || use.all >= s.PerSource {
		s.drop(s.victim(func(o *slot) bool { return o.source == sl.source }))
	}
	if len(s.all) >= s.Handshakes {
		s.drop(s.victim(func(*slot) bool { return true }))
	}
	s.all[sl] = struct{}{}
	s.count(sl, 1)
	return sl
}

func (s *slots) victim(among func(*slot) bool) *slot {
	var worst *slot
	for o := range s.all {
		if among(o) && (worst == nil || o.stage < worst.stage || o.stage == worst.stage && o.number < worst.number) {
			worst = o
		}
	}
	return worst
}

func (s *slots) drop(sl *slot) {
	if sl != nil {
		s.forget(sl)
		sl.conn.Close()
	}
}

func (s *slots) forget(sl *slot) {
	if !sl.gone {
		sl.gone = true
		delete(s.all, sl)
		s.count(sl, -1)
	}
}

func (s *slots) count(sl *slot, n int) {
	use := s.bySource[sl.source]
	use.all += n
	if sl.stage == silent {
		use.silent += n
	}
	if use.all == 0 {
		delete(s.bySource, sl.source)
		return
	}
	s.bySource[sl.source] = use
}

// reach records progress.
func (sl *slot) reach(to stage) {
	sl.slots.mu.Lock()
	defer sl.slots.mu.Unlock()
	if !sl.gone && to > sl.stage {
		sl.slots.count(sl, -1)
		sl.stage = to
		sl.slots.count(sl, 1)
	}
}

// leave gives the slot back.
func (sl *slot) leave() {
	sl.slots.mu.Lock()
	defer sl.slots.mu.Unlock()
	sl.slots.forget(sl)
}
