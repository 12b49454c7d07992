package hostnet

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strings"
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
	AgentPort    int          // the only TCP port of the host that machines reach, besides DNS
}

const resolvConf = "/etc/resolv.conf"

// Net is the network of one installation on this host. It is safe for concurrent use.
type Net struct {
	wire    wire
	state   state
	port    uint16
	plugs   keyedMutex // by machine: its veth and what is told of it
	nft     *nftables.Conn
	dns     *dnsServer
	watcher *watcher

	mu       sync.RWMutex // guards the rest and nft
	machines map[string]record
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
	case o.StateDir == "":
		return nil, dspool.Errorf(dspool.Invalid, "the network has no state directory")
	}
	if o.Subnet.IsValid() {
		if err := checkSubnet(o.Subnet); err != nil {
			return nil, err
		}
	}
	n := &Net{port: uint16(o.AgentPort), machines: map[string]record{}, byAddr: map[netip.Addr]string{}, pairs: map[pair]bool{}}
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
	if n.nft, err = openNFT(); err != nil {
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
	if n.watcher, err = watch(n); err != nil {
		return nil, err
	}
	// Only now: what could be forwarded meets the rules.
	if err := enableForwarding(); err != nil {
		return nil, err
	}
	n.dns.serve()
	return n, nil
}

func openNFT() (*nftables.Conn, error) {
	const buffer = 4 << 20 // a gang's pairs and their acknowledgements at once
	c, err := nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(c *mdlayher.Conn) error {
		return errors.Join(c.SetWriteBuffer(buffer), c.SetReadBuffer(buffer))
	}))
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	return c, nil
}

func enableForwarding() error {
	b, err := os.ReadFile("/proc/sys/net/ipv4/ip_forward")
	if err == nil && strings.TrimSpace(string(b)) == "1" {
		return nil
	}
	return sysctl("net/ipv4/ip_forward", "1")
}

// settle finds the subnet and makes the bridge, under the host's lock.
func (n *Net) settle(ctx context.Context, want netip.Prefix) error {
	unlock, err := lockHost(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	old, err := n.state.readSubnet()
	if err != nil {
		return err
	}
	if !old.IsValid() || checkSubnet(old) != nil {
		old, _ = bridgeSubnet(n.wire.h, n.wire.installation)
	}
	n.wire.subnet = old
	kept, err := n.kept(old)
	if err != nil {
		return err
	}
	taken, err := inUse(n.wire.h, n.wire.installation, old, resolvConf)
	if err != nil {
		return err
	}
	subnet := want
	if !subnet.IsValid() && old.IsValid() && (kept > 0 || overlap(old, taken) == nil) {
		subnet = old
	}
	if subnet != old && kept > 0 {
		return dspool.Errorf(dspool.Conflict, "the subnet cannot become %s while %d machines have addresses in %s", want, kept, old).
			WithHint("remove the machines first, or keep the subnet")
	}
	if !subnet.IsValid() {
		if subnet, err = choose(n.wire.installation, taken); err != nil {
			return err
		}
	}
	if u := overlap(subnet, taken); u != nil {
		return dspool.Errorf(dspool.Conflict, "subnet %s of the machines overlaps %s of %s", subnet, u.prefix, u.by).
			WithHint("set another subnet for the network of machines")
	}
	if old.IsValid() && subnet != old {
		if err := n.wire.h.RouteDel(n.wire.unreachable()); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("remove route for %s: %w", old, err)
		}
	}
	n.wire.subnet, n.wire.gateway = subnet, addrAt(subnet, 1)
	if err := n.wire.bridge(); err != nil {
		return err
	}
	return n.state.writeSubnet(subnet)
}

// kept counts the addresses in the old subnet that machines may hold.
func (n *Net) kept(old netip.Prefix) (int, error) {
	if !old.IsValid() {
		return 0, nil
	}
	machines, err := n.state.readMachines(old)
	if err != nil {
		return 0, err
	}
	left, err := n.wire.left()
	return max(len(machines), len(left)), err
}

// recall reads what is remembered and adopts veths of which nothing is.
func (n *Net) recall() error {
	machines, err := n.state.readMachines(n.wire.subnet)
	if err != nil {
		return err
	}
	for name, r := range machines {
		if other, ok := n.byAddr[r.Address]; ok {
			return fmt.Errorf("read network state: machines %s and %s both have %s", name, other, r.Address)
		}
		n.machines[name], n.byAddr[r.Address] = r, name
	}
	left, err := n.wire.left()
	if err != nil {
		return err
	}
	for offset, name := range left {
		addr := addrAt(n.wire.subnet, offset)
		if _, known := n.byAddr[addr]; known {
			continue
		}
		if _, known := n.machines[name]; known || name == "" || !n.usable(offset) {
			if err := n.wire.unplug(addr); err != nil {
				return err
			}
			continue
		}
		n.machines[name], n.byAddr[addr] = record{Address: addr}, name
		if err := n.state.writeMachine(name, n.machines[name]); err != nil {
			return err
		}
	}
	pairs, err := n.state.readPairs()
	if err != nil {
		return err
	}
	for _, p := range pairs {
		if _, ok := n.machines[p.a]; ok {
			if _, ok := n.machines[p.b]; ok {
				n.pairs[p] = true
				continue
			}
		}
		if err := n.state.removePair(p); err != nil {
			return fmt.Errorf("forget pair: %w", err)
		}
	}
	// Addresses are given in turn, so that one is not another machine's soon;
	// a random start keeps that true across restarts without a record.
	n.next = rand.IntN(size(n.wire.subnet))
	return nil
}

// rules is the table as it must be now; n.mu is held or n not yet shared.
func (n *Net) rules() *rules {
	r := &rules{installation: n.wire.installation, subnet: n.wire.subnet, gateway: n.wire.gateway, agentPort: n.port}
	for _, m := range n.machines {
		r.members = append(r.members, n.member(m))
	}
	for p := range n.pairs {
		r.pairs = append(r.pairs, [2]netip.Addr{n.machines[p.a].Address, n.machines[p.b].Address})
	}
	return r
}

func (n *Net) member(r record) member {
	return member{veth: vethName(n.wire.installation, offsetOf(n.wire.subnet, r.Address)), address: r.Address, internet: r.Internet}
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
	if n.watcher != nil {
		n.watcher.stop()
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
	c, err := openNFT()
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
