package host

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

// listener is a TCP socket of this network namespace that takes connections.
type listener struct {
	addr netip.Addr
	uid  int
}

// stateListen is TCP_LISTEN in /proc/net/tcp; see include/net/tcp_states.h of Linux.
const stateListen = "0A"

// listeners reads the kernel's tables: who listens, by port.
func listeners() (map[int][]listener, error) {
	byPort := map[int][]listener{}
	for _, file := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		text, err := os.ReadFile(file)
		if errors.Is(err, os.ErrNotExist) {
			continue // a kernel without IPv6
		}
		if err != nil {
			return nil, fmt.Errorf("read sockets: %w", err)
		}
		addListeners(byPort, string(text))
	}
	return byPort, nil
}

// addListeners takes in a table with the columns of proc_pid_net(5): the third after the number is
// the state, and the seventh the user.
func addListeners(byPort map[int][]listener, table string) {
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) < 8 || f[3] != stateListen {
			continue
		}
		at, ok := parseAddress(f[1])
		uid, err := strconv.Atoi(f[7])
		if !ok || err != nil {
			continue
		}
		port := int(at.Port())
		byPort[port] = append(byPort[port], listener{at.Addr(), uid})
	}
}

// parseAddress reads an address as the kernel shows it: words of 32 bits in the order of the
// machine, which is little endian wherever dspool runs.
func parseAddress(s string) (netip.AddrPort, bool) {
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

// owner is whose a port is.
type owner int

const (
	nobody  owner = iota
	own           // the user's, for those who come over the network
	inside        // the user's, on a loopback address only
	foreign       // somebody else takes, or may take, connections to it
)

// whose judges the listeners of a port. dial is where the user's own takes connections from this machine.
func whose(list []listener, uid int) (o owner, dial netip.Addr, other int) {
	loopback := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	whole := false // nobody else can have an IPv4 address of it
	for _, l := range list {
		if l.uid != uid {
			continue
		}
		whole = whole || l.addr.Is4() && l.addr.IsUnspecified()
		switch {
		case l.addr.IsUnspecified():
			o, dial = own, loopback
		case !l.addr.IsLoopback():
			if o != own {
				o, dial = own, l.addr
			}
		case o == nobody:
			o, dial = inside, l.addr
		}
	}
	for _, l := range list {
		// Machines are reached by IPv4: what somebody listens on beside that misleads nobody.
		if l.uid != uid && !(whole && l.addr.Is6()) {
			return foreign, netip.Addr{}, l.uid
		}
	}
	return o, dial, 0
}

// listening says whether anybody listens on a port. It looks into the kernel's tables, because a
// connection that says nothing counts against the peer with sshd.
func listening(port int) bool {
	byPort, err := listeners()
	return err == nil && len(byPort[port]) > 0
}
