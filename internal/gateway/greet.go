package gateway

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"
)

const (
	// serverVersion is what both ends of a connection are told. OpenSSH keeps some of its requests for those who
	// call themselves so, and other clients go by the number, of which some take 10 for 1
	// (docs/adr/0014-the-door-is-openssh.md).
	serverVersion = "SSH-2.0-OpenSSH_9.9 dspool"
	// mostBefore is how many bytes somebody may send before the login is done: twenty keys with
	// certificates are far below it.
	mostBefore = 128 << 10
	// kexWait is how long a client may leave its list of algorithms unsent before we send ours: a few
	// old clients wait for the server's.
	kexWait     = 300 * time.Millisecond
	mostKexInit = 35000 // bytes, the packet limit of RFC 4253
	msgKexInit  = 20
)

var errNotSSH = errors.New("the other end does not speak SSH 2")

// outerConn is a connection through a door. What the client sent while it was greeted is read again.
type outerConn struct {
	net.Conn
	read    []byte
	greeted bool // our version line was sent; the library's is swallowed
	before  atomic.Int64
	open    atomic.Bool // logged in: no limit any more
}

func (c *outerConn) Read(p []byte) (int, error) {
	if len(c.read) > 0 {
		n := copy(p, c.read)
		c.read = c.read[n:]
		return n, nil
	}
	n, err := c.Conn.Read(p)
	if !c.open.Load() && c.before.Add(int64(n)) > mostBefore {
		return 0, errors.New("too much was sent before the login")
	}
	return n, err
}

func (c *outerConn) Write(p []byte) (int, error) {
	if c.greeted {
		c.greeted = false
		if string(p) == serverVersion+"\r\n" {
			return len(p), nil
		}
	}
	return c.Conn.Write(p)
}

// greet exchanges version lines and reads the client's list of algorithms ahead of the library. Until
// then a connection costs next to nothing, and afterwards the fast ciphers can be offered alone to
// clients that have them: with OpenSSH the client's order decides, and its first choice is the slowest.
func greet(c net.Conn) (*outerConn, *algorithms, error) {
	if _, err := c.Write([]byte(serverVersion + "\r\n")); err != nil {
		return nil, nil, err
	}
	var seen bytes.Buffer
	r := bufio.NewReaderSize(io.TeeReader(c, &seen), 1<<10)
	if err := readVersion(r); err != nil {
		return nil, nil, err
	}
	out := &outerConn{Conn: newBulkConn(c), greeted: true}
	deadline := time.Now().Add(kexWait)
	_ = c.SetReadDeadline(deadline)
	offer, err := readKexInit(r)
	var timeout net.Error
	if err != nil && !(errors.As(err, &timeout) && timeout.Timeout()) {
		return nil, nil, err
	}
	out.read = seen.Bytes()
	out.before.Store(int64(seen.Len()))
	return out, offer, nil
}

// isOpenSSH says whether a version line is of OpenSSH, or of who wants to be treated so.
func isOpenSSH(version []byte) bool { return strings.HasPrefix(string(version), "SSH-2.0-OpenSSH") }

func readVersion(r *bufio.Reader) error {
	line := make([]byte, 0, 64)
	for len(line) < 255 {
		b, err := r.ReadByte()
		if err != nil {
			return err
		}
		if b == '\n' {
			s := string(line)
			if strings.HasPrefix(s, "SSH-2.0-") || strings.HasPrefix(s, "SSH-1.99-") {
				return nil
			}
			return errNotSSH
		}
		if line = append(line, b); len(line) == 4 && string(line) != "SSH-" {
			return errNotSSH
		}
	}
	return errNotSSH
}

// algorithms are what a client offers, as far as it matters here.
type algorithms struct{ ciphersIn, ciphersOut []string }

func readKexInit(r *bufio.Reader) (*algorithms, error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n, padding := binary.BigEndian.Uint32(head[:]), uint32(head[4])
	if n > mostKexInit || n < padding+2 {
		return nil, errNotSSH
	}
	packet := make([]byte, n-1)
	if _, err := io.ReadFull(r, packet); err != nil {
		return nil, err
	}
	packet = packet[:len(packet)-int(padding)]
	if packet[0] != msgKexInit {
		return nil, fmt.Errorf("%w: message %d comes first", errNotSSH, packet[0])
	}
	var init struct {
		Cookie                [16]byte
		Kex, HostKey, In, Out []string
		Rest                  []byte `ssh:"rest"`
	}
	if err := ssh.Unmarshal(packet[1:], &init); err != nil {
		return nil, errNotSSH
	}
	return &algorithms{ciphersIn: init.In, ciphersOut: init.Out}, nil
}

var (
	fastCiphers = []string{ssh.CipherAES128GCM, ssh.CipherAES256GCM}
	allCiphers  = append(slices.Clone(fastCiphers), ssh.CipherChaCha20Poly1305, ssh.CipherAES256CTR, ssh.CipherAES192CTR, ssh.CipherAES128CTR)
	// Post-quantum first, nothing with SHA-1.
	keyExchanges = []string{
		ssh.KeyExchangeMLKEM768X25519, ssh.KeyExchangeCurve25519, ssh.KeyExchangeECDHP256, ssh.KeyExchangeECDHP384,
		ssh.KeyExchangeECDHP521, ssh.KeyExchangeDH16SHA512, ssh.KeyExchangeDH14SHA256,
	}
	macs = []string{ssh.HMACSHA256ETM, ssh.HMACSHA512ETM, ssh.HMACSHA256, ssh.HMACSHA512}
)

// ciphersFor returns what is offered to a client.
func ciphersFor(offer *algorithms) []string {
	if offer == nil {
		return allCiphers
	}
	has := func(list []string) bool {
		return slices.ContainsFunc(fastCiphers, func(c string) bool { return slices.Contains(list, c) })
	}
	if has(offer.ciphersIn) && has(offer.ciphersOut) {
		return fastCiphers
	}
	return allCiphers
}
