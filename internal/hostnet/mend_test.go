package hostnet_test

import (
	"fmt"
	"maps"
	"net"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/dspool/dspool/internal/hostnet"
	"github.com/dspool/dspool/internal/provider"
)

const (
	mendID    = "0a0b0c0f"
	gatewayIf = "dsp" + mendID
	mendTable = "dspool_" + mendID
)

// broken is a network with two machines, as somebody finds it who breaks something.
type broken struct {
	n      *hostnet.Net
	a, b   *space
	veth   string // a's, on the host
	before []string
}

func TestWhatSomebodyTakesOfTheHostsNetworkIsMended(t *testing.T) {
	if inWorld(t) {
		mends(t, hostBreaks, func(w *broken, f func()) { f() })
	}
}

func TestWhatTheKernelDoesNotTellIsMended(t *testing.T) {
	if inWorld(t) {
		hostnet.LookDeepAllTheTime()
		mends(t, silentBreaks, func(w *broken, f func()) { f() })
	}
}

func TestWhatSomebodyTakesOfAMachinesNetworkIsMended(t *testing.T) {
	if inWorld(t) {
		hostnet.LookDeepAllTheTime()
		mends(t, machineBreaks, func(w *broken, f func()) { w.a.do(f) })
	}
}

// mends breaks one thing after the other, while a server runs and while none does, and sees it return.
func mends(world *testing.T, breaks map[string]func(*testing.T, *broken), where func(*broken, func())) {
	t := world
	inet := uplink(t, 1400)
	w := &broken{n: open(t, mendID)}
	w.a, w.b = machine(t, w.n, "m-1", provider.Everywhere), machine(t, w.n, "m-2", provider.Nowhere)
	must(t, w.n.Allow("m-1", "m-2"))
	serveHost(t, at(w.n.Gateway(), agentPort))
	for _, name := range interfaces(t, gatewayIf) {
		if l := link(t, name); l.Attrs().Alias == "dspool machine m-1" {
			w.veth = name
		}
	}
	w.before = w.state(t)
	works := func(t *testing.T, told bool) {
		t.Helper()
		var now []string
		waitFor(t, "the network as it was", func() bool { now = w.state(t); return slices.Equal(now, w.before) }, func() { w.differs(t, now) })
		if told {
			waitFor(t, "word of it", func() bool { return len(w.n.Mended()) > 0 })
		}
		for len(w.n.Mended()) > 0 {
			t.Logf("mended: %s", <-w.n.Mended())
		}
		w.a.mustReach(at(w.n.Gateway(), agentPort))
		w.a.mustReach(at(inet.addr, 80))
		w.a.mustReach(w.b.service())
		w.b.mustNotReach(at(inet.addr, 80))
		c, err := dial(w.a.service())
		must(t, err)
		c.Close()
	}
	for _, what := range slices.Sorted(maps.Keys(breaks)) {
		t.Run(what+", while a server runs", func(t *testing.T) {
			where(w, func() { breaks[what](t, w) })
			works(t, true)
		})
		t.Run(what+", while no server runs", func(t *testing.T) {
			must(t, w.n.Close())
			where(w, func() { breaks[what](t, w) })
			w.n = open(world, mendID)
			must(t, w.n.Adopt("m-1", w.a.pid)) // as the provider does
			must(t, w.n.Adopt("m-2", w.b.pid))
			works(t, false)
		})
	}
}

// state is everything of the installation on the host and in m-1, as lines; a part while that changes.
func (w *broken) state(t *testing.T) []string {
	t.Helper()
	lines := interfaceState(gatewayIf)
	lines = append(lines, "ip_forward "+read("net/ipv4/ip_forward"))
	lines = append(lines, tableState(t)...)
	w.a.do(func() {
		for _, line := range interfaceState("") {
			lines = append(lines, "m-1: "+line)
		}
	})
	slices.Sort(lines)
	return lines
}

func (w *broken) differs(t *testing.T, now []string) {
	t.Helper()
	for _, line := range w.before {
		if !slices.Contains(now, line) {
			t.Logf("missing: %s", line)
		}
	}
	for _, line := range now {
		if !slices.Contains(w.before, line) {
			t.Logf("not ours: %s", line)
		}
	}
}

// interfaceState describes the interfaces that begin with prefix, and what hangs on them.
func interfaceState(prefix string) (lines []string) {
	add := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	links, _ := netlink.LinkList()
	names := map[int]string{}
	for _, l := range links {
		a := l.Attrs()
		if !strings.HasPrefix(a.Name, prefix) {
			continue
		}
		names[a.Index] = a.Name
		add("%s %s: up %t, arp %t, %s, mtu %d, alias %q, port of %d", l.Type(), a.Name, a.Flags&net.FlagUp != 0,
			a.RawFlags&unix.IFF_NOARP == 0, a.HardwareAddr, a.MTU, a.Alias, a.MasterIndex)
		add("%s: ipv6 off %s, forwards %s", a.Name, read("net/ipv6/conf/"+a.Name+"/disable_ipv6"), read("net/ipv4/conf/"+a.Name+"/forwarding"))
		addrs, _ := netlink.AddrList(l, netlink.FAMILY_V4)
		for _, a := range addrs {
			add("%s: address %s, flags %x", names[a.LinkIndex], a.IPNet, a.Flags)
		}
		neighbours, _ := netlink.NeighList(a.Index, netlink.FAMILY_V4)
		for _, n := range neighbours {
			if n.State == netlink.NUD_PERMANENT {
				add("%s: neighbour %s %s", a.Name, n.IP, n.HardwareAddr)
			}
		}
	}
	routes, _ := netlink.RouteList(nil, netlink.FAMILY_V4)
	for _, r := range routes {
		if names[r.LinkIndex] != "" || r.Type == unix.RTN_UNREACHABLE {
			add("route %s, type %d, scope %d, through %q by %s from %s", r.Dst, r.Type, r.Scope, names[r.LinkIndex], r.Gw, r.Src)
		}
	}
	return lines
}

// tableState describes the nft table, but for what counts packets.
func tableState(t *testing.T) (lines []string) {
	t.Helper()
	c, err := nftables.New()
	must(t, err)
	tables, err := c.ListTablesOfFamily(nftables.TableFamilyINet)
	must(t, err)
	for _, table := range tables {
		if table.Name != mendTable {
			continue
		}
		lines = append(lines, fmt.Sprintf("table, flags %d", table.Flags))
		chains, err := c.ListChainsOfTableFamily(nftables.TableFamilyINet)
		must(t, err)
		for _, ch := range chains {
			rules, err := c.GetRules(table, ch)
			if err != nil { // it is just being replaced
				continue
			}
			for i, r := range rules {
				line := fmt.Sprintf("chain %s rule %d:", ch.Name, i)
				for _, e := range r.Exprs {
					switch e := e.(type) {
					case *expr.Counter:
					case *expr.Dynset: // what it holds would be told as a pointer
						line += " limit of " + e.SetName
					default:
						line += fmt.Sprintf(" %T%+v", e, reflect.ValueOf(e).Elem())
					}
				}
				lines = append(lines, line)
			}
		}
		for _, name := range []string{"bound", "internet", "public", "pairs"} {
			s, err := c.GetSetByName(table, name)
			if err != nil {
				continue
			}
			elements, err := c.GetSetElements(s)
			if err != nil {
				continue
			}
			for _, e := range elements {
				lines = append(lines, fmt.Sprintf("set %s: %x", name, e.Key))
			}
		}
	}
	return lines
}
