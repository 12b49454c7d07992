package gateway

import (
	"context"
	"errors"
	"net"
	"strings"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"golang.org/x/crypto/ssh"
)

const (
	mostTries    = 10 // and as many keys of an agent that are not the right one
	mostPassword = 1 << 10
)

// login is who came in, and how. It is made only of what was verified last.
type login struct {
	identity api.Identity
	pool     string           // named as user+POOL
	size     string           // of machine, named as user+POOL+SIZE
	key      string           // fingerprint
	cert     *ssh.Certificate // nil without one
}

// loginKey is where a login travels in the permissions of a connection.
type loginKey struct{}

// errRefused is the one answer to every wrong proof.
var errRefused = errors.New("refused")

// address is what people write before the @: who they are and where they want to go.
type address struct{ user, pool, size string }

// splitName takes "user+pool+size" apart, of which "user", "user+pool" and "user++size" will do. Whatever
// could not be a user's name is refused here, before anything else sees it.
func splitName(name string) (to address, err error) {
	if len(name) > 3*32+2 {
		return to, errRefused
	}
	user, rest, more := strings.Cut(name, "+")
	pool, size, sized := strings.Cut(rest, "+")
	switch {
	case dspool.CheckUserName(user) != nil,
		sized && dspool.CheckName("size", size) != nil,
		more && !(sized && pool == "") && dspool.CheckName("pool", pool) != nil:
		return to, errRefused
	}
	return address{user, pool, size}, nil
}

// authenticator proves who is at one connection.
type authenticator struct {
	g    *gateway
	ctx  context.Context // ends with the time to log in
	slot *slot
	from net.Addr
	last string // why the last try was refused, for the log
}

// config is the server side of one handshake.
func (a *authenticator) config(offer *algorithms) *ssh.ServerConfig {
	c := &ssh.ServerConfig{
		Config:                      ssh.Config{KeyExchanges: keyExchanges, Ciphers: ciphersFor(offer), MACs: macs},
		PublicKeyAuthAlgorithms:     ssh.SupportedAlgorithms().PublicKeyAuths, // without SHA-1 and DSA
		MaxAuthTries:                mostTries,
		ServerVersion:               serverVersion,
		PublicKeyCallback:           a.offered,
		VerifiedPublicKeyCallback:   a.verified,
		PasswordCallback:            func(m ssh.ConnMetadata, p []byte) (*ssh.Permissions, error) { return a.password(m, string(p)) },
		KeyboardInteractiveCallback: a.interactive,
	}
	a.g.keys.addTo(c)
	return c
}

// proof describes a key, after everything about it that can be checked here was checked.
func (a *authenticator) proof(name string, key ssh.PublicKey) (p api.Proof, l login, err error) {
	to, err := splitName(name)
	if err != nil {
		a.last = "no such user name"
		return p, l, err
	}
	l.pool, l.size, l.key = to.pool, to.size, ssh.FingerprintSHA256(key)
	p = api.Proof{User: to.user, From: a.from.String(), Protocol: dspool.ProtocolSSH, Method: "key", Key: l.key}
	t := a.g.trust.Load()
	if cert, ok := key.(*ssh.Certificate); ok {
		if err := t.check(cert, to.user, a.from, time.Now()); err != nil {
			a.last = "certificate: " + err.Error()
			return p, l, errRefused
		}
		l.cert, l.key = cert, ssh.FingerprintSHA256(cert.Key)
		p.Method, p.Key, p.Serial, p.KeyID = "certificate", l.key, cert.Serial, clip(cert.KeyId, 256)
		p.Authority, p.ValidAfter = ssh.FingerprintSHA256(cert.SignatureKey), cert.ValidAfter
	} else if why := t.revokes(nil, l.key); !why.IsZero() {
		a.last = sentence(why)
		return p, l, errRefused
	}
	return p, l, nil
}

// offered answers whether a key would do; it decides nothing about who came in.
func (a *authenticator) offered(m ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
	p, _, err := a.proof(m.User(), key)
	if err != nil {
		return nil, err
	}
	p.Probe = true
	if _, err := a.ask(p); err != nil {
		return nil, err
	}
	a.slot.reach(known)
	return &ssh.Permissions{}, nil
}

// verified decides who came in, by the key whose signature was verified and by nothing that was
// offered before it.
func (a *authenticator) verified(m ssh.ConnMetadata, key ssh.PublicKey, _ *ssh.Permissions, _ string) (*ssh.Permissions, error) {
	p, l, err := a.proof(m.User(), key)
	if err != nil {
		return nil, err
	}
	return a.admit(p, l)
}

func (a *authenticator) admit(p api.Proof, l login) (*ssh.Permissions, error) {
	id, err := a.ask(p)
	if err != nil {
		return nil, err
	}
	if id.User != p.User { // a server that mixes people up lets nobody in
		a.g.Log.Error("the server answered for somebody else", "asked", p.User, "answered", dspool.Quote(id.User))
		return nil, errRefused
	}
	l.identity = id
	return &ssh.Permissions{ExtraData: map[any]any{loginKey{}: l}}, nil
}

// ask waits for a server that is away until the time to log in is over.
func (a *authenticator) ask(p api.Proof) (api.Identity, error) {
	id, err := patiently(a.ctx, func() (api.Identity, error) { return a.g.server.Authenticate(a.ctx, p) })
	switch {
	case dspool.ErrorCode(err) == dspool.Unauthenticated:
		a.last = "wrong " + p.Method
		return id, errRefused
	case err != nil:
		a.last = err.Error()
		return id, errRefused
	}
	return id, nil
}

func (a *authenticator) interactive(m ssh.ConnMetadata, challenge ssh.KeyboardInteractiveChallenge) (*ssh.Permissions, error) {
	answers, err := challenge("", "", []string{"Password: "}, []bool{false})
	if err != nil {
		return nil, err
	}
	return a.password(m, answers[0])
}

// password refuses every wrong password after the same time, whatever was wrong about it.
func (a *authenticator) password(m ssh.ConnMetadata, secret string) (*ssh.Permissions, error) {
	to, nameErr := splitName(m.User())
	if !a.g.guesses.wait(a.ctx, source(a.from), to.user) {
		return nil, errRefused
	}
	answerAt := time.NewTimer(refusalTime)
	defer answerAt.Stop()
	err := nameErr
	if err != nil || secret == "" || len(secret) > mostPassword {
		a.last, err = "no such user name or password", errRefused
	}
	if err == nil {
		var perms *ssh.Permissions
		if release, ok := a.g.guesses.turn(a.ctx); ok {
			perms, err = a.admit(api.Proof{
				User: to.user, From: a.from.String(), Protocol: dspool.ProtocolSSH, Method: "password", Password: secret,
			}, login{pool: to.pool, size: to.size})
			release()
		} else {
			err = errRefused
		}
		if err == nil {
			a.g.guesses.right(to.user)
			return perms, nil
		}
	}
	a.g.guesses.wrong(source(a.from), to.user)
	select {
	case <-answerAt.C:
	case <-a.ctx.Done():
	}
	return nil, err
}

// clip shortens a text that somebody else wrote.
func clip(s string, most int) string {
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "")
	}
	return s
}
