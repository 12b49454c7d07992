package e2e_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/crypto/ssh"
)

// knockTimeout is how long the door may take to answer one who knocks.
const knockTimeout = 15 * time.Second

const sshPort = "2222"

// cmdHalfOpen opens N connections to the door, from many loopback addresses, and never goes on with
// the handshake: a third says nothing, a third the version only, a third a byte now and then. They stay until the
// door or the script ends.
func cmdHalfOpen(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 1, "halfopen N")
	n, err := strconv.Atoi(args[0])
	ts.Check(err)
	door := net.JoinHostPort(ts.Getenv("DOOR"), sshPort)
	var mu sync.Mutex
	var open []net.Conn
	stop := make(chan struct{})
	ts.Defer(func() {
		close(stop)
		for _, c := range open {
			c.Close()
		}
	})
	var all sync.WaitGroup
	next := make(chan int)
	for range 50 {
		all.Go(func() {
			for i := range next {
				from := net.IPv4(127, 200, byte(i>>8), byte(i))
				d := net.Dialer{Timeout: knockTimeout, LocalAddr: &net.TCPAddr{IP: from}}
				c, err := d.Dial("tcp", door)
				if err != nil {
					continue // a door may refuse whom it does not want
				}
				mu.Lock()
				open = append(open, c)
				mu.Unlock()
				switch i % 3 {
				case 1:
					_, _ = io.WriteString(c, "SSH-2.0-slow\r\n")
				case 2:
					go dribble(c, stop)
				}
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	all.Wait()
	ts.Logf("%d of %d connections are open", len(open), n)
	if len(open) < n/2 {
		ts.Fatalf("only %d of %d connections came through", len(open), n)
	}
}

// dribble sends a version line a byte at a time, and then a packet that never ends.
func dribble(c net.Conn, stop <-chan struct{}) {
	text := "SSH-2.0-dribble\r\n\x00\x00\x80\x00\x04\x14" + strings.Repeat("x", 1<<10)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for i := range len(text) {
		if _, err := c.Write([]byte{text[i]}); err != nil {
			return
		}
		select {
		case <-tick.C:
		case <-stop:
			return
		}
	}
}

// cmdKnock logs in at the door with a user name that OpenSSH's client would not send, in Go's escapes,
// and the key of FILE. "NAME*N" repeats the name N times.
func cmdKnock(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, len(args) == 2, "knock NAME KEYFILE")
	name := args[0]
	if text, times, ok := strings.Cut(name, "*"); ok {
		n, err := strconv.Atoi(times)
		ts.Check(err)
		name = strings.Repeat(text, n)
	} else {
		var err error
		name, err = strconv.Unquote(`"` + name + `"`)
		ts.Check(err)
	}
	key, err := os.ReadFile(ts.MkAbs(args[1]))
	ts.Check(err)
	signer, err := ssh.ParsePrivateKey(key)
	ts.Check(err)
	c, err := ssh.Dial("tcp", net.JoinHostPort(ts.Getenv("DOOR"), sshPort), &ssh.ClientConfig{
		User: name, Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)}, Timeout: knockTimeout,
		HostKeyCallback: ssh.InsecureIgnoreHostKey(), // whom it trusts is not what is looked at
	})
	if err == nil {
		c.Close()
	}
	if (err != nil) != neg {
		ts.Fatalf("knocking as %.40q: %v", name, err)
	}
}

// cmdSay sends bytes, in Go's escapes, to the door and prints what it answers until it hangs up.
func cmdSay(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 1, "say TEXT")
	text, err := strconv.Unquote(`"` + args[0] + `"`)
	ts.Check(err)
	c, err := net.DialTimeout("tcp", net.JoinHostPort(ts.Getenv("DOOR"), sshPort), knockTimeout)
	ts.Check(err)
	defer c.Close()
	ts.Check(c.SetDeadline(time.Now().Add(knockTimeout)))
	_, _ = io.WriteString(c, text) // the door may hang up in the middle of it
	answer, err := io.ReadAll(io.LimitReader(c, 1<<20))
	ts.Stdout().Write(answer)
	if timeout, ok := err.(net.Error); ok && timeout.Timeout() {
		ts.Fatalf("the door did not hang up within %s", knockTimeout)
	}
}

var residentLine = regexp.MustCompile(`VmRSS:\s+(\d+) kB`)

// cmdResident wants the process of the gateway to hold at most so many MiB.
func cmdResident(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 1, "resident MIB")
	most, err := strconv.Atoi(args[0])
	ts.Check(err)
	for _, pid := range processes() {
		cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if !bytes.Contains(cmdline, []byte("\x00gateway\x00--state-dir\x00"+filepath.Join(worldOf(ts).work, "main")+"\x00")) {
			continue
		}
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		ts.Check(err)
		m := residentLine.FindSubmatch(status)
		if m == nil {
			ts.Fatalf("the kernel does not say what the gateway holds:\n%s", status)
		}
		kib, err := strconv.Atoi(string(m[1]))
		ts.Check(err)
		ts.Logf("the gateway holds %d MiB", kib>>10)
		if kib>>10 > most {
			ts.Fatalf("the gateway holds %d MiB, over %d", kib>>10, most)
		}
		return
	}
	ts.Fatalf("there is no gateway")
}
