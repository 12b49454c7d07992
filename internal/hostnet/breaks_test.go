package hostnet_test

import (
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// hostBreaks is every object that the package makes on the host, taken away or changed.
var hostBreaks = map[string]func(*testing.T, *broken){
	"the bridge":                    func(t *testing.T, w *broken) { must(t, netlink.LinkDel(link(t, gatewayIf))) },
	"the bridge's state":            func(t *testing.T, w *broken) { must(t, netlink.LinkSetDown(link(t, gatewayIf))) },
	"the bridge's name":             func(t *testing.T, w *broken) { rename(t, gatewayIf, "mine") },
	"the bridge's alias":            func(t *testing.T, w *broken) { must(t, netlink.LinkSetAlias(link(t, gatewayIf), "mine")) },
	"the bridge's hardware address": func(t *testing.T, w *broken) { must(t, netlink.LinkSetHardwareAddr(link(t, gatewayIf), hw)) },
	"the bridge, for a veth":        func(t *testing.T, w *broken) { replaceBridge(t) },
	"the gateway's address":         func(t *testing.T, w *broken) { must(t, netlink.AddrDel(link(t, gatewayIf), gatewayAddress(t))) },
	"the gateway's address, which is another": func(t *testing.T, w *broken) {
		must(t, netlink.AddrDel(link(t, gatewayIf), gatewayAddress(t)))
		must(t, netlink.AddrAdd(link(t, gatewayIf), address("10.254.0.1/24")))
	},
	"the gateway's address, which has a route of its own": func(t *testing.T, w *broken) {
		a := gatewayAddress(t)
		must(t, netlink.AddrDel(link(t, gatewayIf), a))
		must(t, netlink.AddrAdd(link(t, gatewayIf), address(a.IPNet.String())))
	},
	"an address beside the gateway's": func(t *testing.T, w *broken) { must(t, netlink.AddrAdd(link(t, gatewayIf), address("10.254.0.1/24"))) },
	"the route of free addresses":     func(t *testing.T, w *broken) { must(t, netlink.RouteDel(unreachable(t))) },
	"the route of free addresses, which leads elsewhere": func(t *testing.T, w *broken) {
		must(t, netlink.RouteReplace(&netlink.Route{Dst: unreachable(t).Dst, LinkIndex: link(t, "up0").Attrs().Index, Gw: net.IPv4(198, 51, 100, 1)}))
	},
	"routing": func(t *testing.T, w *broken) { set(t, "net/ipv4/ip_forward", "0") },

	"a machine's interface": func(t *testing.T, w *broken) { must(t, netlink.LinkDel(link(t, w.veth))) },
	"a machine's interface, down and up": func(t *testing.T, w *broken) {
		must(t, netlink.LinkSetDown(link(t, w.veth)))
		must(t, netlink.LinkSetUp(link(t, w.veth)))
	},
	"a machine's interface's state": func(t *testing.T, w *broken) { must(t, netlink.LinkSetDown(link(t, w.veth))) },
	"a machine's interface's name":  func(t *testing.T, w *broken) { rename(t, w.veth, "mine") },
	"a machine's interface, in another namespace": func(t *testing.T, w *broken) {
		must(t, netlink.LinkSetNsFd(link(t, w.veth), int(newSpace(t, false).ns.Fd())))
	},
	"a machine's interface, as a port of the bridge": func(t *testing.T, w *broken) {
		must(t, netlink.LinkSetMaster(link(t, w.veth), link(t, gatewayIf)))
	},
	"a machine's interface's ARP":              func(t *testing.T, w *broken) { must(t, netlink.LinkSetARPOn(link(t, w.veth))) },
	"a machine's interface's hardware address": func(t *testing.T, w *broken) { must(t, netlink.LinkSetHardwareAddr(link(t, w.veth), hw)) },
	"a machine's interface's MTU":              func(t *testing.T, w *broken) { must(t, netlink.LinkSetMTU(link(t, w.veth), 1000)) },
	"a machine's interface's alias":            func(t *testing.T, w *broken) { must(t, netlink.LinkSetAlias(link(t, w.veth), "mine")) },
	"a machine's interface's lack of address":  func(t *testing.T, w *broken) { must(t, netlink.AddrAdd(link(t, w.veth), address("10.254.0.1/24"))) },
	"a machine's interface's lack of IPv6":     func(t *testing.T, w *broken) { set(t, "net/ipv6/conf/"+w.veth+"/disable_ipv6", "0") },
	"a machine's interface's routing":          func(t *testing.T, w *broken) { set(t, "net/ipv4/conf/"+w.veth+"/forwarding", "0") },
	"every interface": func(t *testing.T, w *broken) {
		for _, name := range interfaces(t, gatewayIf) {
			must(t, netlink.LinkDel(link(t, name)))
		}
	},
	"a machine's route": func(t *testing.T, w *broken) {
		must(t, netlink.RouteDel(&netlink.Route{Dst: host(w.a.addr), Scope: netlink.SCOPE_NOWHERE}))
	},
	"a machine's route, which leads elsewhere": func(t *testing.T, w *broken) {
		must(t, netlink.RouteReplace(&netlink.Route{Dst: host(w.a.addr), LinkIndex: link(t, "up0").Attrs().Index, Gw: net.IPv4(198, 51, 100, 1)}))
	},
	"a machine's route, which names no source": func(t *testing.T, w *broken) {
		must(t, netlink.RouteReplace(&netlink.Route{Dst: host(w.a.addr), LinkIndex: link(t, w.veth).Attrs().Index, Scope: netlink.SCOPE_LINK}))
	},
	"a machine's neighbour": func(t *testing.T, w *broken) { must(t, netlink.NeighDel(neighbourOf(t, w.veth))) },
	"a machine's neighbour, which is another": func(t *testing.T, w *broken) {
		n := neighbourOf(t, w.veth)
		n.HardwareAddr = hw
		must(t, netlink.NeighSet(n))
	},

	"the table": func(t *testing.T, w *broken) {
		nft(t, func(c *nftables.Conn, table *nftables.Table) { c.DelTable(table) })
	},
	"every table": func(t *testing.T, w *broken) { nft(t, func(c *nftables.Conn, _ *nftables.Table) { c.FlushRuleset() }) },
	"a chain's rules": func(t *testing.T, w *broken) {
		nft(t, func(c *nftables.Conn, table *nftables.Table) {
			c.FlushChain(&nftables.Chain{Table: table, Name: "forward"})
		})
	},
	"a rule": func(t *testing.T, w *broken) {
		nft(t, func(c *nftables.Conn, table *nftables.Table) {
			rules, err := c.GetRules(table, &nftables.Chain{Table: table, Name: "outward"})
			must(t, err)
			must(t, c.DelRule(rules[0]))
		})
	},
	"a rule more": func(t *testing.T, w *broken) {
		nft(t, func(c *nftables.Conn, table *nftables.Table) {
			c.InsertRule(&nftables.Rule{Table: table, Chain: &nftables.Chain{Name: "forward"}, Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}})
		})
	},
	"what is in the sets": func(t *testing.T, w *broken) {
		nft(t, func(c *nftables.Conn, table *nftables.Table) {
			for _, name := range []string{"bound", "internet", "pairs"} {
				s, err := c.GetSetByName(table, name)
				must(t, err)
				c.FlushSet(s)
			}
		})
	},
	"a pair more": func(t *testing.T, w *broken) {
		nft(t, func(c *nftables.Conn, table *nftables.Table) {
			s, err := c.GetSetByName(table, "internet")
			must(t, err)
			must(t, c.SetAddElements(s, []nftables.SetElement{{Key: w.b.addr.AsSlice()}}))
		})
	},
}

