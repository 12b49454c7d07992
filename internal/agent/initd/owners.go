package initd

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"
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
			answerOwner(c, sockets)
		}()
	}
}

// answerOwner answers one question.
func answerOwner(c net.Conn, list func() ([]socket, error)) {
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
func ownerOf(local, remote netip.AddrPort, list func() ([]socket, error)) (uid int, ok bool) {
	find := func() (uid int, waits bool, listeners map[int]bool) {
		all, err := list()
		if err != nil {
			return 0, false, nil
		}
		uid, listeners = -1, map[int]bool{}
		for _, s := range all {
			switch {
			case s.state == listens && s.local.Port() == local.Port() && (s.local.Addr().IsUnspecified() || s.local.Addr() == local.Addr()):
				listeners[s.uid] = true
			case s.state != listens && s.local == local && s.remote == remote:
				uid = s.uid
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

// socket is a line of the kernel's tables.
type socket struct {
	local, remote netip.AddrPort
	state         string
	uid           int
}

// listens is TCP_LISTEN in /proc/net/tcp; see include/net/tcp_states.h of Linux.
const listens = "0A"

func sockets() (list []socket, err error) {
	for _, file := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		text, err := os.ReadFile(file)
		if errors.Is(err, os.ErrNotExist) {
			continue // a kernel without IPv6
		}
		if err != nil {
			return nil, fmt.Errorf("read sockets: %w", err)
		}
		list = append(list, parseSockets(string(text))...)
	}
	return list, nil
}

// parseSockets reads a table with the columns of proc_pid_net(5).
func parseSockets(table string) (list []socket) {
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) < 8 {
			continue
		}
		local, ok1 := parseAddrPort(f[1])
		remote, ok2 := parseAddrPort(f[2])
		uid, err := strconv.Atoi(f[7])
		if ok1 && ok2 && err == nil {
			list = append(list, socket{local, remote, f[3], uid})
		}
	}
	return list
}

// parseAddrPort reads an address as the kernel shows it: words of 32 bits in the order of the machine,
// which is little endian wherever dspool runs.
func parseAddrPort(s string) (netip.AddrPort, bool) {
	host, port, ok := strings.Cut(s, ":")
	raw, err := hex.DecodeString(host)
	p, err2 := strconv.ParseUint(port, 16, 16)
	if !ok || err != nil || err2 != nil || len(raw)%4 != 0 {
		return netip.AddrPort{}, false
	}
	for i := 0; i < len(raw); i += 4 {
		binary.BigEndian.PutUint32(raw[i:], binary.LittleEndian.Uint32(raw[i:]))
	}
	addr, ok := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(addr.Unmap(), uint16(p)), ok
}

func addrOf(a net.Addr) netip.AddrPort {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	p := t.AddrPort()
	return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
}
