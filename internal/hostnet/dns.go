package hostnet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/dspool/dspool"
)

// zone is where machines have names; their plain names work too.
const zone = "dspool.internal."

const (
	nameTTL           = 5   // seconds that an internal answer holds: pairs come and go
	maxQueries        = 512 // answered at once
	maxMachineQueries = 64  // of one machine, so that none starves the others
	maxMachineStreams = 16  // TCP connections of one machine
	dnsIdle           = 8 * time.Second
)

// dnsServer answers machines on the gateway's address: their own name, those of
// machines they are paired with and the machine door's from memory, everything else
// from the host's name servers, and that only for machines with internet.
type dnsServer struct {
	net      *Net
	upstream *upstream
	udp      *dns.Server
	tcp      *dns.Server
	ctx      context.Context // ends with close
	cancel   context.CancelFunc
	running  sync.WaitGroup

	mu      sync.Mutex
	total   int
	queries map[netip.Addr]int
}

// listenDNS binds the ports; nothing is answered before serve.
func listenDNS(gateway netip.Addr, resolvConf string, n *Net) (*dnsServer, error) {
	at := netip.AddrPortFrom(gateway, dnsPort)
	packets, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(at))
	if err != nil {
		return nil, dnsTaken(at, err)
	}
	streams, err := net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(at))
	if err != nil {
		packets.Close()
		return nil, dnsTaken(at, err)
	}
	s := &dnsServer{net: n, upstream: newUpstream(resolvConf, gateway), queries: map[netip.Addr]int{}}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	idle := func() time.Duration { return dnsIdle }
	s.udp = &dns.Server{PacketConn: packets, Handler: s, UDPSize: dns.DefaultMsgSize}
	s.tcp = &dns.Server{Listener: &perHostListener{Listener: streams, open: map[netip.Addr]int{}, conns: map[*countedConn]bool{}}, Handler: s, IdleTimeout: idle}
	return s, nil
}

func dnsTaken(at netip.AddrPort, err error) error {
	if errors.Is(err, unix.EADDRINUSE) {
		return dspool.Errorf(dspool.Conflict, "another program answers DNS on %s: %w", at, err).
			WithHint("end the other server of this state directory, or keep the host's own DNS server off this address (dnsmasq: bind-interfaces)")
	}
	return fmt.Errorf("listen for DNS: %w", err)
}

func (s *dnsServer) serve() {
	for _, server := range []*dns.Server{s.udp, s.tcp} {
		s.running.Go(func() {
			if err := server.ActivateAndServe(); err != nil && s.ctx.Err() == nil {
				slog.Error("DNS of machines ended", "error", err)
			}
		})
	}
}

// close frees the ports and ends what is being answered.
func (s *dnsServer) close() error {
	s.cancel()
	// Not Shutdown, which fails for a server that has not begun to serve. Closing
	// the sockets ends serving.
	err := errors.Join(ignoreClosed(s.udp.PacketConn.Close()), ignoreClosed(s.tcp.Listener.Close()))
	s.running.Wait()
	return err
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// ServeDNS answers one query.
func (s *dnsServer) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	from, err := netip.ParseAddrPort(w.RemoteAddr().String())
	if err != nil {
		return
	}
	who := from.Addr().Unmap()
	m, ok := s.net.asker(who)
	if !ok || len(q.Question) != 1 || q.Opcode != dns.OpcodeQuery || q.Response {
		s.reply(w, q, dns.RcodeRefused, nil)
		return
	}
	if !s.begin(who) {
		s.reply(w, q, dns.RcodeServerFailure, nil)
		return
	}
	defer s.end(who)
	question := q.Question[0]
	name := strings.ToLower(question.Name)
	switch {
	case question.Qclass != dns.ClassINET, question.Qtype == dns.TypeAXFR, question.Qtype == dns.TypeIXFR, question.Qtype == dns.TypeANY:
		s.reply(w, q, dns.RcodeRefused, nil)
	case s.net.internalName(name):
		rcode, answer := s.net.answer(m, name, question)
		s.reply(w, q, rcode, answer)
	case !m.internet:
		// Not refused: resolvers take that for a broken server and try again.
		s.reply(w, q, dns.RcodeNameError, nil)
	default:
		_, stream := w.RemoteAddr().(*net.TCPAddr)
		answer := s.upstream.ask(s.ctx, q, stream)
		if answer == nil {
			s.reply(w, q, dns.RcodeServerFailure, nil)
			return
		}
		answer.Compress = true
		if !stream { // packed anew, it may be longer than what came
			answer.Truncate(udpSize(q))
		}
		_ = w.WriteMsg(answer) // the machine may have gone; nobody else cares
	}
}

func (s *dnsServer) reply(w dns.ResponseWriter, q *dns.Msg, rcode int, answer []dns.RR) {
	r := new(dns.Msg).SetRcode(q, rcode)
	r.RecursionAvailable = true
	r.Answer = answer
	if q.IsEdns0() != nil {
		r.SetEdns0(dns.DefaultMsgSize, false)
	}
	_ = w.WriteMsg(r)
}

