package host

import (
	"net/netip"

	"github.com/dspool/dspool/internal/agent/sockets"
)

// listener is a TCP socket of this network namespace that takes connections.
type listener struct {
	addr netip.Addr
	uid  int
}

// listeners reads the kernel's tables: who listens, by port.
func listeners() (map[int][]listener, error) {
	all, err := sockets.List()
	if err != nil {
		return nil, err
	}
	return groupByPort(all), nil
}

func groupByPort(all []sockets.Socket) map[int][]listener {
	list := map[int][]listener{}
	for _, s := range all {
		if port := int(s.Local.Port()); s.Listens {
			list[port] = append(list[port], listener{s.Local.Addr(), s.UID})
		}
	}
	return list
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
