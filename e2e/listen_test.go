package e2e_test

import (
	"net"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// listener is a service of the host that machines must not reach.
type listener struct {
	net.Listener
	connections atomic.Int64
}

func cmdListen(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 1, "listen NAME")
	l, err := net.Listen("tcp", "0.0.0.0:0")
	ts.Check(err)
	s := &listener{Listener: l}
	w := worldOf(ts)
	w.ports[args[0]] = s
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return // closed by cleanUp
			}
			s.connections.Add(1)
			conn.Close()
		}
	}()
	w.set(ts, args[0], strconv.Itoa(l.Addr().(*net.TCPAddr).Port))
	w.set(ts, "HOSTIP", hostAddress())
}

func cmdReached(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, len(args) == 1, "reached NAME")
	l := worldOf(ts).ports[args[0]]
	usage(ts, l != nil, "listen NAME, then reached NAME")
	// A connection is made before the listener hears of it.
	late := time.After(reachedWithin)
	for !neg && l.connections.Load() == 0 {
		select {
		case <-time.After(5 * time.Millisecond):
		case <-late:
			ts.Fatalf("no connection came to %s in %s", args[0], reachedWithin)
		}
	}
	if n := l.connections.Load(); neg && n > 0 {
		ts.Fatalf("%d connections came to %s", n, args[0])
	}
}

const reachedWithin = 10 * time.Second

// hostAddress is one of the host's own addresses outside of loopback, "" without one.
func hostAddress() string {
	addrs, _ := net.InterfaceAddrs()
	for _, a := range addrs {
		if ip, ok := a.(*net.IPNet); ok && ip.IP.To4() != nil && !ip.IP.IsLoopback() {
			return ip.IP.String()
		}
	}
	return ""
}
