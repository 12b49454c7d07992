package hostnet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/provider"
)

// Plug joins the network namespace of process pid to the host as the machine's
// eth0 and returns the machine's address. It is idempotent: a second call completes
// or repairs what the first did, and moves the machine to another namespace when
// pid has another. A later call may change which other networks the machine reaches.
func (n *Net) Plug(ctx context.Context, machine string, pid int, reach provider.Reach) (netip.Addr, error) {
	if err := checkMachine(machine); err != nil {
		return netip.Addr{}, err
	}
	if err := ctx.Err(); err != nil {
		return netip.Addr{}, fmt.Errorf("plug machine %s: %w", machine, err)
	}
	leave, err := n.enter()
	if err != nil {
		return netip.Addr{}, fmt.Errorf("plug machine %s: %w", machine, err)
	}
	defer leave()
	defer n.plugs.lock(machine)()
	ns, err := openNamespace(machine, pid)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("plug machine %s: %w", machine, err)
	}
	n.stand(machine, nil)
	r, err := n.admit(machine, reach, n.wire.uplinkMTU())
	if err == nil {
		err = n.wire.plug(machine, r, ns)
	}
	if err != nil {
		ns.Close()
		return netip.Addr{}, fmt.Errorf("plug machine %s: %w", machine, err)
	}
	n.stand(machine, &plugged{ns})
	return r.Address, nil
}

// admit gives the machine its address and tells the rules.
func (n *Net) admit(machine string, reach provider.Reach, mtu int) (record, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	old, known := n.machines[machine]
	r := record{Address: old.Address, Internet: reach != provider.Nowhere, PublicOnly: reach == provider.Public, MTU: cmp.Or(old.MTU, mtu)}
	if known && old == r {
		return r, nil
	}
	if !known {
		var err error
		if r.Address, err = n.freeAddress(); err != nil {
			return r, err
		}
	}
	if err := n.state.writeMachine(machine, r); err != nil {
		return r, err
	}
	n.machines[machine], n.byAddr[r.Address] = r, machine
	err := n.change(func(c *nftables.Conn, s sets) error {
		m := n.member(r)
		var errs []error
		if !known {
			errs = append(errs, c.SetAddElements(s.bound, []nftables.SetElement{m.boundKey()}))
		}
		return errors.Join(append(errs, m.move(c, s.internet, old.Internet, r.Internet), m.move(c, s.public, old.PublicOnly, r.PublicOnly))...)
	})
	if err != nil {
		if known && (!r.Internet || r.PublicOnly) {
			n.machines[machine] = old
			return r, errors.Join(err, n.state.writeMachine(machine, old))
		}
		delete(n.machines, machine)
		delete(n.byAddr, r.Address)
		return r, errors.Join(err, n.state.removeMachine(machine))
	}
	if known && (!r.Internet || r.PublicOnly) {
		n.wire.forgetConnections(netip.PrefixFrom(r.Address, 32))
	}
	return r, nil
}

// usable leaves out the network, gateway and broadcast addresses.
func (n *Net) usable(offset int) bool { return offset >= 2 && offset < size(n.wire.subnet)-1 }

func (n *Net) freeAddress() (netip.Addr, error) {
	total := size(n.wire.subnet)
	for range total {
		offset := n.next % total
		n.next = offset + 1
		if !n.usable(offset) {
			continue
		}
		addr := addrAt(n.wire.subnet, offset)
		if _, taken := n.byAddr[addr]; !taken {
			return addr, nil
		}
	}
	return netip.Addr{}, dspool.Errorf(dspool.Unavailable, "subnet %s has no free address", n.wire.subnet).
		WithHint("remove machines, or set a larger subnet when there are none")
}

// change makes a small change to the table; when the table is not as expected
// (somebody wrote to it), it is written anew. n.mu is held, and n's maps already
// hold the new truth.
func (n *Net) change(f func(*nftables.Conn, sets) error) error {
	r := rules{installation: n.wire.installation}
	if err := f(n.nft, r.sets(r.table())); err == nil {
		if n.nft.Flush() == nil {
			return nil
		}
	}
	return n.rules().replace(n.nft)
}

// Unplug removes the machine's interface, address, pairs and connections; nil if
// it has none. When it fails, the machine stays listed and Unplug can be repeated.
func (n *Net) Unplug(ctx context.Context, machine string) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("unplug machine %s: %w", machine, err)
	}
	leave, err := n.enter()
	if err != nil {
		return fmt.Errorf("unplug machine %s: %w", machine, err)
	}
	defer leave()
	defer n.plugs.lock(machine)()
	addr, ok := n.Address(machine)
	if !ok {
		return nil
	}
	if err := n.dismiss(machine, addr); err != nil {
		return fmt.Errorf("unplug machine %s: %w", machine, err)
	}
	return nil
}

