package gateway

import (
	"errors"
	"io"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

const (
	smallRead = 2 << 10   // bytes that an idle direction holds
	largeRead = 256 << 10 // bytes while much is flowing
)

var largeBuffers = sync.Pool{New: func() any { b := make([]byte, largeRead); return &b }}

// carry copies until src ends; once dst takes no more, the rest is thrown away, so that nobody is
// stuck with it. It returns whether all arrived. A large buffer is held only while it fills.
func carry(dst io.Writer, src io.Reader, count func(int)) bool {
	small := make([]byte, smallRead)
	buf, large := small, (*[]byte)(nil)
	release := func() {
		if large != nil {
			largeBuffers.Put(large)
			buf, large = small, nil
		}
	}
	defer release()
	for {
		n, err := src.Read(buf)
		if n > 0 {
			count(n)
			if _, err := dst.Write(buf[:n]); err != nil {
				_, _ = io.CopyBuffer(io.Discard, struct{ io.Reader }{src}, buf)
				return false
			}
		}
		if err != nil {
			return errors.Is(err, io.EOF)
		}
		switch {
		case large == nil && n == smallRead:
			large = largeBuffers.Get().(*[]byte)
			buf = *large
		case large != nil && n < smallRead:
			release()
		}
	}
}

// counted are the counters of the two directions, seen from the side that asked for a channel.
type counted struct{ there, back func(int) }

func (c *conn) cameIn(n int) {
	c.in.Add(int64(n))
	c.lastInput.Store(time.Now().UnixMilli())
}

func (c *conn) wentOut(n int) { c.out.Add(int64(n)) }

func (c *conn) outward() counted { return counted{there: c.cameIn, back: c.wentOut} }
func (c *conn) inward() counted  { return counted{there: c.wentOut, back: c.cameIn} }

// join opens on the other side what one side asks for, and carries it until both have closed it.
func (c *conn) join(asked ssh.NewChannel, other ssh.Conn, count func() counted) {
	far, farReqs, err := other.OpenChannel(asked.ChannelType(), asked.ExtraData())
	if err != nil {
		reject(asked, err)
		return
	}
	near, nearReqs, err := asked.Accept()
	if err != nil {
		far.Close()
		ssh.DiscardRequests(farReqs)
		return
	}
	n := count()
	var there, back sync.WaitGroup
	there.Go(func() {
		if carry(far, near, n.there) {
			far.CloseWrite()
		}
	})
	back.Go(func() {
		if carry(near, far, n.back) {
			near.CloseWrite()
		}
	})
	var both sync.WaitGroup
	both.Go(func() { passRequests(near, farReqs); back.Wait(); near.Close() })
	both.Go(func() { passRequests(far, nearReqs); there.Wait(); far.Close() })
	both.Wait()
}

// passRequests passes what one side asks of a channel to the other, until that side closes it.
func passRequests(to ssh.Channel, reqs <-chan *ssh.Request) {
	for req := range reqs {
		ok, err := to.SendRequest(req.Type, req.WantReply, req.Payload)
		req.Reply(ok && err == nil, nil)
	}
}

func reject(ch ssh.NewChannel, err error) {
	var refused *ssh.OpenChannelError
	if errors.As(err, &refused) {
		ch.Reject(refused.Reason, refused.Message)
		return
	}
	ch.Reject(ssh.ConnectionFailed, "the machine does not answer")
}