// udpSize is how much the asker takes in one datagram.
func udpSize(q *dns.Msg) int {
	if opt := q.IsEdns0(); opt != nil {
		return max(dns.MinMsgSize, int(opt.UDPSize()))
	}
	return dns.MinMsgSize
}

func (s *dnsServer) begin(who netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.total >= maxQueries || s.queries[who] >= maxMachineQueries {
		return false
	}
	s.total++
	s.queries[who]++
	return true
}

func (s *dnsServer) end(who netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.total--
	if s.queries[who]--; s.queries[who] == 0 {
		delete(s.queries, who)
	}
}

// asker is the machine that asks. The rules make its source address its identity.
type asker struct {
	machine  string
	internet bool
}

func (n *Net) asker(a netip.Addr) (asker, bool) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	name, ok := n.byAddr[a]
	return asker{name, n.machines[name].Internet}, ok
}

// internalName says whether the name is ours to answer: the zone, plain names
// (whatever they are, other servers need not know of them), and the subnet's
// addresses backwards.
func (n *Net) internalName(name string) bool {
	if dns.IsSubDomain(zone, name) || dns.CountLabel(name) == 1 {
		return true
	}
	a, ok := reversed(name)
	return ok && n.wire.subnet.Contains(a)
}

// answer knows the asker's own name, those of its peers and the machine door's. Any other
// machine's name does not exist, as far as the asker can tell.
func (n *Net) answer(m asker, name string, q dns.Question) (rcode int, answer []dns.RR) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	visible := func(machine string) bool {
		_, exists := n.machines[machine]
		return exists && (machine == m.machine || n.pairs[pairOf(machine, m.machine)])
	}
	header := dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: dns.ClassINET, Ttl: nameTTL}
	if a, ok := reversed(name); ok {
		machine := n.byAddr[a]
		if !visible(machine) {
			return dns.RcodeNameError, nil
		}
		if q.Qtype == dns.TypePTR {
			answer = append(answer, &dns.PTR{Hdr: header, Ptr: machine + "." + zone})
		}
		return dns.RcodeSuccess, answer
	}
	machine := strings.TrimSuffix(strings.TrimSuffix(name, zone), ".")
	switch {
	case name == zone:
	case n.doors && name == doorApps+"."+zone: // empty, not missing: there are names below it
	case n.doors && isDoor(strings.TrimSuffix(name, "."+zone)):
		if q.Qtype == dns.TypeA {
			answer = append(answer, &dns.A{Hdr: header, A: n.wire.gateway.AsSlice()})
		}
	case !visible(machine):
		return dns.RcodeNameError, nil
	case q.Qtype == dns.TypeA:
		answer = append(answer, &dns.A{Hdr: header, A: n.machines[machine].Address.AsSlice()})
	}
	return dns.RcodeSuccess, answer
}

// reversed reads "5.16.80.10.in-addr.arpa.".
func reversed(name string) (netip.Addr, bool) {
	digits, ok := strings.CutSuffix(name, ".in-addr.arpa.")
	if !ok {
		return netip.Addr{}, false
	}
	a, err := netip.ParseAddr(digits)
	if err != nil || !a.Is4() {
		return netip.Addr{}, false
	}
	b := a.As4()
	return netip.AddrFrom4([4]byte{b[3], b[2], b[1], b[0]}), true
}

// perHostListener lets no peer have more than maxMachineStreams connections, and
// closes them all when it is closed.
type perHostListener struct {
	net.Listener
	mu    sync.Mutex
	open  map[netip.Addr]int
	conns map[*countedConn]bool // nil once closed
}

// Accept closes connections beyond the limit at once.
func (l *perHostListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		peer, err := netip.ParseAddrPort(c.RemoteAddr().String())
		counted := &countedConn{Conn: c, listener: l, peer: peer.Addr()}
		if err != nil || !l.take(counted) {
			c.Close()
			continue
		}
		return counted, nil
	}
}

// Close ends accepting and every connection that was accepted.
func (l *perHostListener) Close() error {
	l.mu.Lock()
	conns := l.conns
	l.conns = nil
	l.mu.Unlock()
	for c := range conns {
		c.Conn.Close()
	}
	return l.Listener.Close()
}

func (l *perHostListener) take(c *countedConn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conns == nil || l.open[c.peer] >= maxMachineStreams {
		return false
	}
	l.open[c.peer]++
	l.conns[c] = true
	return true
}

func (l *perHostListener) give(c *countedConn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, c)
	if l.open[c.peer]--; l.open[c.peer] == 0 {
		delete(l.open, c.peer)
	}
}

type countedConn struct {
	net.Conn
	listener *perHostListener
	peer     netip.Addr
	once     sync.Once
}

// Close frees the place; it may be called twice.
func (c *countedConn) Close() error {
	c.once.Do(func() { c.listener.give(c) })
	return c.Conn.Close()
}