func (n *Net) dismiss(machine string, addr netip.Addr) error {
	n.stand(machine, nil)
	// The veth goes first: while the record stands, the address is nobody else's.
	if err := n.wire.unplug(addr); err != nil {
		return err
	}
	n.wire.forgetConnections(netip.PrefixFrom(addr, 32))
	n.mu.Lock()
	defer n.mu.Unlock()
	r := n.machines[machine]
	var lost [][2]netip.Addr
	for p := range n.pairs {
		if p.a != machine && p.b != machine {
			continue
		}
		if err := n.state.removePair(p); err != nil {
			return fmt.Errorf("forget pair: %w", err)
		}
		lost = append(lost, [2]netip.Addr{n.machines[p.a].Address, n.machines[p.b].Address})
		delete(n.pairs, p)
	}
	if err := n.state.removeMachine(machine); err != nil {
		return fmt.Errorf("forget address: %w", err)
	}
	delete(n.machines, machine)
	delete(n.byAddr, addr)
	return n.change(func(c *nftables.Conn, s sets) error {
		m := n.member(r)
		errs := []error{
			c.SetDeleteElements(s.bound, []nftables.SetElement{m.boundKey()}),
			m.move(c, s.internet, r.Internet, false), m.move(c, s.public, r.PublicOnly, false),
		}
		for _, p := range lost {
			errs = append(errs, c.SetDeleteElements(s.pairs, pairKeys(p[0], p[1])))
		}
		return errors.Join(errs...)
	})
}

// Allow lets machines a and b talk to each other, over any protocol, until
// Disallow or until one of them is unplugged. It is idempotent.
func (n *Net) Allow(a, b string) error { return n.setPair(a, b, true) }

// Disallow ends what Allow began, open connections too; nil if it never began.
func (n *Net) Disallow(a, b string) error { return n.setPair(a, b, false) }

func (n *Net) setPair(a, b string, allow bool) error {
	leave, err := n.enter()
	if err != nil {
		return err
	}
	defer leave()
	n.mu.Lock()
	defer n.mu.Unlock()
	p := pairOf(a, b)
	if n.pairs[p] == allow {
		return nil
	}
	if a == b {
		return dspool.Errorf(dspool.Invalid, "machine %s cannot be paired with itself", dspool.Quote(a))
	}
	for _, name := range []string{a, b} {
		if _, ok := n.machines[name]; !ok {
			return dspool.Errorf(dspool.NotFound, "machine %s has no address", dspool.Quote(name))
		}
	}
	keys := pairKeys(n.machines[a].Address, n.machines[b].Address)
	if !allow {
		delete(n.pairs, p)
		if err := n.change(func(c *nftables.Conn, s sets) error { return c.SetDeleteElements(s.pairs, keys) }); err != nil {
			n.pairs[p] = true
			return fmt.Errorf("disallow %s and %s: %w", a, b, err)
		}
		return n.state.removePair(p)
	}
	if err := n.state.writePair(p); err != nil {
		return err
	}
	n.pairs[p] = true
	if err := n.change(func(c *nftables.Conn, s sets) error { return c.SetAddElements(s.pairs, keys) }); err != nil {
		delete(n.pairs, p)
		return errors.Join(fmt.Errorf("allow %s and %s: %w", a, b, err), n.state.removePair(p))
	}
	return nil
}

// forgetConnections removes conntrack's entries of addresses in p, so that a later
// machine with such an address inherits none. It does what it can: nothing that
// stays lets a packet in that the rules refuse a new connection for long.
func (w *wire) forgetConnections(p netip.Prefix) {
	_, _ = w.h.ConntrackDeleteFilters(netlink.ConntrackTable, netlink.InetFamily(netlink.FAMILY_V4), flowsOf(p))
}

type flowsOf netip.Prefix

// MatchConntrackFlow says whether either end of the flow lies in the prefix.
func (p flowsOf) MatchConntrackFlow(f *netlink.ConntrackFlow) bool {
	for _, ip := range [][]byte{f.Forward.SrcIP, f.Forward.DstIP} {
		if a, ok := netip.AddrFromSlice(ip); ok && netip.Prefix(p).Contains(a.Unmap()) {
			return true
		}
	}
	return false
}
