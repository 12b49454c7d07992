package initd

import (
	"fmt"
	"io"
	"net"
	"os"
	"testing"

	"github.com/dspool/dspool/internal/agent/sockets"
)

// ask asks, as the gateway does, whose the connection is that question
// names.
func ask(t *testing.T, question string, list func() ([]sockets.Socket, error)) string {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		if c, err := l.Accept(); err == nil {
			answerOwner(c, list)
		}
	}()
	c, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprint(c, question)
	text, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestWhoseConnectionsAre(t *testing.T) {
	t.Parallel()
	const (
		head      = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
		adas      = "   0: 00000000:A10F 00000000:0000 0A 00000000:00000000 00:00000000 00000000 20001        0 1 1\n"
		bobs      = "   0: 00000000:A10F 00000000:0000 0A 00000000:00000000 00:00000000 00000000 20002        0 1 1\n"
		bobsOwn   = "   1: 0100007F:A10F 00000000:0000 0A 00000000:00000000 00:00000000 00000000 20002        0 1 1\n"
		takenAda  = "   2: 0100007F:A10F 0100007F:1F90 01 00000000:00000000 00:00000000 00000000 20001        0 1 1\n"
		takenBob  = "   2: 0100007F:A10F 0100007F:1F90 01 00000000:00000000 00:00000000 00000000 20002        0 1 1\n"
		waits     = "   2: 0100007F:A10F 0100007F:1F90 01 00000000:00000000 00:00000000 00000000     0        0 0 1\n"
		mapped    = "   3: 0000000000000000FFFF00000100007F:A10F 0000000000000000FFFF00000100007F:1F90 01 00000000:00000000 00:00000000 00000000 20001        0 1 1\n"
		elsewhere = "   4: 0100007F:A10F 0200007F:1F90 01 00000000:00000000 00:00000000 00000000 20001        0 1 1\n"
	)
	for _, c := range []struct {
		claim  string
		tables []string // as seen one after the other
		want   string
	}{
		{"of a process that has taken it", []string{adas + takenAda}, "USERID : OTHER : 20001"},
		{"of another, whoever listens now", []string{adas + takenBob}, "USERID : OTHER : 20002"},
		{"one over IPv6's sockets", []string{mapped}, "USERID : OTHER : 20001"},
		{"one that waits is of who listens", []string{adas + waits, adas + waits}, "USERID : OTHER : 20001"},
		{"one that waits is of who listens, though it be another", []string{bobs + waits, bobs + waits}, "USERID : OTHER : 20002"},
		{"one that another takes meanwhile is not", []string{adas + waits, adas + takenBob}, "ERROR : NO-USER"},
		{"one that is gone meanwhile is nobody's", []string{adas + waits, adas}, "ERROR : NO-USER"},
		{"one for which two listen is nobody's", []string{adas + bobsOwn + waits}, "ERROR : NO-USER"},
		{"one for which nobody listens is nobody's", []string{waits}, "ERROR : NO-USER"},
		{"one from elsewhere is another", []string{adas + elsewhere}, "ERROR : NO-USER"},
	} {
		t.Run(c.claim, func(t *testing.T) {
			t.Parallel()
			look := 0
			got := ask(t, "41231 , 8080\r\n", func() ([]sockets.Socket, error) {
				table := c.tables[min(look, len(c.tables)-1)]
				look++
				return sockets.Parse(head + table), nil
			})
			if want := "41231 , 8080 : " + c.want + "\r\n"; got != want {
				t.Errorf("%q, want %q", got, want)
			}
		})
	}
	for _, question := range []string{"\n", "1\n", "0,1\n", "1,65536\n", "-1,1\n", "a , b\r\n"} {
		if got := ask(t, question, sockets.List); got != "0 , 0 : ERROR : INVALID-PORT\r\n" {
			t.Errorf("%q: %q", question, got)
		}
	}
}

// What this kernel says of a connection before and after it is taken.
func TestWhoseConnectionsAreHere(t *testing.T) {
	t.Parallel()
	const uid = 20001
	if os.Geteuid() != 0 {
		t.Skip("NOT TESTED: giving sockets away needs root")
	}
	var plain net.ListenConfig
	plain.SetMultipathTCP(false) // whose other kind of socket is in the tables is not the one given away
	l, err := plain.Listen(t.Context(), "tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	give := func(c interface{ File() (*os.File, error) }) {
		t.Helper()
		f, err := c.File()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := f.Chown(uid, -1); err != nil {
			t.Skipf("NOT TESTED: this kernel gives no sockets away: %v", err)
		}
	}
	give(l.(*net.TCPListener))
	c, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	question := fmt.Sprintf("%d,%d\n", addrOf(c.RemoteAddr()).Port(), addrOf(c.LocalAddr()).Port())
	want := fmt.Sprintf("%d , %d : USERID : OTHER : %d\r\n", addrOf(c.RemoteAddr()).Port(), addrOf(c.LocalAddr()).Port(), uid)
	if got := ask(t, question, sockets.List); got != want {
		t.Errorf("while it waits: %q, want %q", got, want)
	}
	taken, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	give(taken.(*net.TCPConn))
	if got := ask(t, question, sockets.List); got != want {
		t.Errorf("when it is taken: %q, want %q", got, want)
	}
}
