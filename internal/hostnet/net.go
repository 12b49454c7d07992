package hostnet

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"sync"

	"github.com/google/nftables"
	mdlayher "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/dspool/dspool"
)

// Options of Open.
type Options struct {
	Installation string       // the installation's id, 8 lower-case hex digits
	StateDir     string       // folder for what outlives the server; made when missing
	Subnet       netip.Prefix // of machines, IPv4, /16 to /28; zero: choose and remember
	AgentPort    int          // the server's, on the gateway address
	DoorPort     int          // where the gateway serves machines, likewise; 0: nowhere, and its names do not exist
}

const resolvConf = "/etc/resolv.conf"

// Net is the network of one installation on this host. It is safe for concurrent use.
type Net struct {
	wire    wire
	state   state
	ports   []uint16   // TCP ports of the gateway address that machines reach, besides DNS
	doors   bool       // names of the machine door exist
	plugs   keyedMutex // by machine: its veth and what is told of it
	nft     *nftables.Conn
	nftPort uint32 // of its socket
	dns     *dnsServer
	keeper  keeper

	mu       sync.RWMutex // guards the rest and nft
	machines map[string]record
	plugged  map[string]*plugged
	byAddr   map[netip.Addr]string
	pairs    map[pair]bool
	next     int // offset at which the search for a free address begins

	life   sync.RWMutex // held for reading by what uses the kernel's sockets
	closed bool
}

// Open makes or adopts the installation's bridge, nft table and DNS forwarder.
// Machines that an earlier server plugged keep their connections.
func Open(ctx context.Context, o Options) (_ *Net, err error) {
	switch {
	case !installationPattern.MatchString(o.Installation):
		return nil, dspool.Errorf(dspool.Invalid, "installation %s is not 8 hex digits", dspool.Quote(o.Installation))
	case o.AgentPort < 0 || o.AgentPort > 65535:
		return nil, dspool.Errorf(dspool.Invalid, "agent port %d is not a port", o.AgentPort).WithHint("from 1 to 65535")
	case o.DoorPort < 0 || o.DoorPort > 65535 || o.DoorPort != 0 && o.DoorPort == o.AgentPort:
		return nil, dspool.Errorf(dspool.Invalid, "door port %d is not a port, or the agents'", o.DoorPort).WithHint("from 1 to 65535; 0 is none")
	case o.StateDir == "":
		return nil, dspool.Errorf(dspool.Invalid, "the network has no state directory")
	}
	if o.Subnet.IsValid() {
		if err := checkSubnet(o.Subnet); err != nil {
			return nil, err
		}
	}
	n := &Net{doors: o.DoorPort != 0, keeper: newKeeper(), machines: map[string]record{}, plugged: map[string]*plugged{}, byAddr: map[netip.Addr]string{}, pairs: map[pair]bool{}}
	for _, port := range []int{o.AgentPort, o.DoorPort} {
		if port != 0 {
			n.ports = append(n.ports, uint16(port))
		}
	}
	if n.state, err = openState(o.StateDir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.release())
			if errors.Is(err, os.ErrPermission) {
				err = dspool.Errorf(dspool.Forbidden, "open the network of machines: %w", err).WithHint("run the server as root")
			}
		}
	}()
	n.wire.installation = o.Installation
	if n.wire.h, err = netlink.NewHandle(unix.NETLINK_ROUTE, unix.NETLINK_NETFILTER); err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	if n.nft, n.nftPort, err = openNFT(); err != nil {
		return nil, err
	}
	if err := n.settle(ctx, o.Subnet); err != nil {
		return nil, err
	}
	// Bound before anything is changed further: a second server of the same
	// installation ends here.
	if n.dns, err = listenDNS(n.wire.gateway, resolvConf, n); err != nil {
		return nil, err
	}
	if err := n.recall(); err != nil {
		return nil, err
	}
	if err := n.rules().replace(n.nft); err != nil {
		return nil, err
	}
	// Only now: what could be forwarded meets the rules.
	if err := enableForwarding(); err != nil {
		return nil, err
	}
	if err := n.keep(); err != nil {
		return nil, err
	}
	n.mend(false) // what was taken while no server ran
	n.dns.serve()
	return n, nil
}

// openNFT also returns the number of the connection's socket, by which the kernel names who changed something.
func openNFT() (c *nftables.Conn, port uint32, err error) {
	const buffer = 4 << 20 // a gang's pairs and their acknowledgements at once
	c, err = nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(c *mdlayher.Conn) error {
		raw, err := c.SyscallConn()
		if err != nil {
			return err
		}
		var address unix.Sockaddr
		failed := raw.Control(func(fd uintptr) { address, err = unix.Getsockname(int(fd)) })
		if own, ok := address.(*unix.SockaddrNetlink); ok {
			port = own.Pid
		}
		return errors.Join(failed, err, c.SetWriteBuffer(buffer), c.SetReadBuffer(buffer))
	}))
	if err != nil {
		return nil, 0, fmt.Errorf("open nftables: %w", err)
	}
	return c, port, nil
}

