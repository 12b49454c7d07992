package initd

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

func (m *machine) serve(l *net.UnixListener) {
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				m.log.Error("the agent's socket fails", "error", err)
			}
			return
		}
		pid, err := checkPeer(conn)
		if err != nil {
			m.log.Warn("a connection to init is refused", "error", err)
			conn.Close()
			continue
		}
		t := &talk{pid: pid, over: make(chan struct{})}
		m.mu.Lock()
		m.talks[t] = true
		m.mu.Unlock()
		go func() {
			defer close(t.over)
			m.talk(conn)
			m.mu.Lock()
			defer m.mu.Unlock()
			delete(m.talks, t)
		}()
	}
}

// talk is a connection of a process; over is closed when all that came over it has been handled.
type talk struct {
	pid  int
	over chan struct{}
}

// heardOut waits until all that a process which has ended asked for is handled: what a killed agent
// wanted in its last moment must not happen after the next one has looked at the table.
func (m *machine) heardOut(pid int) {
	m.mu.Lock()
	talks := maps.Clone(m.talks)
	m.mu.Unlock()
	for t := range talks {
		if t.pid == pid {
			<-t.over
		}
	}
}

// checkPeer refuses everybody but root of this machine. It returns the other end's process.
func checkPeer(conn *net.UnixConn) (pid int, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return 0, err
	}
	if credErr != nil {
		return 0, credErr
	}
	if cred.Uid != 0 {
		return 0, fmt.Errorf("user id %d may not talk to init", cred.Uid)
	}
	return int(cred.Pid), nil
}

// talk serves one connection. Replies are never waited for, so that a peer that does not
// read holds up nobody.
func (m *machine) talk(conn *net.UnixConn) {
	out := newStream()
	go out.write(conn)
	defer func() {
		m.mu.Lock()
		delete(m.streams, out)
		m.mu.Unlock()
		out.close()
	}()
	dec := json.NewDecoder(conn)
	for {
		var r request
		if err := dec.Decode(&r); err != nil {
			return
		}
		m.handle(r, out)
	}
}

func (m *machine) handle(r request, out *stream) {
	fail := func(format string, args ...any) { out.reply(reply{ID: r.ID, Error: fmt.Sprintf(format, args...)}) }
	switch {
	case r.Op == "spawn" && r.Spec != nil:
		m.spawn(*r.Spec, func(s Status, err error) {
			if err != nil {
				fail("%v", err)
				return
			}
			out.reply(reply{ID: r.ID, Status: &s})
		})
	case r.Op == "kill" && r.Kill != nil:
		m.mu.Lock()
		a := m.attempts[r.Kill.ID]
		m.mu.Unlock()
		if a != nil {
			m.kill(a, *r.Kill)
		}
		out.reply(reply{ID: r.ID})
	case r.Op == "list":
		out.reply(reply{ID: r.ID, List: m.list()})
	case r.Op == "forget":
		m.forget(r.Forget)
		out.reply(reply{ID: r.ID})
	case r.Op == "exits":
		m.mu.Lock()
		for _, a := range m.attempts {
			if a.state == Ended {
				out.push(a.snapshot())
			}
		}
		m.streams[out] = true
		m.mu.Unlock()
	case r.Op == "open" && r.Open != nil:
		go func() { // it writes files
			s, err := m.openSession(*r.Open)
			if err != nil {
				fail("%v", err)
				return
			}
			out.reply(reply{ID: r.ID, Session: &s})
		}()
	case r.Op == "close" && r.Close != nil:
		over := m.closeSession(*r.Close)
		go func() {
			select {
			case <-over:
				out.reply(reply{ID: r.ID})
			case <-m.ended:
			}
		}()
	case r.Op == "sessions":
		out.reply(reply{ID: r.ID, Sessions: m.listSessions()})
	case r.Op == "service" && r.Service != nil:
		if err := m.serviceWanted(*r.Service); err != nil {
			fail("%v", err)
			return
		}
		out.reply(reply{ID: r.ID})
	case r.Op == "services":
		out.reply(reply{ID: r.ID, Services: m.listServices()})
	case r.Op == "apps" && r.Apps != nil:
		if err := m.wantApps(*r.Apps); err != nil {
			fail("%v", err)
			return
		}
		out.reply(reply{ID: r.ID})
	case r.Op == "app-list":
		go func() {
			list, version := m.awaitApps(r.Seen, r.Wait)
			out.reply(reply{ID: r.ID, Apps: list, Version: version})
		}()
	case r.Op == "app-end" && r.AppEnd != nil:
		m.endAppRun(*r.AppEnd)
		out.reply(reply{ID: r.ID})
	case r.Op == "app-forget":
		m.forgetApps(r.Forget)
		out.reply(reply{ID: r.ID})
	default:
		fail("init does not know the request %q", r.Op)
	}
}

// spawn has done called with the attempt's status once it runs or has ended. It does nothing
// new for an attempt that is in the table.
func (m *machine) spawn(s Spec, done func(Status, error)) {
	m.mu.Lock()
	a, known := m.attempts[s.ID]
	if !known && m.stopping {
		m.mu.Unlock()
		done(Status{}, errors.New("the machine is shutting down"))
		return
	}
	if !known {
		a = &attempt{spec: s, state: Starting, launched: make(chan struct{}), mainGone: make(chan struct{}), over: make(chan struct{})}
		m.attempts[s.ID] = a
		if wait := m.tenants.come(s.UID); wait == nil {
			m.queue.push(a)
		} else {
			go func() { <-wait; m.queue.push(a) }()
		}
	}
	m.mu.Unlock()
	go func() {
		select {
		case <-a.launched:
		case <-m.ended:
			return
		}
		m.mu.Lock()
		status := a.snapshot()
		m.mu.Unlock()
		done(status, nil)
	}()
}

func (m *machine) list() []Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := make([]Status, 0, len(m.attempts))
	for _, a := range m.attempts {
		list = append(list, a.snapshot())
	}
	slices.SortFunc(list, func(a, b Status) int { return int(a.ID - b.ID) })
	return list
}

// forget drops what has ended; what lives stays, whatever is asked.
func (m *machine) forget(ids []int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, id := range ids {
		if a := m.attempts[id]; a != nil && a.state == Ended {
			delete(m.attempts, id)
		}
	}
}

// stream queues what goes out on one connection.
type stream struct {
	mu     sync.Mutex
	queue  []reply
	closed bool
	ready  chan struct{}
}

func newStream() *stream { return &stream{ready: make(chan struct{}, 1)} }

func (s *stream) push(st Status) { s.reply(reply{Status: &st}) }

func (s *stream) reply(r reply) {
	s.mu.Lock()
	s.queue = append(s.queue, r)
	s.mu.Unlock()
	s.wake()
}

func (s *stream) wake() {
	select {
	case s.ready <- struct{}{}:
	default:
	}
}

func (s *stream) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.wake()
}

// write sends until the stream is closed or the peer is gone, and closes conn.
func (s *stream) write(conn net.Conn) {
	defer conn.Close()
	var buf []byte
	for range s.ready {
		s.mu.Lock()
		queue, closed := s.queue, s.closed
		s.queue = nil
		s.mu.Unlock()
		buf = buf[:0]
		for _, r := range queue {
			line, err := json.Marshal(r)
			if err != nil {
				line, _ = json.Marshal(reply{ID: r.ID, Error: err.Error()})
			}
			buf = append(append(buf, line...), '\n')
		}
		if _, err := conn.Write(buf); err != nil || closed {
			return
		}
	}
}
