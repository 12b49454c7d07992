package gateway

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
)

// trust says which keys and certificates count; it is replaced as a whole.
type trust struct {
	authorities []ssh.PublicKey
	serials     map[api.RevokedCertificate]bool
	keys        map[string]bool // fingerprints of keys and authorities
}

// parseTrust returns what could be read, and what could not as an error.
func parseTrust(t api.Trust) (*trust, error) {
	out := &trust{serials: map[api.RevokedCertificate]bool{}, keys: map[string]bool{}}
	var errs []error
	for _, line := range t.Authorities {
		key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
		if err != nil {
			errs = append(errs, fmt.Errorf("read authority: %w", err))
			continue
		}
		out.authorities = append(out.authorities, key)
	}
	for _, c := range t.RevokedCertificates {
		out.serials[c] = true
	}
	for _, s := range t.RevokedSerials {
		if len(out.authorities) > 0 {
			out.serials[api.RevokedCertificate{Authority: ssh.FingerprintSHA256(out.authorities[0]), Serial: s}] = true
		}
	}
	for _, k := range t.RevokedKeys {
		out.keys[k] = true
	}
	return out, errors.Join(errs...)
}

// revokes says why a login with this key, or this certificate, no longer counts; none if it does.
// A certificate also stops counting when its authority is no longer trusted.
func (t *trust) revokes(cert *ssh.Certificate, fingerprint string) dspool.Reason {
	if fingerprint != "" && t.keys[fingerprint] {
		return dspool.Reason{Code: dspool.WhyKeyRevoked}
	}
	if cert == nil {
		return dspool.Reason{}
	}
	authority := ssh.FingerprintSHA256(cert.SignatureKey)
	switch {
	case t.serials[api.RevokedCertificate{Authority: authority, Serial: cert.Serial}]:
		return dspool.Why(dspool.WhyCertRevoked, dspool.ReasonParams{Name: strconv.FormatUint(cert.Serial, 10)})
	case t.keys[authority]:
		return dspool.Reason{Code: dspool.WhyAuthorityRevoked}
	case !t.isAuthority(cert.SignatureKey):
		return dspool.Reason{Code: dspool.WhyAuthorityForeign}
	}
	return dspool.Reason{}
}

func (t *trust) isAuthority(key ssh.PublicKey) bool {
	return slices.ContainsFunc(t.authorities, func(a ssh.PublicKey) bool { return bytes.Equal(a.Marshal(), key.Marshal()) })
}

// What a user certificate may demand, and what it permits.
const (
	optionForce  = "force-command"
	optionSource = "source-address"
)

// check says whether a certificate lets user in from there now. The signature that proves the
// possession of its key is the library's to verify.
func (t *trust) check(cert *ssh.Certificate, user string, from net.Addr, now time.Time) error {
	if cert.CertType != ssh.UserCert {
		return errors.New("it is no user certificate")
	}
	if why := t.revokes(cert, ssh.FingerprintSHA256(cert.Key)); !why.IsZero() {
		return errors.New(sentence(why))
	}
	if cert.Signature == nil || cert.Signature.Format == ssh.KeyAlgoRSA { // with SHA-1, which OpenSSH refuses here as well
		return errors.New("its authority signed with SHA-1")
	}
	if !slices.Contains(cert.ValidPrincipals, user) {
		return errors.New("it is another user's")
	}
	checker := ssh.CertChecker{
		SupportedCriticalOptions: []string{optionForce, optionSource},
		Clock:                    func() time.Time { return now },
	}
	if err := checker.CheckCert(user, cert); err != nil {
		return err
	}
	if allowed, ok := cert.CriticalOptions[optionSource]; ok && !comesFrom(from, allowed) {
		return fmt.Errorf("it is not good from %s", from)
	}
	if force, ok := cert.CriticalOptions[optionForce]; ok && (force == "" || strings.ContainsRune(force, 0)) {
		return errors.New("it forces no possible command")
	}
	return nil
}

// comesFrom says whether addr is in a comma-separated list of addresses and networks. A list that
// cannot be read allows nothing.
func comesFrom(addr net.Addr, allowed string) bool {
	from, err := netip.ParseAddrPort(addr.String())
	if err != nil {
		return false
	}
	ip, found := from.Addr().Unmap().WithZone(""), false
	for part := range strings.SplitSeq(allowed, ",") {
		if p, err := netip.ParsePrefix(part); err == nil {
			found = found || p.Contains(ip)
		} else if a, err := netip.ParseAddr(part); err == nil {
			found = found || a.Unmap() == ip
		} else {
			return false
		}
	}
	return found
}
