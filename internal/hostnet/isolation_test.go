package hostnet_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/dspool/dspool/internal/provider"
)

func TestMachinesAreIsolated(t *testing.T) {
	if !inWorld(t) {
		return
	}
	inet := uplink(t, 1500)
	n := open(t, "0a0b0c0d")
	a, b, c := machine(t, n, "batch-1", provider.Nowhere), machine(t, n, "batch-2", provider.Nowhere), machine(t, n, "batch-3", provider.Everywhere)
	gw := n.Gateway()
	serveHost(t, at(gw, agentPort))
	serveHost(t, at(gw, doorPort))
	serveHost(t, fmt.Sprintf(":%d", 9000)) // on every address of the host

	t.Run("a machine reaches no other machine", func(t *testing.T) {
		for _, from := range []*space{a, b, c} {
			for _, to := range []*space{a, b, c} {
				if from != to {
					from.mustNotReach(to.service())
				}
			}
		}
	})
	t.Run("the host reaches every machine", func(t *testing.T) {
		for _, m := range []*space{a, b, c} {
			s, err := dial(m.service())
			must(t, err)
			s.Close()
			if s.peer != gw.String() {
				t.Errorf("the machine sees the host as %s, want the gateway %s", s.peer, gw)
			}
		}
	})
	t.Run("a machine reaches agent port, door and DNS of the gateway and nothing else of the host", func(t *testing.T) {
		for _, m := range []*space{a, c} {
			for _, port := range []uint16{agentPort, doorPort} {
				if s := m.mustReach(at(gw, port)); s.peer != m.addr.String() {
					t.Errorf("the server at port %d sees the machine as %s, want %s", port, s.peer, m.addr)
				}
				m.mustNotReach(fmt.Sprintf("198.51.100.2:%d", port))
			}
			m.mustNotReach(at(gw, 9000))
			m.mustNotReach("198.51.100.2:9000")
		}
	})
	t.Run("a port that the host's DNAT gives away stays closed", func(t *testing.T) {
		drop := publish(t, 8080, inet.addr, 80) // as "docker run -p" does
		defer drop()
		c.mustNotReach(at(gw, 8080))
		c.mustNotReach("198.51.100.2:8080")
	})
	t.Run("an allowed pair talks both ways and nobody else does", func(t *testing.T) {
		must(t, n.Allow("batch-2", "batch-1"))
		must(t, n.Allow("batch-1", "batch-2"))
		if s := a.mustReach(b.service()); s.peer != a.addr.String() {
			t.Errorf("the peer sees %s, want %s", s.peer, a.addr)
		}
		open := b.mustReach(a.service())
		for _, m := range []*space{a, b} {
			m.mustNotReach(c.service())
			c.mustNotReach(m.service())
		}
		must(t, n.Disallow("batch-1", "batch-2"))
		must(t, n.Disallow("batch-1", "batch-2"))
		if err := open.echo(); err == nil {
			t.Error("a connection outlives Disallow")
		}
		a.mustNotReach(b.service())
	})
	t.Run("a pair needs two known machines", func(t *testing.T) {
		if n.Allow("batch-1", "nobody") == nil || n.Allow("batch-1", "batch-1") == nil {
			t.Error("accepted")
		}
	})
	t.Run("a forged source address is dropped, on the way to a peer and to the host", func(t *testing.T) {
		must(t, n.Allow("batch-2", "batch-3"))
		defer n.Disallow("batch-2", "batch-3")
		got := b.listenUDP(5000)
		before := dropped(t, "dspool_0a0b0c0d", "source_of_machine")
		a.sendUDP(c.addr, netip.AddrPortFrom(b.addr, 5000), "forged")
		a.sendUDP(netip.MustParseAddr("127.0.0.1"), netip.AddrPortFrom(gw, 53), "forged")
		a.sendUDP(gw, netip.AddrPortFrom(b.addr, 5000), "forged")
		c.sendUDP(c.addr, netip.AddrPortFrom(b.addr, 5000), "true")
		if msg := <-got; msg != "true" {
			t.Errorf("the peer received %q", msg)
		}
		if now := dropped(t, "dspool_0a0b0c0d", "source_of_machine"); now != before+3 {
			t.Errorf("%d packets dropped, want 3", now-before)
		}
	})
	t.Run("a packet that belongs to no connection does not get out past NAT", func(t *testing.T) {
		before := dropped(t, "dspool_0a0b0c0d", "local")
		p := datagram(c.addr, 4000, netip.AddrPortFrom(inet.addr, 80), "twelve bytes")
		p[9] = unix.IPPROTO_TCP
		p[20+12], p[20+13] = 5<<4, 0x03 // SYN and FIN at once
		c.sendRaw(inet.addr, p)
		if now := dropped(t, "dspool_0a0b0c0d", "local"); now != before+1 {
			t.Errorf("%d packets dropped, want 1", now-before)
		}
	})
	t.Run("a machine's address from elsewhere is dropped", func(t *testing.T) {
		before := dropped(t, "dspool_0a0b0c0d", "source")
		inet.sendUDP(a.addr, netip.MustParseAddrPort("198.51.100.2:9000"), "forged")
		if now := dropped(t, "dspool_0a0b0c0d", "source"); now != before+1 {
			t.Errorf("%d packets dropped, want 1", now-before)
		}
	})
	t.Run("another network that has a route reaches neither machines nor the gateway address", func(t *testing.T) {
		inet.mustNotReach(a.service())
		inet.mustNotReach(at(gw, agentPort))
	})
	t.Run("an address that no machine has is refused at once", func(t *testing.T) {
		free := gw.Next()
		for _, m := range []*space{a, b, c} {
			if m.addr == free {
				t.Skip("taken by chance")
			}
		}
		if _, err := dial(at(free, servicePort)); !errors.Is(err, unix.EHOSTUNREACH) {
			t.Errorf("from the host: %v", err)
		}
		if _, err := c.dial(at(free, servicePort)); !errors.Is(err, unix.EHOSTUNREACH) {
			t.Errorf("from a machine: %v", err)
		}
	})
	t.Run("a machine has no IPv6 beyond itself", func(t *testing.T) {
		a.do(func() {
			l, err := netlink.LinkByName("eth0")
			must(t, err)
			addrs, err := netlink.AddrList(l, netlink.FAMILY_V6)
			must(t, err)
			if len(addrs) > 0 {
				t.Errorf("addresses %v", addrs)
			}
		})
	})
	t.Run("unplugged, a machine is cut off and its name free", func(t *testing.T) {
		must(t, n.Unplug(t.Context(), "batch-1"))
		must(t, n.Unplug(t.Context(), "batch-1"))
		if _, ok := n.Address("batch-1"); ok {
			t.Error("it still has an address")
		}
		if _, err := dial(a.service()); err == nil {
			t.Error("the host still reaches it")
		}
	})
}

