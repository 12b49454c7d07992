package hostnet

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"

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
	name := bridgeName(w.installation)
	l, err := w.h.LinkByName(name)
	if isMissing(err) {
		err = w.h.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name, TxQLen: -1, HardwareAddr: hwAddr(w.installation, 1, true)}})
		if err == nil {
			l, err = w.h.LinkByName(name)
		}
	}
	if err != nil {
		return fmt.Errorf("make bridge %s: %w", name, err)
	}
	if err := sysctl("net/ipv6/conf/"+name+"/disable_ipv6", "1"); err != nil {
		return err
	}
	if err := w.h.LinkSetAlias(l, "dspool gateway"); err != nil {
		return fmt.Errorf("name bridge %s: %w", name, err)
	}
	if err := w.h.LinkSetUp(l); err != nil {
		return fmt.Errorf("bring up bridge %s: %w", name, err)
	}
	addrs, err := w.h.AddrList(l, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("list addresses of %s: %w", name, err)
	}
	want := netip.PrefixFrom(w.gateway, w.subnet.Bits()).String()
	for _, a := range addrs {
		if a.IPNet.String() != want {
			if err := w.h.AddrDel(l, &a); err != nil {
				return fmt.Errorf("remove address %s from %s: %w", a.IPNet, name, err)
			}
		}
	}
	addr := &netlink.Addr{IPNet: ipNet(w.subnet), Flags: unix.IFA_F_NOPREFIXROUTE}
	addr.IPNet.IP = w.gateway.AsSlice()
	if err := w.h.AddrReplace(l, addr); err != nil {
		return fmt.Errorf("give %s the address %s: %w", name, want, err)
	}
	if err := w.h.RouteReplace(w.unreachable()); err != nil {
		return fmt.Errorf("make route for %s: %w", w.subnet, err)
	}
	return nil
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
	links, err := w.h.LinkList()
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

// plug joins the network namespace of pid to the host. A second call completes what an earlier one left.
func (w *wire) plug(machine string, addr netip.Addr, pid, mtu int) error {
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return fmt.Errorf("open network namespace of process %d: %w", pid, err)
	}
	defer ns.Close()
	if same, err := isHostNamespace(ns); err != nil {
		return err
	} else if same {
		return dspool.Errorf(dspool.Invalid, "process %d of machine %s has the host's own network", pid, machine)
	}
	offset := offsetOf(w.subnet, addr)
	name := vethName(w.installation, offset)
	inner := hwAddr(w.installation, offset, false)
	veth := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: name, MTU: mtu, TxQLen: 1000, HardwareAddr: hwAddr(w.installation, offset, true)},
		PeerName:  machineNIC, PeerHardwareAddr: inner, PeerMTU: uint32(mtu), PeerTxQLen: 1000, PeerNamespace: netlink.NsFd(ns.Fd()),
	}
	err = w.h.LinkAdd(veth)
	if errors.Is(err, unix.EEXIST) {
		old, lookup := w.h.LinkByName(name)
		switch {
		case isMissing(lookup):
			return dspool.Errorf(dspool.Conflict, "the network namespace of machine %s already has an %s", machine, machineNIC)
		case lookup != nil:
			return fmt.Errorf("look up veth %s: %w", name, lookup)
		case isPeer(ns, old):
			err = nil
		default: // of an earlier life of the machine
			if err := w.h.LinkDel(old); err != nil && !isMissing(err) {
				return fmt.Errorf("remove old veth %s: %w", name, err)
			}
			veth.Index = 0
			err = w.h.LinkAdd(veth)
		}
	}
	if err != nil {
		return fmt.Errorf("make veth %s: %w", name, err)
	}
	if err := w.outside(name, aliasPrefix+machine, addr, inner); err != nil {
		return err
	}
	return inNamespace(ns, func(h *netlink.Handle) error {
		return w.inside(h, addr, hwAddr(w.installation, offset, true))
	})
}

// outside readies the host's end: no IPv6, no ARP, and the one route to the machine.
func (w *wire) outside(name, alias string, addr netip.Addr, inner []byte) error {
	l, err := w.h.LinkByName(name)
	if err != nil {
		return fmt.Errorf("look up veth %s: %w", name, err)
	}
	if err := w.h.LinkSetAlias(l, alias); err != nil { // the kernel ignores it while it makes the link
		return fmt.Errorf("name veth %s: %w", name, err)
	}
	if err := sysctl("net/ipv6/conf/"+name+"/disable_ipv6", "1"); err != nil {
		return err
	}
	// Whatever the host's default for new interfaces is.
	if err := sysctl("net/ipv4/conf/"+name+"/forwarding", "1"); err != nil {
		return err
	}
	if err := w.h.LinkSetARPOff(l); err != nil {
		return fmt.Errorf("switch off ARP of %s: %w", name, err)
	}
	if err := w.h.LinkSetUp(l); err != nil {
		return fmt.Errorf("bring up %s: %w", name, err)
	}
	index := l.Attrs().Index
	if err := w.h.NeighSet(neighbour(index, addr, inner)); err != nil {
		return fmt.Errorf("make neighbour %s: %w", addr, err)
	}
	return w.route(index, addr)
}

