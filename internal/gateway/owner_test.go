package gateway

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
)

func TestAConnectionThatAnotherTookIsRefused(t *testing.T) {
	t.Parallel()
	app, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer app.Close()
	c, err := net.Dial("tcp4", app.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	pair := fmt.Sprintf("%d , %d", c.RemoteAddr().(*net.TCPAddr).Port, c.LocalAddr().(*net.TCPAddr).Port)
	for _, x := range []struct {
		claim, answer string
		refused       bool
	}{
		{"the user's is taken", pair + " : USERID : OTHER : 20001\r\n", false},
		{"another's is refused", pair + " : USERID : OTHER : 20002\r\n", true},
		{"a longer number is another", pair + " : USERID : OTHER : 200011\r\n", true},
		{"nobody's is refused", pair + " : ERROR : NO-USER\r\n", true},
		{"an answer about another connection is none", "1 , 2 : USERID : OTHER : 20001\r\n", true},
		{"no answer is none", "", true},
		{"one without an end is none", strings.Repeat("x", 1<<16), true},
	} {
		t.Run(x.claim, func(t *testing.T) {
			machine, err := net.Listen("tcp4", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer machine.Close()
			asked := make(chan string, 1)
			go func() {
				q, err := machine.Accept()
				if err != nil {
					return
				}
				defer q.Close()
				line, _ := bufio.NewReader(q).ReadString('\n')
				asked <- line
				fmt.Fprint(q, x.answer)
			}()
			err = ownedBy(t.Context(), c, 20001, machine.Addr().(*net.TCPAddr).Port)
			if (err != nil) != x.refused {
				t.Error(err)
			}
			if line := <-asked; line != pair+"\r\n" {
				t.Errorf("it asks %q", line)
			}
		})
	}
	t.Run("a machine that does not answer is waited for as long as the request", func(t *testing.T) {
		machine, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer machine.Close()
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			if q, err := machine.Accept(); err == nil {
				defer q.Close()
				cancel()
				<-t.Context().Done()
			}
		}()
		if err := ownedBy(ctx, c, 20001, machine.Addr().(*net.TCPAddr).Port); err == nil {
			t.Error("taken")
		}
	})
}
