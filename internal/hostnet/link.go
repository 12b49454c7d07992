package hostnet

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/dspool/dspool"
)

// aliasPrefix precedes the machine's name in the veth's alias, for people who look
// at `ip link` and for adoption when the state directory was lost.
const aliasPrefix = "dspool machine "

// wire is the part of the host's interfaces and routes that is ours.
type wire struct {
	h            *netlink.Handle
	installation string
	subnet       netip.Prefix
	gateway      netip.Addr
}

// bridge makes the interface with the gateway's address, or completes it.
func (w *wire) bridge() error {
	if err := w.reclaim(); err != nil {
		return err
	}
	e := w.gatewayEnd()
	l, err := w.h.LinkByName(e.name)
	if err == nil && l.Type() != "bridge" { // somebody's, under our name
		if err = w.h.LinkDel(l); err == nil {
			err = netlink.LinkNotFoundError{}
		}
	}
	if isMissing(err) {
		err = w.h.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: e.name, TxQLen: -1, HardwareAddr: e.hw}})
	}
	if err != nil {
		return fmt.Errorf("make bridge %s: %w", e.name, err)
	}
	return e.set(w.h)
}

// reclaim removes a bridge of ours that goes under another name: it has the gateway's address. One that has an
// installation's name is that installation's, which may share our hardware address.
func (w *wire) reclaim() error {
	links, err := whole(w.h.LinkList)
	if err != nil {
		return fmt.Errorf("list interfaces: %w", err)
	}
	for _, l := range links {
		ours := bytes.Equal(l.Attrs().HardwareAddr, hwAddr(w.installation, 1, true)) && !strings.HasPrefix(l.Attrs().Name, anyPrefix)
		if l.Type() == "bridge" && ours {
			if err := w.h.LinkDel(l); err != nil && !isMissing(err) {
				return fmt.Errorf("remove bridge %s, which was ours: %w", l.Attrs().Name, err)
			}
		}
	}
	return nil
}

func (w *wire) gatewayEnd() *end {
	name := bridgeName(w.installation)
	return &end{
		name: name, alias: "dspool gateway", hw: hwAddr(w.installation, 1, true),
		address: netip.PrefixFrom(w.gateway, w.subnet.Bits()), routes: []*netlink.Route{w.unreachable()},
		sysctls: map[string]string{"net/ipv6/conf/" + name + "/disable_ipv6": "1"},
	}
}

// unreachable is the route for addresses of the subnet that no machine has.
func (w *wire) unreachable() *netlink.Route {
	return &netlink.Route{Dst: ipNet(w.subnet), Type: unix.RTN_UNREACHABLE, Protocol: unix.RTPROT_STATIC}
}

// bridgeSubnet returns the subnet of a bridge that an earlier server left.
func bridgeSubnet(h *netlink.Handle, installation string) (netip.Prefix, bool) {
	l, err := h.LinkByName(bridgeName(installation))
	if err != nil {
		return netip.Prefix{}, false
	}
	addrs, err := h.AddrList(l, netlink.FAMILY_V4)
	if err != nil || len(addrs) != 1 {
		return netip.Prefix{}, false
	}
	return toPrefix(addrs[0].IPNet.IP, addrs[0].IPNet.Mask)
}

// left returns offset → machine name (empty when it cannot be read) of all veths of the installation.
func (w *wire) left() (map[int]string, error) {
	links, err := whole(w.h.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	out := map[int]string{}
	for _, l := range links {
		if offset, ok := parseVeth(w.installation, l.Attrs().Name); ok {
			name, ok := strings.CutPrefix(l.Attrs().Alias, aliasPrefix)
			if !ok || checkMachine(name) != nil {
				name = ""
			}
			out[offset] = name
		}
	}
	return out, nil
}

// plug joins a network namespace to the host. A second call completes what an earlier one left.
func (w *wire) plug(machine string, r record, ns *os.File) error {
	offset := offsetOf(w.subnet, r.Address)
	mtu := cmp.Or(r.MTU, w.uplinkMTU())
	outer, inner := w.outerEnd(machine, r), w.innerEnd(r)
	veth := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: outer.name, MTU: mtu, TxQLen: 1000, HardwareAddr: outer.hw},
		PeerName:  machineNIC, PeerHardwareAddr: inner.hw, PeerMTU: uint32(mtu), PeerTxQLen: 1000, PeerNamespace: netlink.NsFd(ns.Fd()),
	}
	err := w.h.LinkAdd(veth)
	if errors.Is(err, unix.EEXIST) {
		old, lookup := w.h.LinkByName(outer.name)
		switch {
		case isMissing(lookup): // its other end is somewhere under another name
			err = w.pullOut(ns, machine, offset)
		case lookup != nil:
			return fmt.Errorf("look up veth %s: %w", outer.name, lookup)
		case isPeer(ns, old):
			err = nil
		default: // of an earlier life of the machine
			if err = w.h.LinkDel(old); isMissing(err) {
				err = nil
			}
		}
		if err != nil {
			return fmt.Errorf("remove old veth %s: %w", outer.name, err)
		}
		veth.Index = 0
		if err = w.h.LinkAdd(veth); errors.Is(err, unix.EEXIST) {
			err = nil
		}
	}
	if err != nil {
		return fmt.Errorf("make veth %s: %w", outer.name, err)
	}
	if err := outer.set(w.h); err != nil {
		return err
	}
	err = inNamespace(ns, func(h *netlink.Handle) error {
		lo, err := h.LinkByName("lo")
		if err == nil {
			err = h.LinkSetUp(lo)
		}
		if err != nil {
			return fmt.Errorf("bring up the machine's loopback: %w", err)
		}
		if err := inner.set(h); err != nil {
			return fmt.Errorf("in the machine: %w", err)
		}
		awaitCarrier(h, machineNIC)
		return nil
	})
	if err == nil {
		awaitCarrier(w.h, outer.name)
	}
	return err
}

