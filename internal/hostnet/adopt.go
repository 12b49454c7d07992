package hostnet

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/dspool/dspool"
)

// enableForwarding switches the host's routing on, as every manager of bridges with
// NAT does. Our rules refuse what would come to machines that way; the rest of the
// host's networks are the host's own firewall's matter.
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
	if err := n.wire.reclaim(); err != nil {
		return err
	}
	taken, err := inUse(n.wire.h, n.wire.installation, old, resolvConf)
	if err != nil {
		return err
	}
	if kept > 0 { // routes of ours that somebody led elsewhere are no network of the host
		taken = slices.DeleteFunc(taken, func(u used) bool {
			return u.route && (u.prefix == old || u.prefix.IsSingleIP() && old.Contains(u.prefix.Addr()))
		})
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
		n.machines[name], n.byAddr[r.Address], n.plugged[name] = r, name, &plugged{}
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
		n.machines[name], n.byAddr[addr], n.plugged[name] = record{Address: addr}, name, &plugged{}
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