// rules is the table as it must be now; n.mu is held or n not yet shared.
func (n *Net) rules() *rules {
	r := &rules{installation: n.wire.installation, subnet: n.wire.subnet, gateway: n.wire.gateway, ports: n.ports}
	for _, m := range n.machines {
		r.members = append(r.members, n.member(m))
	}
	for p := range n.pairs {
		r.pairs = append(r.pairs, [2]netip.Addr{n.machines[p.a].Address, n.machines[p.b].Address})
	}
	return r
}

func (n *Net) member(r record) member {
	return member{veth: vethName(n.wire.installation, offsetOf(n.wire.subnet, r.Address)), address: r.Address, internet: r.Internet, public: r.PublicOnly}
}

// Gateway is the host's address as machines see it.
func (n *Net) Gateway() netip.Addr { return n.wire.gateway }

// Nameserver is where machines ask for names (port 53).
func (n *Net) Nameserver() netip.Addr { return n.wire.gateway }

// Address returns the machine's address, from its first Plug until its Unplug.
func (n *Net) Address(machine string) (netip.Addr, bool) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	r, ok := n.machines[machine]
	return r.Address, ok
}

// Machines lists those that are plugged or have an address kept, sorted.
func (n *Net) Machines() []string {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return slices.Sorted(maps.Keys(n.machines))
}

// Close stops the DNS forwarder and leaves everything else for the next server.
func (n *Net) Close() error {
	n.life.Lock()
	if n.closed {
		n.life.Unlock()
		return nil
	}
	n.closed = true
	n.life.Unlock()
	return n.release()
}

// enter keeps Close waiting until the returned function is called.
func (n *Net) enter() (leave func(), err error) {
	n.life.RLock()
	if n.closed {
		n.life.RUnlock()
		return nil, dspool.Errorf(dspool.Unavailable, "the network of machines is closed")
	}
	return n.life.RUnlock, nil
}

func (n *Net) release() error {
	var errs []error
	n.keeper.stop()
	for machine := range maps.Clone(n.plugged) {
		n.stand(machine, nil)
	}
	if n.dns != nil {
		errs = append(errs, n.dns.close())
	}
	if n.nft != nil {
		errs = append(errs, n.nft.CloseLasting())
	}
	if n.wire.h != nil {
		n.wire.h.Close()
	}
	return errors.Join(errs...)
}

// Remove takes everything of this installation from the host and forgets it. It
// closes n. net.ipv4.ip_forward stays on: others may rely on it by now.
func (n *Net) Remove() error {
	if err := n.Close(); err != nil {
		return err
	}
	var err error
	w := n.wire
	if w.h, err = netlink.NewHandle(unix.NETLINK_ROUTE, unix.NETLINK_NETFILTER); err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	defer w.h.Close()
	var errs []error
	left, err := w.left()
	errs = append(errs, err)
	for offset := range left {
		errs = append(errs, w.unplug(addrAt(w.subnet, offset)))
	}
	l, err := w.h.LinkByName(bridgeName(w.installation))
	if err == nil {
		err = w.h.LinkDel(l)
	}
	if err != nil && !isMissing(err) {
		errs = append(errs, fmt.Errorf("remove bridge: %w", err))
	}
	if err := w.h.RouteDel(w.unreachable()); err != nil && !errors.Is(err, unix.ESRCH) {
		errs = append(errs, fmt.Errorf("remove route for %s: %w", w.subnet, err))
	}
	c, _, err := openNFT()
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	t := n.rules().table()
	c.AddTable(t) // so that the deletion cannot fail
	c.DelTable(t)
	if err := c.Flush(); err != nil {
		errs = append(errs, fmt.Errorf("remove nft table: %w", err))
	}
	errs = append(errs, c.CloseLasting())
	w.forgetConnections(w.subnet)
	errs = append(errs, n.state.remove())
	return errors.Join(errs...)
}

// keyedMutex is a mutex per key that exists only while somebody wants it.
type keyedMutex struct {
	mu    sync.Mutex
	locks map[string]*countedMutex
}

type countedMutex struct {
	sync.Mutex
	users int
}

func (k *keyedMutex) lock(key string) (unlock func()) {
	k.mu.Lock()
	if k.locks == nil {
		k.locks = map[string]*countedMutex{}
	}
	l := k.locks[key]
	if l == nil {
		l = &countedMutex{}
		k.locks[key] = l
	}
	l.users++
	k.mu.Unlock()
	l.Lock()
	return func() {
		l.Unlock()
		k.mu.Lock()
		defer k.mu.Unlock()
		if l.users--; l.users == 0 {
			delete(k.locks, key)
		}
	}
}
