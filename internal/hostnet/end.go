package hostnet

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// end is an interface of ours with everything that lies on it, as it must be: the bridge, and both ends of
// a machine's veth pair.
type end struct {
	name, alias string // no alias: whatever it has
	hw          net.HardwareAddr
	mtu         int // 0: whatever it has
	noARP       bool
	address     netip.Prefix // its only one; none when zero
	neighbour   *netlink.Neigh
	routes      []*netlink.Route // those with scope link or a gateway lead through it
	sysctls     map[string]string
}

// part is one thing of an end: whether it is as it must be, and how it becomes so.
type part struct {
	name  string // for people
	wrong func() bool
	set   func() error
}

// parts compares the end with what v has of it. Their order matters: the kernel drops neighbours with a change of
// address or of ARP, and routes with an interface that goes down.
func (e *end) parts(h *netlink.Handle, v *view, l netlink.Link) []part {
	a := l.Attrs()
	is := func(wrong bool) func() bool { return func() bool { return wrong } }
	parts := []part{
		{"bridge that it is no port of", is(a.MasterIndex != 0), func() error { return h.LinkSetNoMaster(l) }},
		{"alias", is(e.alias != "" && a.Alias != e.alias), func() error { return h.LinkSetAlias(l, e.alias) }},
		{"hardware address", is(!bytes.Equal(a.HardwareAddr, e.hw)), func() error { return h.LinkSetHardwareAddr(l, e.hw) }},
		{"MTU", is(e.mtu != 0 && a.MTU != e.mtu), func() error { return h.LinkSetMTU(l, e.mtu) }},
		{"ARP", is((a.RawFlags&unix.IFF_NOARP != 0) != e.noARP), func() error {
			if e.noARP {
				return h.LinkSetARPOff(l)
			}
			return h.LinkSetARPOn(l)
		}},
	}
	for key, value := range e.sysctls { // asked only now: IPv6 goes and comes with the MTU
		parts = append(parts, part{strings.ReplaceAll(key, "/", "."), func() bool { return !sysctlIs(key, value) }, func() error { return sysctl(key, value) }})
	}
	parts = append(parts,
		part{"address", is(!e.addressed(v.addrs[a.Index])), func() error { return e.setAddress(h, l, v.addrs[a.Index]) }},
		part{"state", is(a.Flags&net.FlagUp == 0), func() error { return h.LinkSetUp(l) }},
	)
	if n := e.neighbour; n != nil {
		want := *n
		want.LinkIndex = a.Index
		parts = append(parts, part{"neighbour", is(!v.hasNeighbour(&want)), func() error { return h.NeighSet(&want) }})
	}
	for _, r := range e.routes {
		want := *r
		if want.Type == unix.RTN_UNICAST || want.Type == 0 {
			want.LinkIndex = a.Index
		}
		parts = append(parts, part{"route to " + want.Dst.String(), is(!v.hasRoute(&want)), func() error { return h.RouteReplace(&want) }})
	}
	return parts
}

// faults names what is wrong with the end; everything where the interface is missing.
func (e *end) faults(h *netlink.Handle, v *view) (names []string) {
	l := v.links[e.name]
	if l == nil {
		return []string{"interface"}
	}
	for _, p := range e.parts(h, v, l) {
		if p.wrong() {
			names = append(names, p.name)
		}
	}
	return names
}

// set makes everything of the end right, on an interface that is there.
func (e *end) set(h *netlink.Handle) error {
	l, err := h.LinkByName(e.name)
	if err != nil {
		return fmt.Errorf("look up %s: %w", e.name, err)
	}
	v := &view{addrs: map[int][]netlink.Addr{}} // neighbours and routes are set whether or not they are there
	v.addrs[l.Attrs().Index], err = whole(func() ([]netlink.Addr, error) { return h.AddrList(l, netlink.FAMILY_V4) })
	if err != nil {
		return fmt.Errorf("list addresses of %s: %w", e.name, err)
	}
	for _, p := range e.parts(h, v, l) {
		if p.wrong() {
			if err := p.set(); err != nil {
				return fmt.Errorf("set %s of %s: %w", p.name, e.name, err)
			}
		}
	}
	return nil
}

// isAddress says whether a is the end's address, and makes no route of its own.
func (e *end) isAddress(a netlink.Addr) bool {
	return a.IPNet.String() == e.address.String() && a.Flags&unix.IFA_F_NOPREFIXROUTE != 0
}

func (e *end) addressed(have []netlink.Addr) bool {
	if !e.address.IsValid() {
		return len(have) == 0
	}
	return len(have) == 1 && e.isAddress(have[0])
}

func (e *end) setAddress(h *netlink.Handle, l netlink.Link, have []netlink.Addr) error {
	there := false
	for _, a := range have {
		if e.isAddress(a) {
			there = true
		} else if err := h.AddrDel(l, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return err
		}
	}
	if there || !e.address.IsValid() {
		return nil
	}
	a := &netlink.Addr{IPNet: ipNet(e.address), Flags: unix.IFA_F_NOPREFIXROUTE}
	return h.AddrReplace(l, a)
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

// sysctlIs says whether sysctl would change nothing.
func sysctlIs(key, value string) bool {
	b, err := os.ReadFile(filepath.Join("/proc/sys", key))
	return errors.Is(err, os.ErrNotExist) || err == nil && strings.TrimSpace(string(b)) == value
}
