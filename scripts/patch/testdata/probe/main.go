// Probe is a client of the library's SSH server that sends what the library's own client never does. It prints for
// each of its cases whether the server went along.
package main

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"slices"
	"time"

	"golang.org/x/crypto/ssh"
)

const (
	msgUnimplemented   = 3
	msgServiceRequest  = 5
	msgServiceAccept   = 6
	msgKexInit         = 20
	msgNewKeys         = 21
	msgKexECDHInit     = 30
	msgUserAuthRequest = 50
	msgUserAuthFailure = 51
	msgUserAuthSuccess = 52
	msgGlobalRequest   = 80
	msgRequestFailure  = 82
	msgWindowAdjust    = 93
	msgChannelData     = 94
)

// patience is for a server that neither answers nor ends.
const patience = 20 * time.Second

// step is something that a client does and that a server may refuse.
type step func(*client) error

var cases = []struct {
	name  string
	kex   []string
	steps []step
}{
	{"service-again", plain, []step{exchange, service("ssh-userauth"), password("wrong", msgUserAuthFailure), service("ssh-userauth"), password("right", msgUserAuthSuccess)}},
	{"unimplemented-before-login", strict, []step{exchange, service("ssh-userauth"), unimplemented, password("right", msgUserAuthSuccess)}},
	{"unimplemented-after-login", strict, []step{exchange, service("ssh-userauth"), password("right", msgUserAuthSuccess), unimplemented, ping}},
	{"window-of-no-channel", plain, []step{exchange, service("ssh-userauth"), password("right", msgUserAuthSuccess), widen, ping}},
	{"data-of-no-channel", plain, []step{exchange, service("ssh-userauth"), password("right", msgUserAuthSuccess), data, ping}},
	{"unimplemented-in-strict-exchange", strict, []step{hello, unimplemented, exchange, service("ssh-userauth")}},
	{"another-service", plain, []step{exchange, service("ssh-userauth"), service("ssh-connection")}},
	{"service-for-ever", plain, append([]step{exchange}, slices.Repeat([]step{service("ssh-userauth")}, 200)...)},
}

var (
	plain  = []string{"curve25519-sha256"}
	strict = append(plain, "kex-strict-c-v00@openssh.com") // OpenSSH's strict key exchange
)

func main() {
	log.SetFlags(0)
	for _, one := range cases {
		c, err := connect(one.kex)
		if err != nil {
			log.Fatal(err)
		}
		result := "ok"
		for _, step := range one.steps {
			if err := step(c); err != nil {
				result = "refused: " + err.Error()
				break
			}
		}
		c.Close()
		fmt.Println(one.name, result)
	}
}

// connect starts a server for one client.
func connect(kex []string) (*client, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		return nil, err
	}
	config := &ssh.ServerConfig{MaxAuthTries: -1, PasswordCallback: func(_ ssh.ConnMetadata, p []byte) (*ssh.Permissions, error) {
		if string(p) != "right" {
			return nil, errors.New("wrong")
		}
		return nil, nil
	}}
	config.AddHostKey(signer)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	go func() {
		defer l.Close()
		s, err := l.Accept()
		if err != nil {
			return
		}
		defer s.Close()
		conn, chans, reqs, err := ssh.NewServerConn(s, config)
		if err != nil {
			return
		}
		go ssh.DiscardRequests(reqs)
		for ch := range chans {
			ch.Reject(ssh.Prohibited, "no")
		}
		conn.Close()
	}()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return nil, err
	}
	return &client{Conn: c, kex: kex}, c.SetDeadline(time.Now().Add(patience))
}

// client speaks SSH with curve25519-sha256 and aes128-gcm@openssh.com, and believes any host key.
type client struct {
	net.Conn
	kex     []string
	version []byte // the server's
	init    []byte // our list of algorithms, once it was sent
	in, out *sealed
}

const version = "SSH-2.0-probe"

// hello sends what comes before the keys.
func hello(c *client) error {
	if _, err := io.WriteString(c, version+"\r\n"); err != nil {
		return err
	}
	for b := make([]byte, 1); b[0] != '\n'; c.version = append(c.version, b[0]) {
		if _, err := io.ReadFull(c, b); err != nil {
			return err
		}
	}
	gcm, mac, none := []string{ssh.CipherAES128GCM}, []string{ssh.HMACSHA256}, []string{"none"}
	c.init = ssh.Marshal(struct {
		Kind                    byte
		Cookie                  [16]byte
		Kex, HostKey, Out, In   []string
		MACOut, MACIn           []string
		CompressOut, CompressIn []string
		LanguageOut, LanguageIn []string
		Follows                 bool
		Reserved                uint32
	}{Kind: msgKexInit, Kex: c.kex, HostKey: []string{ssh.KeyAlgoED25519}, Out: gcm, In: gcm, MACOut: mac, MACIn: mac, CompressOut: none, CompressIn: none})
	return c.send(c.init)
}

