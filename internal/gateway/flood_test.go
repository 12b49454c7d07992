package gateway_test

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

func TestAttackHalfOpenHandshakes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.want(w.ssh("alice", "--", "true"), nil)
	var open []net.Conn
	defer func() {
		for _, c := range open {
			c.Close()
		}
	}()
	before := memory()
	for i := range 2000 {
		d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 1, byte(i >> 8), byte(i)}), 0))}
		c, err := d.Dial("tcp", w.door)
		ok(t, err)
		if i%2 == 1 { // half of them go a little further
			io.WriteString(c, "SSH-2.0-slow\r\n\x00\x00")
		}
		open = append(open, c)
		if i%400 == 399 {
			began := time.Now()
			w.want(w.ssh("alice", "--", "true"), nil)
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("with %d half-open handshakes a login took %s", i+1, took)
			}
		}
	}
	if grown := memory() - before; grown > 100<<20 {
		t.Errorf("memory grew by %d MiB", grown>>20)
	}
}

func memory() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

func TestAttackMuchBeforeLogin(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c, err := net.Dial("tcp", w.door)
	ok(t, err)
	defer c.Close()
	io.WriteString(c, "SSH-2.0-x\r\n")
	chunk := make([]byte, 32<<10)
	packet := binary.BigEndian.AppendUint32(nil, 32<<10-4)
	copy(chunk, packet)
	chunk[5] = 2 // SSH_MSG_IGNORE
	sent := 0
	for sent < 100<<20 {
		c.SetWriteDeadline(time.Now().Add(waitForIt))
		n, err := c.Write(chunk)
		sent += n
		if err != nil {
			break
		}
	}
	if sent > 20<<20 { // what the kernel buffers is not ours
		t.Fatalf("%d bytes were taken", sent)
	}
	w.want(w.ssh("alice", "--", "true"), nil)
}

func TestAttackSlowLogin(t *testing.T) {
	t.Parallel()
	w := newWorld(t, gatewayLimits(500*time.Millisecond))
	c, err := net.Dial("tcp", w.door)
	ok(t, err)
	defer c.Close()
	io.WriteString(c, "SSH-2.0-slow\r\n")
	c.SetReadDeadline(time.Now().Add(waitForIt))
	if _, err := io.Copy(io.Discard, c); err != nil && !strings.Contains(err.Error(), "reset") {
		t.Fatalf("it may stay: %v", err)
	}
}

// rejections is how many channels TestAttackManyRejectedChannels has rejected: what takes some ten seconds on
// two cores, or DSPOOL_TEST_CHANNELS=1000000.
func rejections(t *testing.T) int {
	n, err := strconv.Atoi(cmp.Or(os.Getenv("DSPOOL_TEST_CHANNELS"), "200000"))
	ok(t, err)
	if testing.Short() {
		n = min(n, 40_000)
	}
	return n
}

