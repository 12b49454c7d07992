package hostnet

import (
	"context"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/dspool/dspool"
)

// hostLock serialises what all installations of a host do to choose subnets.
const hostLock = "/run/dspool-network.lock"

// defaultBits is the size of a subnet that we choose: 4,096 addresses.
const defaultBits = 20

// candidates are searched in order for a free block of defaultBits.
var candidates = []netip.Prefix{
	netip.MustParsePrefix("10.80.0.0/12"),
	netip.MustParsePrefix("10.96.0.0/12"),
	netip.MustParsePrefix("172.16.0.0/12"),
	netip.MustParsePrefix("192.168.0.0/16"),
}

// used is a prefix that the host already uses, and by what.
type used struct {
	prefix netip.Prefix
	by     string
	route  bool
}

// choose returns a free block. The search begins at a place that depends on the
// installation, so that two installations seldom want the same block even when
// one of them is not running while the other chooses.
func choose(installation string, taken []used) (netip.Prefix, error) {
	seed, err := hex.DecodeString(installation)
	if err != nil || len(seed) < 4 {
		return netip.Prefix{}, fmt.Errorf("choose subnet: bad installation %q", installation)
	}
	start := int(seed[0])<<24 | int(seed[1])<<16 | int(seed[2])<<8 | int(seed[3])
	for _, c := range candidates {
		blocks := 1 << (defaultBits - c.Bits())
		for i := range blocks {
			block := (start + i) % blocks
			p := netip.PrefixFrom(addrAt(c, block<<(32-defaultBits)), defaultBits)
			if overlap(p, taken) == nil {
				return p, nil
			}
		}
	}
	return netip.Prefix{}, dspool.Errorf(dspool.Unavailable, "no private subnet is free on this host").
		WithHint("set the network's subnet to an IPv4 block that no interface or route of the host uses")
}

func overlap(p netip.Prefix, taken []used) *used {
	for i, t := range taken {
		if t.prefix.Overlaps(p) {
			return &taken[i]
		}
	}
	return nil
}

// checkSubnet refuses what cannot be a subnet of machines.
func checkSubnet(p netip.Prefix) error {
	switch {
	case !p.IsValid() || !p.Addr().Is4():
		return dspool.Errorf(dspool.Invalid, "subnet %s is not an IPv4 block", p).WithHint("for example 10.80.0.0/20")
	case p.Masked() != p:
		return dspool.Errorf(dspool.Invalid, "subnet %s does not begin at its first address", p).WithHint("write %s", p.Masked())
	case p.Bits() < 16 || p.Bits() > 28:
		return dspool.Errorf(dspool.Invalid, "subnet %s has %d addresses", p, uint64(1)<<(32-p.Bits())).WithHint("from /16 to /28")
	case p.Addr().IsLoopback() || p.Addr().IsMulticast() || p.Addr().IsLinkLocalUnicast() || p.Addr().As4()[0] == 0 || p.Addr().As4()[0] >= 240:
		return dspool.Errorf(dspool.Invalid, "subnet %s cannot be routed", p).WithHint("for example 10.80.0.0/20")
	}
	return nil
}

// inUse lists the addresses, routes and name servers of the host, but not what
// belongs to the installation itself.
func inUse(h *netlink.Handle, installation string, own netip.Prefix, resolvConf string) ([]used, error) {
	var out []used
	links, err := h.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	names := map[int]string{}
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	ours := func(index int) bool {
		name := names[index]
		_, veth := parseVeth(installation, name)
		return veth || name == bridgeName(installation)
	}
	addrs, err := h.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addrs {
		if p, ok := toPrefix(a.IPNet.IP, a.IPNet.Mask); ok && !ours(a.LinkIndex) {
			out = append(out, used{p, "interface " + names[a.LinkIndex], false})
		}
	}
	routes, err := h.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	for _, r := range routes {
		if r.Dst == nil || ours(r.LinkIndex) {
			continue
		}
		p, ok := toPrefix(r.Dst.IP, r.Dst.Mask)
		if !ok || p.Bits() == 0 || p == own && r.Type == unix.RTN_UNREACHABLE {
			continue
		}
		by := "a route"
		if name := names[r.LinkIndex]; name != "" {
			by += " through " + name
		}
		out = append(out, used{p, by, true})
	}
	for _, s := range readResolvConf(resolvConf).servers {
		if a, err := netip.ParseAddrPort(s); err == nil && a.Addr().Is4() {
			out = append(out, used{netip.PrefixFrom(a.Addr(), 32), "name server " + a.Addr().String(), false})
		}
	}
	return out, nil
}

func toPrefix(ip []byte, mask []byte) (netip.Prefix, bool) {
	a, ok := netip.AddrFromSlice(ip)
	if !ok || !a.Unmap().Is4() {
		return netip.Prefix{}, false
	}
	bits := 0
	for _, b := range mask {
		for ; b&0x80 != 0; b <<= 1 {
			bits++
		}
	}
	return netip.PrefixFrom(a.Unmap(), bits).Masked(), true
}

// lockHost waits for the host-wide lock; the returned function releases it.
func lockHost(ctx context.Context) (func(), error) {
	f, err := os.OpenFile(hostLock, os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the host's network: %w", err)
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if err != unix.EWOULDBLOCK && err != unix.EINTR {
			f.Close()
			return nil, fmt.Errorf("lock the host's network: %w", err)
		}
		select { // flock knows no context; the lock is held for milliseconds
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("lock the host's network: %w", ctx.Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
}