func TestConnectionsOfOneMachineAreLimited(t *testing.T) {
	if !inWorld(t) {
		return
	}
	inet := uplink(t, 1500)
	n := open(t, "0a0b0c0d")
	greedy, modest := machine(t, n, "greedy", provider.Everywhere), machine(t, n, "modest", provider.Everywhere)
	var packets [][]byte
	for port := range uint16(10000) {
		packets = append(packets, datagram(greedy.addr, 1024+port, netip.AddrPortFrom(inet.addr, 9), "x"))
	}
	greedy.sendRaw(inet.addr, packets...)
	b, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_count")
	must(t, err)
	count, err := strconv.Atoi(strings.TrimSpace(string(b)))
	must(t, err)
	if count < 8000 || count > 8400 {
		t.Errorf("conntrack holds %d connections, want about 8192", count)
	}
	greedy.mustNotReach("198.51.100.1:80")
	modest.mustReach("198.51.100.1:80")
}

func TestTwoInstallationsLiveSideBySide(t *testing.T) {
	if !inWorld(t) {
		return
	}
	uplink(t, 1500)
	one, two := open(t, "11111111"), open(t, "22222222")
	a, b := machine(t, one, "lab-1", provider.Everywhere), machine(t, two, "lab-1", provider.Everywhere)
	for _, n := range []netip.Addr{one.Gateway(), two.Gateway()} {
		serveHost(t, at(n, agentPort))
	}

	t.Run("a machine reaches its own gateway and not the other's", func(t *testing.T) {
		a.mustReach(at(one.Gateway(), agentPort))
		b.mustReach(at(two.Gateway(), agentPort))
		a.mustNotReach(at(two.Gateway(), agentPort))
		b.mustNotReach(at(one.Gateway(), agentPort))
	})
	t.Run("a machine with internet reaches no machine of the other", func(t *testing.T) {
		a.mustNotReach(b.service())
		b.mustNotReach(a.service())
	})
	t.Run("removing one leaves nothing of it and the other as it was", func(t *testing.T) {
		live := b.mustReach(at(two.Gateway(), agentPort))
		must(t, one.Remove())
		if left := interfaces(t, "dsp11111111"); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
		for _, table := range tables(t) {
			if table == "dspool_11111111" {
				t.Error("its nft table is left behind")
			}
		}
		routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
		must(t, err)
		for _, r := range routes {
			if r.Dst != nil && r.Dst.Contains(one.Gateway().AsSlice()) && r.Dst.String() != "0.0.0.0/0" {
				t.Errorf("route left behind: %v", r)
			}
		}
		must(t, live.echo())
		b.mustReach(at(two.Gateway(), agentPort))
		if err := one.Remove(); err != nil {
			t.Errorf("a second Remove: %v", err)
		}
	})
}