// A connection that has logged in asks for channel after channel that it cannot have, of kinds that the
// gateway itself refuses and of kinds that it passes to the machine.
func TestAttackManyRejectedChannels(t *testing.T) {
	w := newWorld(t)
	cl := w.login("alice")
	w.want(w.ssh("bob", "--", "true"), nil)
	w.eventually("the spares are ready", func() bool { return w.machine.logins() == 3 })
	goroutines, before := working(), memory()
	total := rejections(t)
	var asked atomic.Int64
	var wait sync.WaitGroup
	for range 100 {
		wait.Go(func() {
			for n := asked.Add(1); n <= int64(total); n = asked.Add(1) {
				kind := "tun@openssh.com"
				if n%4 == 0 {
					kind = "bogus"
				}
				if _, _, err := cl.OpenChannel(kind, nil); err == nil {
					t.Error("it was opened")
				} else if refused := (*ssh.OpenChannelError)(nil); !errors.As(err, &refused) {
					t.Errorf("the connection ended: %v", err)
					return
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { wait.Wait(); close(done) }()
	began := time.Now()
	var most int64
	var logins []time.Duration
	for flooding := true; flooding; {
		// Others come and go meanwhile, as bob does with the real client.
		start := time.Now()
		w.want(w.ssh("bob", "--", "true"), nil)
		logins = append(logins, time.Since(start))
		most = max(most, memory())
		select {
		case <-done:
			flooding = false
		default:
		}
	}
	took := time.Since(began)
	s, err := cl.NewSession()
	ok(t, err)
	out, err := s.Output("echo still here")
	if ok(t, err); string(out) != "still here\n" {
		t.Errorf("got %q", out)
	}
	// A prepared connection more or less is about ten; what a hundred askers left behind would be more.
	w.eventually("what served them is gone", func() bool { return working() < goroutines+50 })
	after := memory()
	if grown := after - before; grown > 20<<20 {
		t.Errorf("memory grew by %d KiB", grown>>10)
	}
	slices.Sort(logins)
	t.Logf("%d rejections in %s; memory of gateway and client: before %d KiB, at most %d KiB meanwhile, after %d KiB; %d logins of another user meanwhile, median %s, slowest %s",
		total, took.Round(time.Millisecond), before>>10, most>>10, after>>10, len(logins), logins[len(logins)/2].Round(time.Millisecond), logins[len(logins)-1].Round(time.Millisecond))
}

func TestAttackAfterLogin(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	cl := w.login("alice")
	w.want(w.ssh("bob", "--", "true"), nil)
	t.Run("open channels are bounded", func(t *testing.T) {
		l := echo(t, "tcp", "127.0.0.1:0")
		var p uint32
		_, port, _ := net.SplitHostPort(l.Addr().String())
		fmt.Sscan(port, &p)
		extra := ssh.Marshal(struct {
			Host string
			Port uint32
			From string
			FP   uint32
		}{"127.0.0.1", p, "127.0.0.1", 1})
		other := w.login("bob")
		refused := false
		for range 1100 {
			if _, _, err := other.OpenChannel("direct-tcpip", extra); err != nil {
				refused = strings.Contains(err.Error(), "too many") || strings.Contains(err.Error(), "connect failed")
				break
			}
		}
		if !refused {
			t.Error("a thousand channels and more are open")
		}
	})
	t.Run("unsolicited replies and strange requests harm nobody", func(t *testing.T) {
		for range 1000 {
			if _, _, err := cl.SendRequest("strange@example.com", false, []byte{1, 2, 3}); err != nil {
				t.Fatal(err)
			}
		}
		if good, _, err := cl.SendRequest("strange@example.com", true, nil); good || err != nil {
			t.Fatalf("%v %v", good, err)
		}
		if good, _, err := cl.SendRequest("hostkeys-prove-00@openssh.com", true, bytes.Repeat([]byte{255}, 1000)); good || err != nil {
			t.Fatalf("%v %v", good, err)
		}
		s, err := cl.NewSession()
		ok(t, err)
		defer s.Close()
		if good, err := s.SendRequest("pty-req", true, []byte{0, 0, 0}); good || err != nil {
			t.Fatalf("%v %v", good, err)
		}
		w.want(w.ssh("bob", "--", "true"), nil)
	})
}

func TestNothingIsLeftOfManyConnections(t *testing.T) {
	w := newWorld(t)
	w.want(w.ssh("alice", "--", "true"), nil)
	w.eventually("the spare is ready", func() bool { return w.machine.logins() == 1 })
	before := working()
	var wait sync.WaitGroup
	for i := range 30 {
		wait.Go(func() {
			cl, err := w.client("alice", ssh.PublicKeys(w.signers["alice"]))
			if err != nil {
				t.Error(err)
				return
			}
			defer cl.Close()
			s, err := cl.NewSession()
			if err != nil {
				t.Error(err)
				return
			}
			if i%3 == 0 {
				return // gone in the middle
			}
			s.Output("cat /etc/hostname; exit 1")
		})
	}
	wait.Wait()
	// A connection takes more than ten; the spare's own watcher may have come meanwhile.
	w.eventually("all that served them is gone", func() bool { return working() <= before+8 })
	w.eventually("only the spare is logged in", func() bool { return w.machine.logins() <= 1 })
}

// working counts the goroutines that serve connections; idle ones of the link to the server do not count.
func working() (n int) {
	buf := make([]byte, 8<<20)
	for stack := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		if strings.Contains(stack, "crypto/ssh.") || strings.Contains(stack, "internal/gateway.") {
			n++
		}
	}
	return n
}

// FuzzBeforeLogin throws bytes at a door; it must neither fall nor let anybody in.
func FuzzBeforeLogin(f *testing.F) {
	w := newWorld(f)
	f.Add([]byte("SSH-2.0-x\r\n"), false)
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"), false)
	f.Add(append([]byte("SSH-2.0-x\r\n"), kexInit("")...), true)
	f.Add(append([]byte("SSH-2.0-x\r\n\x00\x00\x88\xb9"), make([]byte, 100)...), true)
	f.Fuzz(func(t *testing.T, b []byte, hangUp bool) {
		c, err := net.Dial("tcp", w.door)
		ok(t, err)
		defer c.Close()
		c.Write(b)
		if hangUp {
			c.(*net.TCPConn).CloseWrite()
		}
		c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		io.Copy(io.Discard, c)
		w.server.change(func() {
			if len(w.server.opened) > 0 {
				t.Fatal("somebody came in")
			}
		})
	})
}

func kexInit(more string) []byte {
	lists := [10]string{"curve25519-sha256," + more, "ssh-ed25519", "aes128-gcm@openssh.com", "aes128-gcm@openssh.com", "hmac-sha2-256", "hmac-sha2-256", "none", "none", "", ""}
	p := append([]byte{20}, make([]byte, 16)...)
	rand.Read(p[1:])
	for _, l := range lists {
		p = append(binary.BigEndian.AppendUint32(p, uint32(len(l))), l...)
	}
	p = append(p, 0, 0, 0, 0, 0)
	padding := 8 - (len(p)+5)%8 + 8
	out := binary.BigEndian.AppendUint32(nil, uint32(len(p)+1+padding))
	return append(append(append(out, byte(padding)), p...), make([]byte, padding)...)
}
