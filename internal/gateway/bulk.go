package gateway

import (
	"net"
	"sync"
	"time"
)

const (
	bulkRead  = 128 << 10   // bytes taken from the kernel at once while much is flowing
	bulkWrite = 256 << 10   // bytes that may wait for the kernel
	smallBulk = 4 << 10     // the library's own buffer: less at once is no bulk
	closeWait = time.Second // for the last bytes to be handed to the kernel
)

var (
	readBuffers  = sync.Pool{New: func() any { b := make([]byte, bulkRead); return &b }}
	writeBuffers = sync.Pool{New: func() any { b := make([]byte, 0, bulkWrite+64<<10); return &b }}
)

// bulkConn hands bytes to the kernel in large pieces: the SSH library reads and writes each packet of
// 32 KiB by two calls of its own. Writes return before the kernel has the bytes, and wait only while
// too many are pending; an error shows at the next one. While nothing flows it holds no buffer.
type bulkConn struct {
	net.Conn
	held *[]byte // while much is flowing in
	rest []byte  // of held, not yet read

	mu      sync.Mutex
	changed sync.Cond
	pending []byte
	pooled  *[]byte // what pending lies in, once it is large
	writing bool
	closed  bool
	err     error
}

func newBulkConn(c net.Conn) *bulkConn {
	b := &bulkConn{Conn: c}
	b.changed.L = &b.mu
	return b
}

// Read is called by one goroutine at a time, as the library does.
func (b *bulkConn) Read(p []byte) (int, error) {
	if len(b.rest) > 0 {
		n := copy(p, b.rest)
		b.rest = b.rest[n:]
		return n, nil
	}
	if b.held == nil {
		n, err := b.Conn.Read(p)
		if n >= smallBulk && n == len(p) { // there is more
			b.held = readBuffers.Get().(*[]byte)
		}
		return n, err
	}
	n, err := b.Conn.Read(*b.held)
	m := copy(p, (*b.held)[:n])
	b.rest = (*b.held)[m:n]
	if len(b.rest) == 0 && n < smallBulk {
		readBuffers.Put(b.held)
		b.held, b.rest = nil, nil
	}
	return m, err
}

func (b *bulkConn) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.pending) >= bulkWrite && b.err == nil && !b.closed {
		b.changed.Wait()
	}
	if b.closed {
		return 0, net.ErrClosed
	}
	if b.err != nil {
		return 0, b.err
	}
	if b.pooled == nil && len(b.pending)+len(p) > smallBulk {
		b.pooled = writeBuffers.Get().(*[]byte)
		b.pending = append((*b.pooled)[:0], b.pending...)
	}
	b.pending = append(b.pending, p...)
	if !b.writing {
		b.writing = true
		go b.flush()
	}
	return len(p), nil
}

// flush writes until nothing is pending.
func (b *bulkConn) flush() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.pending) > 0 && b.err == nil {
		now, pooled := b.pending, b.pooled
		b.pending, b.pooled = nil, nil
		b.changed.Broadcast()
		b.mu.Unlock()
		_, err := b.Conn.Write(now)
		if pooled != nil {
			writeBuffers.Put(pooled)
		}
		b.mu.Lock()
		b.err = err
	}
	b.writing = false
	b.changed.Broadcast()
}

// Close hands over what is pending first, as far as the other end takes it.
func (b *bulkConn) Close() error {
	b.mu.Lock()
	if !b.closed && b.writing {
		b.Conn.SetWriteDeadline(time.Now().Add(closeWait))
	}
	b.closed = true
	b.changed.Broadcast()
	for b.writing {
		b.changed.Wait()
	}
	b.mu.Unlock()
	return b.Conn.Close()
}
