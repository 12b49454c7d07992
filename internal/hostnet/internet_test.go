package hostnet_test

import (
	"net/netip"
	"os"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/dspool/dspool/internal/provider"
)

func TestInternet(t *testing.T) {
	if !inWorld(t) {
		return
	}
	services := []string{"169.254.169.254", "169.254.169.253", "169.254.170.2", "169.254.170.23", "169.254.0.23", "169.254.42.42",
		"168.63.129.16", "100.100.100.200", "192.0.0.192"}
	near := []string{"168.63.129.17", "100.100.100.100", "192.0.0.193"}
	inet := uplink(t, 1380, slices.Concat(services, near)...)
	n := open(t, "0a0b0c0d")
	with, without := machine(t, n, "with", provider.Everywhere), machine(t, n, "without", provider.Nowhere)

	t.Run("only a machine with internet gets out, behind the host's address", func(t *testing.T) {
		if s := with.mustReach("198.51.100.1:80"); s.peer != "198.51.100.2" {
			t.Errorf("seen as %s", s.peer)
		}
		without.mustNotReach("198.51.100.1:80")
	})
	t.Run("nobody reaches a metadata service", func(t *testing.T) {
		for _, a := range services {
			c, err := dial(a + ":80")
			if err != nil {
				t.Fatalf("%s does not serve: %v", a, err)
			}
			c.Close()
			with.mustNotReach(a + ":80")
			without.mustNotReach(a + ":80")
		}
	})
	t.Run("the addresses beside are only addresses", func(t *testing.T) {
		for _, a := range near {
			with.mustReach(a + ":80")
		}
	})
	t.Run("nobody reaches a metadata service that the host's DNAT leads elsewhere, or leads to", func(t *testing.T) {
		drop := publish(t, 80, inet.addr, 80) // every packet for port 80, so also the service's
		with.mustNotReach("169.254.169.254:80")
		drop()
		drop = publish(t, 8080, netip.MustParseAddr("168.63.129.16"), 80)
		defer drop()
		with.mustNotReach("198.51.100.1:8080")
	})
	t.Run("nothing of IPv6 gets past the rules, should somebody give it to the host's end", func(t *testing.T) {
		must(t, os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("1"), 0))
		services := []string{"fe80::a9fe:a9fe", "fd00:ec2::254", "fd20:ce::254", "fd00:c1::a9fe:a9fe", "fd00:42::42", "64:ff9b::a9fe:a9fe", "::ffff:169.254.169.254"}
		veth := interfaces(t, "dsp0a0b0c0d")
		waitFor(t, "the drop of every packet", func() bool { // it may be taken from the host's end at any time
			for _, name := range veth {
				must(t, os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte("0"), 0))
			}
			before := dropped(t, "dspool_0a0b0c0d", "source_of_machine")
			with.sendIPv6(services...)
			return dropped(t, "dspool_0a0b0c0d", "source_of_machine") == before+uint64(len(services))
		})
	})
	t.Run("a machine's MTU is that of the default route", func(t *testing.T) {
		with.do(func() {
			l, err := netlink.LinkByName("eth0")
			must(t, err)
			if l.Attrs().MTU != 1380 {
				t.Errorf("MTU %d", l.Attrs().MTU)
			}
		})
	})
	t.Run("internet can be given and taken by plugging again", func(t *testing.T) {
		for _, reach := range []provider.Reach{provider.Everywhere, provider.Nowhere} {
			addr, err := n.Plug(t.Context(), "without", without.pid, reach)
			must(t, err)
			if addr != without.addr {
				t.Fatalf("address changed to %s", addr)
			}
			if reach == provider.Everywhere {
				without.mustReach("198.51.100.1:80")
			} else {
				without.mustNotReach("198.51.100.1:80")
			}
		}
	})
}

func TestPublicOnly(t *testing.T) {
	if !inWorld(t) {
		return
	}
	private := []string{"10.1.2.3", "172.16.9.9", "172.31.255.254", "192.168.0.1", "100.64.0.1", "100.127.255.254", "192.0.0.9", "198.18.0.1"}
	public := []string{"11.0.0.1", "172.32.0.1", "192.169.0.1", "100.128.0.1", "8.8.8.8"}
	uplink(t, 1500, slices.Concat(private, public)...)
	n := open(t, "0a0b0c0d")
	m, wide := machine(t, n, "narrow", provider.Public), machine(t, n, "wide", provider.Everywhere)
	must(t, n.Allow("narrow", "wide"))
	serveHost(t, at(n.Gateway(), agentPort))
	check := func() {
		t.Helper()
		for _, a := range private {
			m.mustNotReach(a + ":80")
			wide.mustReach(a + ":80")
		}
		for _, a := range public {
			m.mustReach(a + ":80")
			wide.mustReach(a + ":80")
		}
	}

	t.Run("a machine reaches public addresses and no private ones", func(*testing.T) { check() })
	t.Run("it reaches its server and its peers, whose addresses are private", func(t *testing.T) {
		m.mustReach(at(n.Gateway(), agentPort))
		m.mustReach(wide.service())
	})
	t.Run("private networks can be given and taken by plugging again", func(t *testing.T) {
		for _, reach := range []provider.Reach{provider.Everywhere, provider.Public} {
			_, err := n.Plug(t.Context(), "narrow", m.pid, reach)
			must(t, err)
			if reach == provider.Everywhere {
				m.mustReach("10.1.2.3:80")
			}
		}
		check()
	})
	t.Run("the next server remembers it", func(t *testing.T) {
		must(t, n.Close())
		n = open(t, "0a0b0c0d")
		check()
	})
}

// sendIPv6 sends a packet to each address as a machine could that has its eth0 under control.
func (s *space) sendIPv6(to ...string) {
	s.t.Helper()
	s.do(func() {
		nic, err := netlink.LinkByName("eth0")
		must(s.t, err)
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM, 0)
		must(s.t, err)
		defer unix.Close(fd)
		gateway, err := netlink.NeighList(nic.Attrs().Index, netlink.FAMILY_V4)
		must(s.t, err)
		there := &unix.SockaddrLinklayer{Protocol: 0xdd86, Ifindex: nic.Attrs().Index, Halen: 6}
		copy(there.Addr[:], gateway[0].HardwareAddr)
		for _, a := range to {
			p := []byte{0x60, 0, 0, 0, 0, 8, unix.IPPROTO_UDP, 64}
			from, dst := netip.MustParseAddr("fd00::1").As16(), netip.MustParseAddr(a).As16()
			p = append(append(append(p, from[:]...), dst[:]...), 0x10, 0, 0, 80, 0, 8, 0, 0)
			must(s.t, unix.Sendto(fd, p, 0, there))
		}
	})
}
