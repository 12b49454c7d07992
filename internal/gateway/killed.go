package gateway

import (
	"context"
	"fmt"
	"net"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
)

const (
	killedStatus = 128 + 9
	killedAsk    = 3 * time.Second // the server answers sooner
	aliveAsk     = time.Second     // for the greeting of a machine's sshd
)

// wasKilled says whether an exit request tells of SIGKILL.
func wasKilled(req *ssh.Request) bool {
	var code struct{ Status uint32 }
	var signal struct {
		Name string
		Rest []byte `ssh:"rest"`
	}
	switch req.Type {
	case "exit-status":
		return ssh.Unmarshal(req.Payload, &code) == nil && code.Status == killedStatus
	case "exit-signal":
		return ssh.Unmarshal(req.Payload, &signal) == nil && signal.Name == "KILL"
	}
	return false
}

// killed asks the server whether the kernel has just killed something of the session for memory; the
// machine itself says on a connection only that it was killed.
func (c *conn) killed() dspool.Reason {
	ctx, cancel := context.WithTimeout(c.ctx, killedAsk)
	defer cancel()
	a, err := c.g.server.Killed(ctx, api.Killed{Session: c.session.Load()})
	if err != nil && c.ctx.Err() == nil {
		c.g.Log.Warn("ask why something was killed", "connection", c.id, "err", err)
	}
	return a.Reason
}

// lost says why the machine's end of the connection is gone: with the machine, or only this login.
func (c *conn) lost() dspool.Reason {
	c.losing.Do(func() {
		c.loss = dspool.Reason{Code: dspool.WhyWentAway}
		if greets(c.ctx, c.address) {
			c.loss = dspool.Reason{Code: dspool.WhyLoginKilled}.With(c.killed())
		}
	})
	return c.loss
}

// lostText is what the person reads.
func (c *conn) lostText() string {
	why := c.lost()
	if why.Is(dspool.WhyWentAway) {
		return fmt.Sprintf("machine %s went away; your files are safe, log in again for another machine", c.machine)
	}
	return sentence(why) + "; log in again"
}

// greets says whether an sshd answers at address.
func greets(ctx context.Context, address string) bool {
	ctx, cancel := context.WithTimeout(ctx, aliveAsk)
	defer cancel()
	nc, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return false
	}
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(aliveAsk))
	var greeting [4]byte
	n, _ := nc.Read(greeting[:])
	return string(greeting[:n]) == "SSH-"
}