// silentBreaks are those on the host of which the kernel says nothing.
var silentBreaks = map[string]func(*testing.T, *broken){
	"the bridge's lack of IPv6": func(t *testing.T, w *broken) { set(t, "net/ipv6/conf/"+gatewayIf+"/disable_ipv6", "0") },
}

// machineBreaks is what the package makes within a machine. Only the host's root can take it.
var machineBreaks = map[string]func(*testing.T, *broken){
	"the interface":        func(t *testing.T, w *broken) { must(t, netlink.LinkDel(link(t, "eth0"))) },
	"the interface's name": func(t *testing.T, w *broken) { rename(t, "eth0", "mine") },
	"the interface's state": func(t *testing.T, w *broken) {
		must(t, netlink.LinkSetDown(link(t, "eth0")))
	},
	"the interface, down and up": func(t *testing.T, w *broken) {
		must(t, netlink.LinkSetDown(link(t, "eth0")))
		must(t, netlink.LinkSetUp(link(t, "eth0")))
	},
	"the interface's MTU":              func(t *testing.T, w *broken) { must(t, netlink.LinkSetMTU(link(t, "eth0"), 1000)) },
	"the interface's hardware address": func(t *testing.T, w *broken) { must(t, netlink.LinkSetHardwareAddr(link(t, "eth0"), hw)) },
	"the interface's ARP":              func(t *testing.T, w *broken) { must(t, netlink.LinkSetARPOff(link(t, "eth0"))) },
	"the interface's lack of IPv6":     func(t *testing.T, w *broken) { set(t, "net/ipv6/conf/eth0/disable_ipv6", "0") },
	"the address": func(t *testing.T, w *broken) {
		addrs, err := netlink.AddrList(link(t, "eth0"), netlink.FAMILY_V4)
		must(t, err)
		must(t, netlink.AddrDel(link(t, "eth0"), &addrs[0]))
	},
	"an address more": func(t *testing.T, w *broken) { must(t, netlink.AddrAdd(link(t, "eth0"), address("10.254.0.1/24"))) },
	"the default route": func(t *testing.T, w *broken) {
		must(t, netlink.RouteDel(&netlink.Route{Dst: &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}}))
	},
	"the gateway's route": func(t *testing.T, w *broken) {
		must(t, netlink.RouteDel(&netlink.Route{Dst: host(w.n.Gateway()), Scope: netlink.SCOPE_NOWHERE}))
	},
	"the neighbour": func(t *testing.T, w *broken) { must(t, netlink.NeighDel(neighbourOf(t, "eth0"))) },
	"the loopback":  func(t *testing.T, w *broken) { must(t, netlink.LinkSetDown(link(t, "lo"))) },
}

