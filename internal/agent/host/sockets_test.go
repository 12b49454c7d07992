package host

import (
	"net"
	"net/netip"
	"os"
	"testing"

	"github.com/dspool/dspool/internal/agent/sockets"
)

// As a kernel of x86-64 shows it.
const (
	table4 = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:A10F 00000000:0000 0A 00000000:00000000 00:00000000 00000000 20001        0 28221 1 0000000000000000 100 0 0 10 0
   1: 0100007F:A110 00000000:0000 0A 00000000:00000000 00:00000000 00000000 20001        0 28222 1 0000000000000000 100 0 0 10 0
   2: 0500500A:A110 00000000:0000 0A 00000000:00000000 00:00000000 00000000 20002        0 28223 1 0000000000000000 100 0 0 10 0
   3: 0500500A:A10F 0100500A:1F90 01 00000000:00000000 00:00000000 00000000 20002        0 28224 1 0000000000000000 100 0 0 10 0
   4: nonsense
`
	table6 = `  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000000000000000000000000000:A111 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000 20001        0 30001 1 0000000000000000 100 0 0 10 0
   1: 00000000000000000000000001000000:A10F 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000 20002        0 30002 1 0000000000000000 100 0 0 10 0
   2: 0000000000000000FFFF00000500500A:A112 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000 20001        0 30003 1 0000000000000000 100 0 0 10 0
`
)

func TestWhose(t *testing.T) {
	t.Parallel()
	byPort := groupByPort(append(sockets.Parse(table4), sockets.Parse(table6)...))
	byPort[1] = []listener{{netip.MustParseAddr("127.0.0.1"), 20001}}
	byPort[2] = []listener{{netip.MustParseAddr("::"), 20001}, {netip.MustParseAddr("0.0.0.0"), 20002}}
	byPort[3] = []listener{{netip.MustParseAddr("10.80.0.5"), 20001}, {netip.MustParseAddr("127.0.0.1"), 20002}}
	for _, c := range []struct {
		claim     string
		port, uid int
		want      owner
		dial      string
		other     int
	}{
		{"a port on all addresses is the user's, whoever has it on IPv6 loopback", 0xA10F, 20001, own, "127.0.0.1", 0},
		{"a port that another has on the machine's address is not", 0xA110, 20001, foreign, "", 20002},
		{"a port on all addresses of IPv6 is the user's", 0xA111, 20001, own, "127.0.0.1", 0},
		{"a port on one address is the user's", 0xA112, 20001, own, "10.80.0.5", 0},
		{"a port of another's is foreign", 0xA111, 20002, foreign, "", 20001},
		{"a port on loopback only is inside", 1, 20001, inside, "127.0.0.1", 0},
		{"an IPv6 port beside another's of IPv4 is foreign", 2, 20001, foreign, "", 20002},
		{"a port whose loopback is another's is foreign", 3, 20001, foreign, "", 20002},
		{"a port that nobody has is nobody's", 0xA113, 20001, nobody, "", 0},
	} {
		o, dial, other := whose(byPort[c.port], c.uid)
		if o != c.want || other != c.other || c.dial != "" && dial.String() != c.dial {
			t.Errorf("%s: %v, %v, %d", c.claim, o, dial, other)
		}
	}
}

func TestListenersOfThisMachine(t *testing.T) {
	t.Parallel()
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			continue // no IPv6
		}
		defer l.Close()
		at := l.Addr().(*net.TCPAddr).AddrPort()
		byPort, err := listeners()
		if err != nil {
			t.Fatal(err)
		}
		if got := byPort[int(at.Port())]; len(got) != 1 || got[0].addr != at.Addr() || got[0].uid != os.Getuid() {
			t.Errorf("%s: %+v", addr, got)
		}
	}
}
