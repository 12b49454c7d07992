package hostnet

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// view is what the kernel has of interfaces, addresses, routes and neighbours in one network namespace.
type view struct {
	links      map[string]netlink.Link
	addrs      map[int][]netlink.Addr
	routes     map[netip.Prefix]netlink.Route // of the main table, the one that comes first
	neighbours map[neighbourKey]netlink.Neigh
}

type neighbourKey struct {
	link    int
	address netip.Addr
}

// look takes four questions, however much there is.
func look(h *netlink.Handle) (*view, error) {
	v := &view{links: map[string]netlink.Link{}, addrs: map[int][]netlink.Addr{}, routes: map[netip.Prefix]netlink.Route{}, neighbours: map[neighbourKey]netlink.Neigh{}}
	links, err := whole(h.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	for _, l := range links {
		v.links[l.Attrs().Name] = l
	}
	addrs, err := whole(func() ([]netlink.Addr, error) { return h.AddrList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addrs {
		v.addrs[a.LinkIndex] = append(v.addrs[a.LinkIndex], a)
	}
	routes, err := whole(func() ([]netlink.Route, error) {
		return h.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	for _, r := range routes {
		if p, ok := destination(&r); ok && r.Priority == 0 && r.Tos == 0 {
			if _, earlier := v.routes[p]; !earlier {
				v.routes[p] = r
			}
		}
	}
	neighbours, err := whole(func() ([]netlink.Neigh, error) { return h.NeighList(0, netlink.FAMILY_V4) })
	if err != nil {
		return nil, fmt.Errorf("list neighbours: %w", err)
	}
	for _, n := range neighbours {
		if a, ok := netip.AddrFromSlice(n.IP); ok {
			v.neighbours[neighbourKey{n.LinkIndex, a.Unmap()}] = n
		}
	}
	return v, nil
}

// whole asks again when what is listed changed meanwhile, so that the list may be a part.
func whole[T any](list func() ([]T, error)) (out []T, err error) {
	for range 10 {
		if out, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return out, err
}

func destination(r *netlink.Route) (netip.Prefix, bool) {
	if r.Dst == nil {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0), true
	}
	return toPrefix(r.Dst.IP, r.Dst.Mask)
}

func (v *view) hasRoute(want *netlink.Route) bool {
	p, _ := destination(want)
	r, ok := v.routes[p]
	kind := func(t int) int { // 0 is how the library lets one leave it out
		if t == 0 {
			return unix.RTN_UNICAST
		}
		return t
	}
	return ok && kind(r.Type) == kind(want.Type) && r.LinkIndex == want.LinkIndex && r.Scope == want.Scope &&
		net.IP.Equal(r.Gw, want.Gw) && net.IP.Equal(r.Src, want.Src) && len(r.MultiPath) == 0
}

func (v *view) hasNeighbour(want *netlink.Neigh) bool {
	a, _ := netip.AddrFromSlice(want.IP)
	n, ok := v.neighbours[neighbourKey{want.LinkIndex, a.Unmap()}]
	return ok && n.State == netlink.NUD_PERMANENT && bytes.Equal(n.HardwareAddr, want.HardwareAddr)
}