var hw = net.HardwareAddr{2, 0, 0, 0, 0, 1}

func link(t *testing.T, name string) netlink.Link {
	t.Helper()
	l, err := netlink.LinkByName(name)
	must(t, err)
	return l
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	l := link(t, from)
	must(t, netlink.LinkSetDown(l))
	must(t, netlink.LinkSetName(l, to))
	_ = netlink.LinkSetUp(l) // it may have been mended already
}

func replaceBridge(t *testing.T) {
	t.Helper()
	must(t, netlink.LinkDel(link(t, gatewayIf)))
	err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: gatewayIf}, PeerName: "other"})
	if err != nil && !strings.Contains(err.Error(), "exists") { // the bridge was quicker
		t.Fatal(err)
	}
}

func set(t *testing.T, key, value string) {
	t.Helper()
	must(t, os.WriteFile("/proc/sys/"+key, []byte(value), 0))
}

func read(key string) string {
	b, err := os.ReadFile("/proc/sys/" + key)
	if err != nil {
		return "none"
	}
	return strings.TrimSpace(string(b))
}

func gatewayAddress(t *testing.T) *netlink.Addr {
	t.Helper()
	addrs, err := netlink.AddrList(link(t, gatewayIf), netlink.FAMILY_V4)
	must(t, err)
	return &addrs[0]
}

func unreachable(t *testing.T) *netlink.Route {
	t.Helper()
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	must(t, err)
	i := slices.IndexFunc(routes, func(r netlink.Route) bool { return r.Type == unix.RTN_UNREACHABLE })
	return &netlink.Route{Dst: routes[i].Dst, Type: unix.RTN_UNREACHABLE}
}

func host(a netip.Addr) *net.IPNet { return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(32, 32)} }

func neighbourOf(t *testing.T, name string) *netlink.Neigh {
	t.Helper()
	list, err := netlink.NeighList(link(t, name).Attrs().Index, netlink.FAMILY_V4)
	must(t, err)
	return &list[0]
}

func nft(t *testing.T, f func(*nftables.Conn, *nftables.Table)) {
	t.Helper()
	c, err := nftables.New()
	must(t, err)
	f(c, &nftables.Table{Name: mendTable, Family: nftables.TableFamilyINet})
	must(t, c.Flush())
}