// route makes the one route to a machine. It names the gateway's address, and goes with it.
func (w *wire) route(veth int, addr netip.Addr) error {
	err := w.h.RouteReplace(&netlink.Route{LinkIndex: veth, Dst: hostNet(addr), Scope: netlink.SCOPE_LINK,
		Src: w.gateway.AsSlice(), Protocol: unix.RTPROT_STATIC})
	if err != nil {
		return fmt.Errorf("make route to %s: %w", addr, err)
	}
	return nil
}

// inside readies the machine's end; it runs in the machine's namespace. The
// address has the subnet's length, for programs that compare networks, but no
// route of that length: all goes through the gateway.
func (w *wire) inside(h *netlink.Handle, addr netip.Addr, outer []byte) error {
	lo, err := h.LinkByName("lo")
	if err == nil {
		err = h.LinkSetUp(lo)
	}
	if err != nil {
		return fmt.Errorf("bring up the machine's loopback: %w", err)
	}
	nic, err := h.LinkByName(machineNIC)
	if err != nil {
		return fmt.Errorf("look up the machine's %s: %w", machineNIC, err)
	}
	if err := sysctl("net/ipv6/conf/"+machineNIC+"/disable_ipv6", "1"); err != nil {
		return err
	}
	a := &netlink.Addr{IPNet: ipNet(w.subnet), Flags: unix.IFA_F_NOPREFIXROUTE}
	a.IPNet.IP = addr.AsSlice()
	if err := h.AddrReplace(nic, a); err != nil {
		return fmt.Errorf("give the machine its address: %w", err)
	}
	if err := h.LinkSetUp(nic); err != nil {
		return fmt.Errorf("bring up the machine's %s: %w", machineNIC, err)
	}
	index := nic.Attrs().Index
	if err := h.NeighSet(neighbour(index, w.gateway, outer)); err != nil {
		return fmt.Errorf("make the machine's neighbour: %w", err)
	}
	if err := h.RouteReplace(&netlink.Route{LinkIndex: index, Dst: hostNet(w.gateway), Scope: netlink.SCOPE_LINK}); err != nil {
		return fmt.Errorf("make the machine's route to the gateway: %w", err)
	}
	all := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	if err := h.RouteReplace(&netlink.Route{LinkIndex: index, Dst: ipNet(all), Gw: w.gateway.AsSlice()}); err != nil {
		return fmt.Errorf("make the machine's default route: %w", err)
	}
	return nil
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

func neighbour(index int, a netip.Addr, hw []byte) *netlink.Neigh {
	return &netlink.Neigh{LinkIndex: index, Family: unix.AF_INET, State: netlink.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: hw}
}

func isMissing(err error) bool {
	var notFound netlink.LinkNotFoundError
	return errors.As(err, &notFound) || errors.Is(err, unix.ENODEV)
}

// isPeer says whether the other end of the host's veth is the eth0 in ns.
func isPeer(ns *os.File, outer netlink.Link) bool {
	peer := false
	err := inNamespace(ns, func(h *netlink.Handle) error {
		nic, err := h.LinkByName(machineNIC)
		peer = err == nil && nic.Attrs().ParentIndex == outer.Attrs().Index && nic.Attrs().Index == outer.Attrs().ParentIndex
		return err
	})
	return err == nil && peer
}

func isHostNamespace(ns *os.File) (bool, error) {
	var a, b unix.Stat_t
	if err := unix.Fstat(int(ns.Fd()), &a); err != nil {
		return false, fmt.Errorf("look at network namespace: %w", err)
	}
	// Not /proc/self: the process's first thread may just be in a machine's.
	if err := unix.Stat("/proc/thread-self/ns/net", &b); err != nil {
		return false, fmt.Errorf("look at network namespace: %w", err)
	}
	return a.Dev == b.Dev && a.Ino == b.Ino, nil
}

// inNamespace runs f on a thread that is in ns. A thread that cannot come back
// ends with its goroutine.
func inNamespace(ns *os.File, f func(*netlink.Handle) error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			runtime.UnlockOSThread()
			done <- fmt.Errorf("open own network namespace: %w", err)
			return
		}
		defer home.Close()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			runtime.UnlockOSThread()
			done <- fmt.Errorf("enter network namespace: %w", err)
			return
		}
		err = func() error {
			h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
			if err != nil {
				return fmt.Errorf("open netlink in network namespace: %w", err)
			}
			defer h.Close()
			return f(h)
		}()
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

// sysctl writes below /proc/sys of the thread's network namespace. What the kernel
// does not have (IPv6 switched off) needs no setting.
func sysctl(key, value string) error {
	err := os.WriteFile(filepath.Join("/proc/sys", key), []byte(value), 0)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("set %s: %w", strings.ReplaceAll(key, "/", "."), err)
	}
	return nil
}
