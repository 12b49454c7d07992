package gateway

import (
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/crypto/ssh"
)

const (
	keepAlive     = "keepalive@openssh.com"
	hostKeysProve = "hostkeys-prove-00@openssh.com"
	hostKeysTold  = "hostkeys-00@openssh.com"
	noMore        = "no-more-sessions@openssh.com"
	endOfWrite    = "eow@openssh.com" // of a channel: its sender takes no more
	mostGlobals   = 256               // requests that wait for a machine or for its answer
)

// ownAnswers need no machine, and wait for none.
var ownAnswers = []string{keepAlive, hostKeysTold, hostKeysProve}

// dispatch takes channels and requests from the person's side until the connection ends.
func (c *conn) dispatch(chans <-chan ssh.NewChannel, reqs <-chan *ssh.Request) {
	queue := make(chan *ssh.Request, mostGlobals)
	defer close(queue)
	var waiting atomic.Int64   // requests that have no answer yet
	var opening sync.WaitGroup // sessions: none is added once no more are to be opened, which waits for them
	c.parts.Go(func() { c.globals(queue, &waiting, &opening) })
	last := false // no more sessions are to be opened
	take := func(req *ssh.Request) {
		if req.Type == noMore {
			// What was asked for before it is still opened: the library hands it over separately.
			for drained := false; !drained && chans != nil; {
				select {
				case ch, ok := <-chans:
					if !ok {
						chans = nil
						break
					}
					c.open(ch, last, &opening)
				default:
					drained = true
				}
			}
			last = true
		}
		switch {
		case slices.Contains(ownAnswers, req.Type) && waiting.Load() == 0:
			c.answer(req)
			return
		case req.Type == keepAlive:
			// Answers must come in order, so this one has to wait; a sign of life does as well.
			c.outer.SendRequest(keepAlive, false, nil)
		}
		if req.WantReply {
			waiting.Add(1)
		}
		select {
		case queue <- req:
		case <-c.ctx.Done():
		}
	}
	for chans != nil || reqs != nil {
		select {
		case ch, ok := <-chans:
			if !ok {
				chans = nil
				continue
			}
			c.open(ch, last, &opening)
		case req, ok := <-reqs:
			if !ok {
				reqs = nil
				continue
			}
			take(req)
		case settled := <-c.settling:
			for more := reqs != nil; more; {
				select {
				case req, ok := <-reqs:
					if more = ok; ok {
						take(req)
					} else {
						reqs = nil
					}
				default:
					more = false
				}
			}
			close(settled)
		}
	}
}

// settle waits until what the gateway can answer by itself of all that the person has asked before is answered.
func (c *conn) settle() {
	settled := make(chan struct{})
	select {
	case c.settling <- settled:
	case <-c.ctx.Done():
		return
	}
	select {
	case <-settled:
	case <-c.ctx.Done():
	}
}

// globals answers requests that belong to no channel, in their order.
func (c *conn) globals(queue <-chan *ssh.Request, waiting *atomic.Int64, opening *sync.WaitGroup) {
	for req := range queue {
		c.global(req, opening)
		if req.WantReply {
			waiting.Add(-1)
		}
	}
}

// answer answers what is the gateway's own to say.
func (c *conn) answer(req *ssh.Request) {
	if req.Type != hostKeysProve {
		req.Reply(false, nil)
		return
	}
	proof, ok := c.g.keys.prove(c.outer, req.Payload)
	req.Reply(ok, proof)
}

func (c *conn) global(req *ssh.Request, opening *sync.WaitGroup) {
	switch req.Type {
	case keepAlive, hostKeysTold, hostKeysProve:
		c.answer(req)
		return
	case "tcpip-forward", "streamlocal-forward@openssh.com":
		if !c.permits("permit-port-forwarding") {
			req.Reply(false, nil)
			return
		}
	}
	select {
	case <-c.placed:
	case <-c.ctx.Done():
	}
	if !c.isPlaced() || c.inner == nil {
		req.Reply(false, nil)
		return
	}
	if req.Type == noMore {
		opening.Wait()
	}
	ok, answer, err := c.inner.SendRequest(req.Type, req.WantReply, req.Payload)
	req.Reply(ok && err == nil, answer)
}

// permits says whether the login may do what a certificate has to allow; keys and passwords may.
func (c *conn) permits(extension string) bool {
	if c.login.cert == nil {
		return true
	}
	_, ok := c.login.cert.Extensions[extension]
	return ok
}

// open serves a channel that the person asks for.
func (c *conn) open(ch ssh.NewChannel, last bool, opening *sync.WaitGroup) {
	kind := ch.ChannelType()
	switch {
	case kind == "tun@openssh.com":
		ch.Reject(ssh.Prohibited, "tunnel devices are not forwarded")
		return
	case slices.Contains([]string{"direct-tcpip", "direct-streamlocal@openssh.com"}, kind) && !c.permits("permit-port-forwarding"):
		ch.Reject(ssh.Prohibited, "the certificate does not permit forwarding")
		return
	case kind == "session" && last:
		ch.Reject(ssh.Prohibited, "no more sessions were to be opened")
		return
	}
	if c.channels.Add(1) > mostChannels {
		c.channels.Add(-1)
		ch.Reject(ssh.ResourceShortage, "too many channels are open")
		return
	}
	if kind == "session" {
		opening.Add(1)
		opened := sync.OnceFunc(opening.Done)
		c.parts.Go(func() {
			defer c.channels.Add(-1)
			defer opened()
			c.serveSession(ch, opened)
		})
		return
	}
	c.parts.Go(func() {
		defer c.channels.Add(-1)
		select {
		case <-c.placed:
		case <-c.ctx.Done():
		}
		if !c.isPlaced() || c.inner == nil {
			ch.Reject(ssh.ConnectionFailed, "there is no machine")
			return
		}
		c.join(ch, c.inner.Conn, c.outward)
	})
}

// backward is what a certificate has to permit before a machine may open a channel to the person.
var backward = map[string]string{
	"auth-agent@openssh.com":            "permit-agent-forwarding",
	"x11":                               "permit-X11-forwarding",
	"forwarded-tcpip":                   "permit-port-forwarding",
	"forwarded-streamlocal@openssh.com": "permit-port-forwarding",
}

// fromMachine takes channels and requests from the machine's side. The machine's root is not
// trusted: it gets what sshd has use for, and no sessions at the person's end.
func (c *conn) fromMachine(in *inner) {
	c.parts.Go(func() {
		for req := range in.reqs {
			switch req.Type {
			case hostKeysTold, hostKeysProve, keepAlive:
				req.Reply(false, nil)
			default:
				ok, answer, err := c.outer.SendRequest(req.Type, req.WantReply, req.Payload)
				req.Reply(ok && err == nil, answer)
			}
		}
	})
	for ch := range in.chans {
		switch ch.ChannelType() {
		case "session", "tun@openssh.com":
			ch.Reject(ssh.Prohibited, "a machine opens no sessions")
			continue
		}
		if extension, ok := backward[ch.ChannelType()]; ok && !c.permits(extension) {
			ch.Reject(ssh.Prohibited, "the person's certificate does not permit it")
			continue
		}
		if c.opened.Add(1) > mostChannels {
			c.opened.Add(-1)
			ch.Reject(ssh.ResourceShortage, "too many channels are open")
			continue
		}
		c.parts.Go(func() {
			defer c.opened.Add(-1)
			c.join(ch, c.outer.Conn, c.inward)
		})
	}
	<-in.done
	if c.ctx.Err() != nil {
		return
	}
	c.because(c.lost())
	c.leaveSoon()
}