// exchange exchanges keys.
func exchange(c *client) error {
	if c.init == nil {
		if err := hello(c); err != nil {
			return err
		}
	}
	mine, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	if err := c.send(ssh.Marshal(struct {
		Kind byte
		Key  []byte
	}{msgKexECDHInit, mine.PublicKey().Bytes()})); err != nil {
		return err
	}
	theirInit, err := c.receive()
	if err != nil {
		return err
	}
	answer, err := c.receive()
	if err != nil {
		return err
	}
	var reply struct{ HostKey, Key, Signature []byte }
	if err := ssh.Unmarshal(answer[1:], &reply); err != nil {
		return err
	}
	theirs, err := ecdh.X25519().NewPublicKey(reply.Key)
	if err != nil {
		return err
	}
	secret, err := mine.ECDH(theirs)
	if err != nil {
		return err
	}
	k := ssh.Marshal(struct{ K *big.Int }{new(big.Int).SetBytes(secret)})
	digest := sha256.New()
	digest.Write(ssh.Marshal(struct{ Client, Server, ClientInit, ServerInit, HostKey, ClientKey, ServerKey []byte }{
		[]byte(version), bytes.TrimSpace(c.version), c.init, theirInit, reply.HostKey, mine.PublicKey().Bytes(), reply.Key,
	}))
	digest.Write(k)
	session := digest.Sum(nil)
	derive := func(letter byte, n int) []byte {
		d := sha256.Sum256(bytes.Join([][]byte{k, session, {letter}, session}, nil))
		return d[:n]
	}
	if newKeys, err := c.receive(); err != nil || newKeys[0] != msgNewKeys {
		return fmt.Errorf("no new keys: %w", err)
	}
	if err := c.send([]byte{msgNewKeys}); err != nil {
		return err
	}
	c.out, err = seal(derive('C', 16), derive('A', 12))
	if err != nil {
		return err
	}
	c.in, err = seal(derive('D', 16), derive('B', 12))
	return err
}

// sealed is one direction of aes128-gcm@openssh.com.
type sealed struct {
	cipher.AEAD
	nonce []byte
}

func seal(key, nonce []byte) (*sealed, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	gcm, err := cipher.NewGCM(block)
	return &sealed{gcm, nonce}, err
}

// next counts packets.
func (s *sealed) next() {
	n := s.nonce[4:]
	binary.BigEndian.PutUint64(n, binary.BigEndian.Uint64(n)+1)
}

func (c *client) send(payload []byte) error {
	block, beside := 16, 0
	if c.out == nil {
		block, beside = 8, 4 // the length counts towards the blocks
	}
	padding := block - (beside+1+len(payload))%block
	if padding < 4 {
		padding += block
	}
	packet := binary.BigEndian.AppendUint32(nil, uint32(1+len(payload)+padding))
	packet = append(append(append(packet, byte(padding)), payload...), make([]byte, padding)...)
	if c.out != nil {
		packet = c.out.Seal(packet[:4:4], c.out.nonce, packet[4:], packet[:4])
		c.out.next()
	}
	_, err := c.Write(packet)
	return err
}

func (c *client) receive() ([]byte, error) {
	head := make([]byte, 4)
	if _, err := io.ReadFull(c, head); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head)
	if c.in != nil {
		n += uint32(c.in.Overhead())
	}
	if n > 64<<10 {
		return nil, errors.New("a packet is too long")
	}
	packet := make([]byte, n)
	if _, err := io.ReadFull(c, packet); err != nil {
		return nil, err
	}
	if c.in != nil {
		var err error
		if packet, err = c.in.Open(nil, c.in.nonce, packet, head); err != nil {
			return nil, err
		}
		c.in.next()
	}
	return packet[1 : len(packet)-int(packet[0])], nil
}

// expect sends a message and wants an answer of a kind.
func (c *client) expect(kind byte, payload []byte) error {
	if err := c.send(payload); err != nil {
		return err
	}
	answer, err := c.receive()
	if err == nil && answer[0] != kind {
		err = fmt.Errorf("message %d instead of %d", answer[0], kind)
	}
	return err
}

func service(name string) step {
	return func(c *client) error {
		return c.expect(msgServiceAccept, ssh.Marshal(struct {
			Kind byte
			Name string
		}{msgServiceRequest, name}))
	}
}

func password(secret string, answer byte) step {
	return func(c *client) error {
		return c.expect(answer, ssh.Marshal(struct {
			Kind                  byte
			User, Service, Method string
			Change                bool
			Secret                string
		}{msgUserAuthRequest, "user", "ssh-connection", "password", false, secret}))
	}
}

func ping(c *client) error {
	return c.expect(msgRequestFailure, ssh.Marshal(struct {
		Kind  byte
		Name  string
		Reply bool
	}{msgGlobalRequest, "keepalive@openssh.com", true}))
}

func unimplemented(c *client) error {
	return c.send(ssh.Marshal(struct {
		Kind     byte
		Sequence uint32
	}{msgUnimplemented, 3}))
}

func widen(c *client) error {
	return c.send(ssh.Marshal(struct {
		Kind           byte
		Channel, Bytes uint32
	}{msgWindowAdjust, 0, 1 << 20}))
}

func data(c *client) error {
	return c.send(ssh.Marshal(struct {
		Kind    byte
		Channel uint32
		Data    string
	}{msgChannelData, 0, "for nobody"}))
}
