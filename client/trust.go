package client

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"net/http"
	"strings"

	"github.com/dspool/dspool"
)

// FetchCA returns the authority that the server at that address says is its own. Nothing is
// proved yet: anybody on the way may have answered. The caller compares its Fingerprint with
// one that came another way before trusting it. No credential is sent.
func FetchCA(ctx context.Context, address string) ([]byte, error) {
	c, err := New(Options{URL: address})
	if err != nil {
		return nil, err
	}
	transport := c.http.Transport.(*http.Transport)
	defer transport.CloseIdleConnections()
	if transport.TLSClientConfig == nil {
		transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	transport.TLSClientConfig.InsecureSkipVerify = true // the fingerprint is compared instead
	text, err := c.CA(ctx)
	if err != nil {
		return nil, err
	}
	cert, err := authority(text)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}), nil
}

// authority is the one certificate of an authority in a PEM text.
func authority(text []byte) (*x509.Certificate, error) {
	bad := func(why string) (*x509.Certificate, error) {
		return nil, dspool.Errorf(dspool.Invalid, "the server's authority is not usable: %s", why)
	}
	block, rest := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE" {
		return bad("it is no PEM certificate")
	}
	if len(bytes.TrimSpace(rest)) > 0 {
		return bad("it is more than one certificate")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return bad("it cannot be read")
	}
	if !cert.IsCA {
		return bad("it is no authority's certificate")
	}
	return cert, nil
}

// Fingerprint is the SHA-256 of an authority's certificate as openssl x509 -fingerprint prints it.
func Fingerprint(ca []byte) (string, error) {
	cert, err := authority(ca)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(cert.Raw)
	var parts []string
	for _, b := range sum {
		parts = append(parts, strings.ToUpper(hex.EncodeToString([]byte{b})))
	}
	return strings.Join(parts, ":"), nil
}

// SameFingerprint says whether two texts are one fingerprint, with or without colons, in either case.
func SameFingerprint(a, b string) bool {
	plain := func(s string) string {
		s = strings.TrimPrefix(strings.ToUpper(strings.TrimSpace(s)), "SHA256:")
		return strings.ReplaceAll(s, ":", "")
	}
	return len(plain(a)) == hex.EncodedLen(sha256.Size) && plain(a) == plain(b)
}

// Untrusted says whether a call failed because nobody whom the client trusts vouches for the
// server's certificate; a certificate for another name or time is not cured by trusting more.
func Untrusted(err error) bool {
	var unknown x509.UnknownAuthorityError
	return errors.As(err, &unknown)
}
