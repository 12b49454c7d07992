package hostnet_test

import (
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/hostnet"
	"github.com/dspool/dspool/internal/provider"
)

func TestDNS(t *testing.T) {
	if !inWorld(t) {
		return
	}
	up := nameServerAt(t, "127.0.0.2:53", "192.0.2.80")
	setResolvConf(t, "127.0.0.2")
	uplink(t, 1500)
	hostnet.HurryDNS()
	n := open(t, "0a0b0c0d")
	a, b, c := machine(t, n, "m-1", provider.Nowhere), machine(t, n, "m-2", provider.Nowhere), machine(t, n, "m-3", provider.Everywhere)
	must(t, n.Allow("m-1", "m-2"))
	server := at(n.Nameserver(), 53)

	t.Run("a machine resolves itself and its peers, forwards and backwards, over udp and tcp", func(t *testing.T) {
		for _, network := range []string{"udp", "tcp"} {
			for _, name := range []string{"m-1.", "m-1.dspool.internal.", "M-1.DSPool.Internal."} {
				a.wantA(t, network, server, name, a.addr)
				b.wantA(t, network, server, name, a.addr)
			}
			r := a.ask(t, network, server, reverse(b.addr), dns.TypePTR)
			if len(r.Answer) != 1 || r.Answer[0].(*dns.PTR).Ptr != "m-2.dspool.internal." {
				t.Errorf("%v", r)
			}
		}
	})
	t.Run("a machine learns nothing of others", func(t *testing.T) {
		for _, name := range []string{"m-3.", "m-3.dspool.internal.", "nobody.", "nobody.dspool.internal.", "x.m-1.dspool.internal."} {
			a.wantRcode(t, server, name, dns.TypeA, dns.RcodeNameError)
		}
		a.wantRcode(t, server, reverse(c.addr), dns.TypePTR, dns.RcodeNameError)
		c.wantRcode(t, server, reverse(a.addr), dns.TypePTR, dns.RcodeNameError)
		c.wantRcode(t, server, "m-1.", dns.TypeA, dns.RcodeNameError)
		if up.asked() != 0 {
			t.Errorf("internal names left the host: %d questions", up.asked())
		}
	})
	doors := []string{"api.dspool.internal.", "hub.dspool.internal.", "proxy.dspool.internal.", "Hub.DSPool.internal.",
		"1.app.dspool.internal.", "9007199254740993.app.dspool.internal."}
	t.Run("every machine resolves the names of its door, also without internet", func(t *testing.T) {
		for _, m := range []*space{a, c} {
			for _, name := range doors {
				m.wantA(t, "udp", server, name, n.Gateway())
				m.wantRcode(t, server, name, dns.TypeAAAA, dns.RcodeSuccess)
			}
		}
		for _, name := range []string{"0.app.dspool.internal.", "01.app.dspool.internal.", "x.app.dspool.internal.", "-1.app.dspool.internal.",
			"1.1.app.dspool.internal.", "99999999999999999999.app.dspool.internal.", "1.hub.dspool.internal.", "hub."} {
			c.wantRcode(t, server, name, dns.TypeA, dns.RcodeNameError)
		}
		a.wantRcode(t, server, "app.dspool.internal.", dns.TypeA, dns.RcodeSuccess)
	})
	t.Run("no machine takes a name of the door", func(t *testing.T) {
		for _, name := range []string{"api", "hub", "proxy", "app"} {
			if _, err := n.Plug(t.Context(), name, a.pid, provider.Nowhere); dspool.ErrorCode(err) != dspool.Invalid {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
	t.Run("a network without a door has no names for it", func(t *testing.T) {
		bare, err := hostnet.Open(t.Context(), hostnet.Options{Installation: "0a0b0c0e", StateDir: t.TempDir(), AgentPort: agentPort})
		must(t, err)
		defer bare.Close()
		m := machine(t, bare, "m-1", provider.Nowhere)
		for _, name := range append(doors, "app.dspool.internal.") {
			m.wantRcode(t, at(bare.Nameserver(), 53), name, dns.TypeA, dns.RcodeNameError)
		}
		serveHost(t, at(bare.Gateway(), doorPort))
		m.mustNotReach(at(bare.Gateway(), doorPort))
	})
	t.Run("a name without addresses of that kind is empty, not missing", func(t *testing.T) {
		a.wantRcode(t, server, "m-1.", dns.TypeAAAA, dns.RcodeSuccess)
		a.wantRcode(t, server, "dspool.internal.", dns.TypeSOA, dns.RcodeSuccess)
	})
	t.Run("only a machine with internet gets other names", func(t *testing.T) {
		for _, network := range []string{"udp", "tcp"} {
			c.wantA(t, network, server, "example.org.", netip.MustParseAddr("192.0.2.80"))
		}
		asked := up.asked()
		a.wantRcode(t, server, "example.org.", dns.TypeA, dns.RcodeNameError)
		if up.asked() != asked {
			t.Error("the name left the host")
		}
	})
	t.Run("questions over udp take no place in the host's table of connections", func(t *testing.T) {
		flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, netlink.InetFamily(netlink.FAMILY_V4))
		must(t, err)
		for _, f := range flows {
			if f.Forward.Protocol == unix.IPPROTO_UDP && (f.Forward.SrcPort == 53 || f.Forward.DstPort == 53) &&
				(f.Forward.SrcIP.String() == n.Nameserver().String() || f.Forward.DstIP.String() == n.Nameserver().String()) {
				t.Errorf("%v", f)
			}
		}
	})
	t.Run("transfers, other classes and other senders are refused", func(t *testing.T) {
		c.wantRcode(t, server, "example.org.", dns.TypeAXFR, dns.RcodeRefused)
		c.wantRcode(t, server, "example.org.", dns.TypeANY, dns.RcodeRefused)
		m := new(dns.Msg).SetQuestion("version.bind.", dns.TypeTXT)
		m.Question[0].Qclass = dns.ClassCHAOS
		if r := c.send(t, "udp", server, m); r.Rcode != dns.RcodeRefused {
			t.Errorf("%v", r)
		}
		r, err := dns.Exchange(new(dns.Msg).SetQuestion("m-1.", dns.TypeA), server)
		if err != nil || r.Rcode != dns.RcodeRefused {
			t.Errorf("the host itself: %v, %v", r, err)
		}
	})
	t.Run("an answer too long for udp comes over tcp", func(t *testing.T) {
		if r := c.ask(t, "udp", server, "long.example.org.", dns.TypeTXT); !r.Truncated {
			t.Errorf("not truncated: %v", r)
		}
		if r := c.ask(t, "tcp", server, "long.example.org.", dns.TypeTXT); len(r.Answer) != longAnswer {
			t.Errorf("%d records", len(r.Answer))
		}
	})
	t.Run("the servers of a changed resolv.conf are asked", func(t *testing.T) {
		nameServerAt(t, "127.0.0.3:53", "192.0.2.81")
		setResolvConf(t, n.Nameserver().String(), "127.0.0.3") // asking ourselves would be a loop
		want := netip.MustParseAddr("192.0.2.81")
		waitFor(t, "the new server's answer", func() bool {
			r := c.ask(t, "udp", server, "example.org.", dns.TypeA)
			return len(r.Answer) == 1 && r.Answer[0].(*dns.A).A.Equal(want.AsSlice())
		})
	})
	t.Run("a server that is silent is passed over", func(t *testing.T) {
		silent := silentAt(t, "127.0.0.4:53")
		setResolvConf(t, "127.0.0.4", "127.0.0.2")
		waitFor(t, "an answer in spite of the silent server", func() bool {
			r := c.ask(t, "udp", server, "example.org.", dns.TypeA)
			select {
			case <-silent:
				return len(r.Answer) == 1 && r.Answer[0].(*dns.A).A.String() == "192.0.2.80"
			default:
				return false
			}
		})
	})
	t.Run("without a server that answers, SERVFAIL comes soon, and then at once", func(t *testing.T) {
		silentAt(t, "127.0.0.5:53")
		setResolvConf(t, "127.0.0.5")
		waitFor(t, "SERVFAIL", func() bool {
			return c.ask(t, "udp", server, "example.org.", dns.TypeA).Rcode == dns.RcodeServerFailure
		})
		begin := time.Now()
		c.wantRcode(t, server, "example.org.", dns.TypeA, dns.RcodeServerFailure)
		if took := time.Since(begin); took > atOnce {
			t.Errorf("it took %s", took)
		}
		a.wantA(t, "udp", server, "m-1.", a.addr)
	})
	t.Run("one machine's flood leaves others their answers", func(t *testing.T) {
		silentAt(t, "127.0.0.6:53")
		setResolvConf(t, "127.0.0.6")
		waitFor(t, "the silent server", func() bool { // no rest is in force: the next question waits
			begin := time.Now()
			c.ask(t, "udp", server, "example.org.", dns.TypeA)
			return time.Since(begin) > atOnce
		})
		var flood sync.WaitGroup
		for i := range 200 {
			flood.Go(func() {
				m := new(dns.Msg).SetQuestion(fmt.Sprintf("flood-%d.example.org.", i), dns.TypeA)
				var conn net.Conn
				c.do(func() { conn, _ = net.Dial("udp4", server) })
				defer conn.Close()
				(&dns.Conn{Conn: conn}).WriteMsg(m)
			})
		}
		flood.Wait()
		a.wantA(t, "udp", server, "m-2.", b.addr)
	})
	t.Run("Close does not wait for machines that hold connections", func(t *testing.T) {
		var idle net.Conn
		c.do(func() { idle, _ = net.Dial("tcp4", server) })
		defer idle.Close()
		begin := time.Now()
		must(t, n.Close())
		if took := time.Since(begin); took > reachLimit {
			t.Errorf("it took %s", took)
		}
	})
}

func reverse(a netip.Addr) string {
	name, err := dns.ReverseAddr(a.String())
	if err != nil {
		panic(err)
	}
	return name
}

// send asks from within the space.
func (s *space) send(t *testing.T, network, server string, m *dns.Msg) *dns.Msg {
	t.Helper()
	var conn net.Conn
	var err error
	s.do(func() { conn, err = net.DialTimeout(network+"4", server, reachLimit) })
	must(t, err)
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(2 * reachLimit))
	c := &dns.Conn{Conn: conn}
	must(t, c.WriteMsg(m))
	r, err := c.ReadMsg()
	must(t, err)
	if r.Id != m.Id {
		t.Fatalf("answer %d to question %d", r.Id, m.Id)
	}
	return r
}

func (s *space) ask(t *testing.T, network, server, name string, kind uint16) *dns.Msg {
	t.Helper()
	return s.send(t, network, server, new(dns.Msg).SetQuestion(name, kind))
}

func (s *space) wantA(t *testing.T, network, server, name string, want netip.Addr) {
	t.Helper()
	r := s.ask(t, network, server, name, dns.TypeA)
	if len(r.Answer) != 1 || !r.Answer[0].(*dns.A).A.Equal(want.AsSlice()) {
		t.Fatalf("%s over %s: want %s, got %v", name, network, want, r)
	}
}

func (s *space) wantRcode(t *testing.T, server, name string, kind uint16, rcode int) {
	t.Helper()
	r := s.ask(t, "udp", server, name, kind)
	if r.Rcode != rcode || len(r.Answer) > 0 {
		t.Errorf("%s: want %s and no records, got %v", name, dns.RcodeToString[rcode], r)
	}
}

const longAnswer = 40 // records

// nameServer is an upstream that gives every name one address.
type nameServer struct {
	mu    sync.Mutex
	count int
}

func (s *nameServer) asked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count
}

func nameServerAt(t *testing.T, address, answer string) *nameServer {
	t.Helper()
	s := &nameServer{}
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		s.mu.Lock()
		s.count++
		s.mu.Unlock()
		r := new(dns.Msg).SetReply(q)
		name := q.Question[0].Name
		header := dns.RR_Header{Name: name, Rrtype: q.Question[0].Qtype, Class: dns.ClassINET, Ttl: 1}
		if name == "long.example.org." {
			for i := range longAnswer {
				r.Answer = append(r.Answer, &dns.TXT{Hdr: header, Txt: []string{fmt.Sprintf("record number %d of a long answer", i)}})
			}
			if _, udp := w.RemoteAddr().(*net.UDPAddr); udp {
				r.Truncate(dns.MinMsgSize)
			}
		} else {
			r.Answer = append(r.Answer, &dns.A{Hdr: header, A: net.ParseIP(answer)})
		}
		w.WriteMsg(r)
	})
	packets, err := net.ListenPacket("udp4", address)
	must(t, err)
	streams, err := net.Listen("tcp4", address)
	must(t, err)
	for _, server := range []*dns.Server{{PacketConn: packets, Handler: handler}, {Listener: streams, Handler: handler}} {
		go server.ActivateAndServe()
	}
	t.Cleanup(func() { packets.Close(); streams.Close() })
	return s
}

// silentAt takes questions and gives no answer; the channel closes with the first.
func silentAt(t *testing.T, address string) <-chan struct{} {
	t.Helper()
	c, err := net.ListenPacket("udp4", address)
	must(t, err)
	t.Cleanup(func() { c.Close() })
	asked := make(chan struct{})
	go func() {
		b := make([]byte, 512)
		if _, _, err := c.ReadFrom(b); err == nil {
			close(asked)
		}
	}()
	return asked
}
