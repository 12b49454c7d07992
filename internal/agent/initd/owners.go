package initd

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/dspool/dspool/internal/agent/sockets"
)

// Whoever sends users' secrets to a port of the machine asks here first whose process has taken the
// connection: between the end of an app and the server's word on it, another user of the machine may
// listen there. The answer is the kernel's, and init's for as long as the machine lives. The protocol is
// the Identification Protocol (RFC 1413), on a port that no user can have.

const (
	ownerPatience = 2 * time.Second // for a question
	mostAskers    = 64              // at once
	mostQuestion  = 64              // bytes
)

// ownersAt opens the place for questions; nil where none is wanted.
func (m *machine) ownersAt() (net.Listener, error) {
	if m.cfg.Owners == "" {
		return nil, nil
	}
	l, err := net.Listen("tcp4", m.cfg.Owners)
	if err != nil {
		return nil, fmt.Errorf("listen for questions whose connections are: %w", err)
	}
	return l, nil
}

func (m *machine) serveOwners(l net.Listener) {
	places := make(chan struct{}, mostAskers)
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(100 * time.Millisecond) // no more files, most likely
			continue
		}
		local, remote := addrOf(c.LocalAddr()), addrOf(c.RemoteAddr())
		if remote.Addr().IsLoopback() || remote.Addr() == local.Addr() {
			c.Close() // the machine's own people have no questions, and take no places
			continue
		}
		places <- struct{}{} // the rest waits in the socket's queue: an answer takes less than a millisecond
		go func() {
			defer func() { <-places }()
			answerOwner(c, sockets.List)
		}()
	}
}

// answerOwner answers one question.
func answerOwner(c net.Conn, list func() ([]sockets.Socket, error)) {
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(ownerPatience))
	line, err := bufio.NewReaderSize(c, mostQuestion).ReadSlice('\n')
	if err != nil {
		return
	}
	here, there, ok := ports(string(line))
	if !ok {
		fmt.Fprint(c, "0 , 0 : ERROR : INVALID-PORT\r\n")
		return
	}
	local := netip.AddrPortFrom(addrOf(c.LocalAddr()).Addr(), here)
	remote := netip.AddrPortFrom(addrOf(c.RemoteAddr()).Addr(), there)
	uid, ok := ownerOf(local, remote, list)
	if !ok {
		fmt.Fprintf(c, "%d , %d : ERROR : NO-USER\r\n", here, there)
		return
	}
	fmt.Fprintf(c, "%d , %d : USERID : OTHER : %d\r\n", here, there, uid)
}

// ports reads "PORT , PORT".
func ports(line string) (here, there uint16, ok bool) {
	a, b, found := strings.Cut(strings.TrimSpace(line), ",")
	x, err1 := strconv.ParseUint(strings.TrimSpace(a), 10, 16)
	y, err2 := strconv.ParseUint(strings.TrimSpace(b), 10, 16)
	return uint16(x), uint16(y), found && err1 == nil && err2 == nil && x > 0 && y > 0
}

// ownerOf says whose the local end of a connection is. Until a process has taken it, kernels show it as
// root's: then it is of whoever listens, as long as it is still there afterwards, because with its
// listener it would be gone.
func ownerOf(local, remote netip.AddrPort, list func() ([]sockets.Socket, error)) (uid int, ok bool) {
	find := func() (uid int, waits bool, listeners map[int]bool) {
		all, err := list()
		if err != nil {
			return 0, false, nil
		}
		uid, listeners = -1, map[int]bool{}
		for _, s := range all {
			switch {
			case s.Listens && s.Local.Port() == local.Port() && (s.Local.Addr().IsUnspecified() || s.Local.Addr() == local.Addr()):
				listeners[s.UID] = true
			case !s.Listens && s.Local == local && s.Remote == remote:
				uid = s.UID
			}
		}
		return uid, uid == 0, listeners
	}
	uid, waits, listeners := find()
	if uid < 0 || !waits {
		return uid, uid > 0
	}
	if len(listeners) != 1 {
		return 0, false
	}
	for u := range listeners {
		uid = u
	}
	again, _, _ := find()
	return uid, uid > 0 && (again == 0 || again == uid)
}

func addrOf(a net.Addr) netip.AddrPort {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	p := t.AddrPort()
	return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
}
