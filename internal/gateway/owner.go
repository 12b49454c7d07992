package gateway

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"

	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/webdoor"
)

// upstream is where an app is reached.
func upstream(a api.AppTarget, port int) webdoor.Upstream {
	up := webdoor.Upstream{Network: "tcp", Address: a.Address}
	if a.UID > 0 {
		up.Check = func(ctx context.Context, c net.Conn) error { return ownedBy(ctx, c, a.UID, port) }
	}
	return up
}

// ownedBy asks the machine whose process has taken a connection, and refuses one that is not the user's.
// What the server knows of an app may be old: the app has ended, and another user of the machine, who would
// get cookies and tokens, listens on its port.
func ownedBy(ctx context.Context, c net.Conn, uid, port int) error {
	here, ok1 := c.LocalAddr().(*net.TCPAddr)
	there, ok2 := c.RemoteAddr().(*net.TCPAddr)
	if !ok1 || !ok2 {
		return fmt.Errorf("whose a connection by %s is cannot be asked", c.RemoteAddr().Network())
	}
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: here.IP}}
	q, err := d.DialContext(ctx, "tcp", net.JoinHostPort(there.IP.String(), strconv.Itoa(port)))
	if err != nil {
		return fmt.Errorf("ask the machine whose a connection is: %w", err)
	}
	defer q.Close()
	defer context.AfterFunc(ctx, func() { q.Close() })()
	if _, err := fmt.Fprintf(q, "%d , %d\r\n", there.Port, here.Port); err != nil {
		return fmt.Errorf("ask the machine whose a connection is: %w", err)
	}
	const mostAnswer = 200
	answer, err := bufio.NewReader(io.LimitReader(q, mostAnswer)).ReadString('\n')
	if err != nil {
		return fmt.Errorf("hear from the machine whose a connection is: %w", err)
	}
	want := fmt.Sprintf("%d , %d : USERID : OTHER : %d", there.Port, here.Port, uid)
	if answer = strings.TrimSpace(answer); answer != want {
		return fmt.Errorf("what listens there is not the user's: the machine says %.100q", answer)
	}
	return nil
}