// awaitCarrier waits until an interface that is up sends: until the kernel has seen, in its own time, that the
// other end is up too, it drops every packet. It waits for a moment only: nothing else depends on it.
func awaitCarrier(h *netlink.Handle, name string) {
	for end := time.Now().Add(time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if l, err := h.LinkByName(name); err != nil || l.Attrs().OperState == netlink.OperUp {
			return
		}
	}
}

// pullOut removes the eth0 of a namespace if it is one that we made.
func (w *wire) pullOut(ns *os.File, machine string, offset int) error {
	return inNamespace(ns, func(h *netlink.Handle) error {
		nic, err := h.LinkByName(machineNIC)
		if err != nil {
			return err
		}
		if !bytes.Equal(nic.Attrs().HardwareAddr, hwAddr(w.installation, offset, false)) {
			return dspool.Errorf(dspool.Conflict, "the network namespace of machine %s already has an %s", machine, machineNIC)
		}
		return h.LinkDel(nic)
	})
}

// outerEnd is the host's end: no IPv6, no ARP, no address, and the one route to the machine, which names the
// gateway's address and goes with it.
func (w *wire) outerEnd(machine string, r record) *end {
	offset := offsetOf(w.subnet, r.Address)
	name := vethName(w.installation, offset)
	return &end{
		name: name, alias: aliasPrefix + machine, hw: hwAddr(w.installation, offset, true), mtu: r.MTU, noARP: true,
		neighbour: neighbour(r.Address, hwAddr(w.installation, offset, false)),
		routes:    []*netlink.Route{{Dst: hostNet(r.Address), Scope: netlink.SCOPE_LINK, Src: w.gateway.AsSlice(), Protocol: unix.RTPROT_STATIC}},
		sysctls: map[string]string{
			"net/ipv6/conf/" + name + "/disable_ipv6": "1",
			"net/ipv4/conf/" + name + "/forwarding":   "1", // whatever the host's default for new interfaces is
		},
	}
}

// innerEnd is the machine's end. The address has the subnet's length, for programs that compare networks,
// but no route of that length: all goes through the gateway.
func (w *wire) innerEnd(r record) *end {
	offset := offsetOf(w.subnet, r.Address)
	all := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	return &end{
		name: machineNIC, hw: hwAddr(w.installation, offset, false), mtu: r.MTU,
		address:   netip.PrefixFrom(r.Address, w.subnet.Bits()),
		neighbour: neighbour(w.gateway, hwAddr(w.installation, offset, true)),
		routes: []*netlink.Route{
			{Dst: hostNet(w.gateway), Scope: netlink.SCOPE_LINK},
			{Dst: ipNet(all), Gw: w.gateway.AsSlice()},
		},
		sysctls: map[string]string{"net/ipv6/conf/" + machineNIC + "/disable_ipv6": "1"},
	}
}

// innerFaults names what is wrong within a machine.
func (w *wire) innerFaults(r record, ns *os.File, outer netlink.Link) (names []string, err error) {
	err = inNamespace(ns, func(h *netlink.Handle) error {
		v, err := look(h)
		if err != nil {
			return err
		}
		names = w.innerEnd(r).faults(h, v)
		if nic := v.links[machineNIC]; nic != nil && nic.Attrs().ParentIndex != outer.Attrs().Index {
			names = append(names, "other end")
		}
		if lo := v.links["lo"]; lo == nil || lo.Attrs().Flags&net.FlagUp == 0 {
			names = append(names, "loopback")
		}
		return nil
	})
	return names, err
}

// unplug removes the machine's veth, and with it its route and its other end.
func (w *wire) unplug(addr netip.Addr) error {
	name := vethName(w.installation, offsetOf(w.subnet, addr))
	l, err := w.h.LinkByName(name)
	if isMissing(err) {
		return nil
	}
	if err == nil {
		err = w.h.LinkDel(l)
	}
	if err != nil && !isMissing(err) {
		return fmt.Errorf("remove veth %s: %w", name, err)
	}
	return nil
}

// elsewhere is a documentation address: the way to it is the default route.
var elsewhere = netip.MustParseAddr("203.0.113.1")

// uplinkMTU is that of the default route, 1500 without one.
func (w *wire) uplinkMTU() int {
	const fallback, least = 1500, 576
	routes, err := w.h.RouteGet(elsewhere.AsSlice())
	if err != nil || len(routes) == 0 {
		return fallback
	}
	if routes[0].MTU >= least {
		return routes[0].MTU
	}
	if l, err := w.h.LinkByIndex(routes[0].LinkIndex); err == nil && l.Attrs().MTU >= least {
		return l.Attrs().MTU
	}
	return fallback
}

func neighbour(a netip.Addr, hw []byte) *netlink.Neigh {
	return &netlink.Neigh{Family: unix.AF_INET, State: netlink.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: hw}
}

func isMissing(err error) bool {
	var notFound netlink.LinkNotFoundError
	return errors.As(err, &notFound) || errors.Is(err, unix.ENODEV)
}