func TestRulesComeBackWhenSomebodyFlushesThem(t *testing.T) {
	if !inWorld(t) {
		return
	}
	n := open(t, "0a0b0c0d")
	a, b, c := machine(t, n, "m-1", provider.Nowhere), machine(t, n, "m-2", provider.Nowhere), machine(t, n, "m-3", provider.Nowhere)
	must(t, n.Allow("m-1", "m-2"))
	for range 3 {
		conn, err := nftables.New()
		must(t, err)
		conn.FlushRuleset()
		must(t, conn.Flush())
		waitFor(t, "the table", func() bool { return len(tables(t)) == 1 })
		a.mustReach(b.service())
		a.mustNotReach(c.service())
	}
}

func TestBridgeComesBackWhenSomebodyRemovesIt(t *testing.T) {
	if !inWorld(t) {
		return
	}
	n := open(t, "0a0b0c0e")
	serveHost(t, at(n.Gateway(), agentPort))
	a := machine(t, n, "m-1", provider.Nowhere)
	bridge, err := netlink.LinkByName("dsp0a0b0c0e")
	must(t, err)
	for range 3 {
		must(t, netlink.LinkDel(bridge))
		waitFor(t, "the bridge with its address", func() bool {
			if bridge, err = netlink.LinkByName("dsp0a0b0c0e"); err != nil {
				return false
			}
			addrs, err := netlink.AddrList(bridge, netlink.FAMILY_V4)
			return err == nil && len(addrs) == 1 && addrs[0].IP.String() == n.Gateway().String()
		})
		waitFor(t, "the machine's route", func() bool {
			c, err := a.dial(at(n.Gateway(), agentPort))
			return err == nil && c.echo() == nil
		})
		machine(t, n, "m-2", provider.Nowhere).mustReach(at(n.Gateway(), agentPort))
		must(t, n.Unplug(t.Context(), "m-2"))
	}
}

// waitFor polls until ok; the limit names a failure, not a pace. failed say more of a failure.
func waitFor(t *testing.T, what string, ok func() bool, failed ...func()) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), reachLimit)
	defer cancel()
	for !ok() {
		select {
		case <-ctx.Done():
			for _, say := range failed {
				say()
			}
			t.Fatalf("%s did not come in %s", what, reachLimit)
		case <-time.After(time.Millisecond):
		}
	}
}

func tables(t *testing.T) []string {
	t.Helper()
	c, err := nftables.New()
	must(t, err)
	list, err := c.ListTables()
	must(t, err)
	var out []string
	for _, table := range list {
		out = append(out, table.Name)
	}
	return out
}

