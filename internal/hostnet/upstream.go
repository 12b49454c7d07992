package hostnet

import (
	"context"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// A server that failed this often in a row is left alone for a while, so that
// machines of a host without name servers get their SERVFAIL at once.
const failuresToRest = 2

// pace is how long the forwarder waits for what.
type pace struct {
	try  time.Duration // for one question to one server
	ask  time.Duration // for all tries; resolvers wait 5 s
	look time.Duration // between looks at the file
	rest time.Duration // until a server that failed is asked again
}

// usualPace changes only in tests.
var usualPace = pace{try: 1500 * time.Millisecond, ask: 4 * time.Second, look: time.Second, rest: 5 * time.Second}

// upstream is the host's name servers as resolv.conf names them.
type upstream struct {
	path    string
	gateway netip.Addr
	pace    pace

	mu      sync.Mutex
	looked  time.Time
	seen    os.FileInfo
	servers []*nameServer
}

// nameServer is one of them; upstream.mu guards it.
type nameServer struct {
	address  string
	failures int
	rest     time.Time
}

func newUpstream(path string, gateway netip.Addr) *upstream {
	return &upstream{path: path, gateway: gateway, pace: usualPace}
}

type resolvFile struct{ servers []string }

// readResolvConf returns no servers when there is no file or it cannot be understood.
func readResolvConf(path string) resolvFile {
	c, err := dns.ClientConfigFromFile(path)
	if err != nil {
		return resolvFile{}
	}
	var f resolvFile
	for _, s := range c.Servers {
		f.servers = append(f.servers, net.JoinHostPort(s, c.Port))
	}
	return f
}

// current returns the servers that are worth asking now, in the file's order.
func (u *upstream) current(now time.Time) []*nameServer {
	u.mu.Lock()
	defer u.mu.Unlock()
	if now.Sub(u.looked) >= u.pace.look {
		u.looked = now
		info, err := os.Stat(u.path)
		if err != nil {
			u.seen, u.servers = nil, nil
		} else if u.seen == nil || !os.SameFile(info, u.seen) || info.ModTime() != u.seen.ModTime() || info.Size() != u.seen.Size() {
			u.seen, u.servers = info, nil
			for _, address := range readResolvConf(u.path).servers {
				// We ourselves would be a loop.
				if a, err := netip.ParseAddrPort(address); err == nil && a.Addr() == u.gateway {
					continue
				}
				u.servers = append(u.servers, &nameServer{address: address})
			}
		}
	}
	var out []*nameServer
	for _, s := range u.servers {
		if now.After(s.rest) {
			out = append(out, s)
		}
	}
	return out
}

func (u *upstream) note(s *nameServer, ok bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if ok {
		s.failures = 0
		return
	}
	if s.failures++; s.failures >= failuresToRest {
		s.rest = time.Now().Add(u.pace.rest)
	}
}

// ask returns the first answer of a server, or nil when none gives one in time.
func (u *upstream) ask(ctx context.Context, q *dns.Msg, stream bool) *dns.Msg {
	ctx, cancel := context.WithTimeout(ctx, u.pace.ask)
	defer cancel()
	id := q.Id
	defer func() { q.Id = id }()
	var refusal *dns.Msg // better than none, when nobody has an answer
	for range 2 {
		for _, s := range u.current(time.Now()) {
			q.Id = dns.Id()
			answer, err := exchange(ctx, q, s.address, stream, u.pace.try)
			if ctx.Err() != nil {
				return nil
			}
			u.note(s, err == nil)
			if err != nil {
				continue
			}
			answer.Id = id
			if answer.Rcode != dns.RcodeServerFailure && answer.Rcode != dns.RcodeRefused {
				return answer
			}
			refusal = answer
		}
		if refusal != nil {
			return refusal
		}
	}
	return nil
}

// exchange asks one server on a fresh socket, so that its port is a new secret
// each time, and takes only an answer to the question that was asked.
func exchange(ctx context.Context, q *dns.Msg, address string, stream bool, limit time.Duration) (*dns.Msg, error) {
	c := &dns.Client{Net: "udp", Timeout: limit, UDPSize: dns.MinMsgSize}
	if stream {
		c.Net = "tcp"
	}
	conn, err := c.DialContext(ctx, address)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	answer, _, err := c.ExchangeWithConnContext(ctx, q, conn)
	if err != nil {
		return nil, err
	}
	if !answer.Response || len(answer.Question) != 1 || !sameQuestion(answer.Question[0], q.Question[0]) {
		return nil, dns.ErrId
	}
	return answer, nil
}

func sameQuestion(a, b dns.Question) bool {
	return a.Qtype == b.Qtype && a.Qclass == b.Qclass && strings.EqualFold(a.Name, b.Name)
}