// publish makes every address of the host send a port to a machine.
func publish(t *testing.T, port uint16, to netip.Addr, toPort uint16) (drop func()) {
	t.Helper()
	c, err := nftables.New()
	must(t, err)
	table := c.AddTable(&nftables.Table{Name: "published", Family: nftables.TableFamilyIPv4})
	chain := c.AddChain(&nftables.Chain{Name: "pre", Table: table, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityNATDest})
	c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Register: 1, Op: expr.CmpOpEq, Data: binary.BigEndian.AppendUint16(nil, port)},
		&expr.Immediate{Register: 1, Data: to.AsSlice()},
		&expr.Immediate{Register: 2, Data: binary.BigEndian.AppendUint16(nil, toPort)},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1, RegProtoMin: 2},
	}})
	must(t, c.Flush())
	return func() {
		c.DelTable(table)
		must(t, c.Flush())
	}
}

// dropped sums the packets that rules of the chain counted.
func dropped(t *testing.T, table, chain string) (sum uint64) {
	t.Helper()
	c, err := nftables.New()
	must(t, err)
	inet := &nftables.Table{Name: table, Family: nftables.TableFamilyINet}
	rules, err := c.GetRules(inet, &nftables.Chain{Name: chain, Table: inet})
	must(t, err)
	for _, r := range rules {
		for _, e := range r.Exprs {
			if counter, ok := e.(*expr.Counter); ok {
				sum += counter.Packets
			}
		}
	}
	return sum
}

// listenUDP returns what comes to a port of the space.
func (s *space) listenUDP(port int) <-chan string {
	s.t.Helper()
	var c *net.UDPConn
	var err error
	s.do(func() { c, err = net.ListenUDP("udp4", &net.UDPAddr{Port: port}) })
	must(s.t, err)
	s.t.Cleanup(func() { c.Close() })
	out := make(chan string, 16)
	go func() {
		b := make([]byte, 1500)
		for {
			n, _, err := c.ReadFromUDP(b)
			if err != nil {
				close(out)
				return
			}
			out <- string(b[:n])
		}
	}()
	return out
}

// sendUDP sends one datagram with any source address.
func (s *space) sendUDP(from netip.Addr, to netip.AddrPort, text string) {
	s.t.Helper()
	s.sendRaw(to.Addr(), datagram(from, 4000, to, text))
}

// sendRaw sends whole IPv4 packets, whatever is in them.
func (s *space) sendRaw(to netip.Addr, packets ...[]byte) {
	s.t.Helper()
	s.do(func() {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW)
		must(s.t, err)
		defer unix.Close(fd)
		for _, p := range packets {
			must(s.t, unix.Sendto(fd, p, 0, &unix.SockaddrInet4{Addr: to.As4()}))
		}
	})
}

// datagram is an IPv4 packet with UDP in it.
func datagram(from netip.Addr, port uint16, to netip.AddrPort, text string) []byte {
	udp := binary.BigEndian.AppendUint16(nil, port)
	udp = binary.BigEndian.AppendUint16(udp, to.Port())
	udp = binary.BigEndian.AppendUint16(udp, uint16(8+len(text)))
	udp = append(udp, 0, 0) // no checksum
	udp = append(udp, text...)
	ip := []byte{0x45, 0, 0, 0, 0, 1, 0, 0, 64, unix.IPPROTO_UDP, 0, 0}
	binary.BigEndian.PutUint16(ip[2:], uint16(20+len(udp)))
	ip = append(ip, from.AsSlice()...)
	ip = append(ip, to.Addr().AsSlice()...)
	return append(ip, udp...)
}

// dropForwarded is what Docker does to a host.
func dropForwarded(t *testing.T) {
	t.Helper()
	c, err := nftables.New()
	must(t, err)
	policy := nftables.ChainPolicyDrop
	table := c.AddTable(&nftables.Table{Name: "filter", Family: nftables.TableFamilyIPv4})
	c.AddChain(&nftables.Chain{Name: "FORWARD", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter, Policy: &policy})
	must(t, c.Flush())
}
