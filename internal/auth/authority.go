package auth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/dspool/dspool"
)

// AgentServerName is the name in the certificate with which the server serves the agent link.
const AgentServerName = "agent-link.dspool.internal"

const (
	serverLife  = 90 * 24 * time.Hour
	machineLife = 24 * time.Hour
	skew        = 5 * time.Minute // clocks of machines may be that far behind
	// What the server shows itself is good for those who know the time better than its host does.
	ahead = 365 * 24 * time.Hour
)

// Authority is the installation's own certificate authority. Its key lies in the state
// directory, readable by root only.
type Authority struct {
	cert *x509.Certificate
	key  crypto.Signer
	pem  []byte
}

// OpenAuthority reads the authority from dir, or makes it there.
func OpenAuthority(dir, installation string) (*Authority, error) {
	certFile, keyFile := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "ca.key")
	certPEM, err := os.ReadFile(certFile)
	if errors.Is(err, fs.ErrNotExist) {
		if err := makeAuthority(dir, certFile, keyFile, installation); err != nil {
			return nil, fmt.Errorf("make certificate authority: %w", err)
		}
		certPEM, err = os.ReadFile(certFile)
	}
	if err != nil {
		return nil, fmt.Errorf("read certificate authority: %w", err)
	}
	keyPEM, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, fmt.Errorf("read certificate authority: %w", err)
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("read certificate authority in %s: %w", dir, err)
	}
	cert, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		return nil, fmt.Errorf("read certificate authority in %s: %w", dir, err)
	}
	return &Authority{cert: cert, key: pair.PrivateKey.(crypto.Signer), pem: certPEM}, nil
}

// makeAuthority writes the key before the certificate: a crash between leaves no
// certificate, so the next start makes both anew.
func makeAuthority(dir, certFile, keyFile, installation string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: serial(),
		Subject:      pkix.Name{CommonName: "dspool " + installation},
		// Always: a host may be wrong about the time when it starts for the first time, and this one stays.
		NotBefore:             time.Unix(0, 0),
		NotAfter:              time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), // as RFC 5280 says it
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := writeFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), 0o600); err != nil {
		return err
	}
	return writeFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644)
}

// writeFile puts data on disk whole or not at all.
func writeFile(path string, data []byte, mode fs.FileMode) error {
	tmp := path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

func serial() *big.Int {
	b := make([]byte, 16)
	rand.Read(b)
	b[0] &= 0x7f
	return new(big.Int).SetBytes(b)
}

// PEM returns the authority's certificate.
func (a *Authority) PEM() []byte { return a.pem }

// ServerCertificate makes a key and a certificate for host names and addresses.
func (a *Authority) ServerCertificate(hosts []string, now time.Time) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := a.sign(serverTemplate(hosts, now), key.Public(), now.Add(-ahead))
	if err != nil {
		return nil, fmt.Errorf("sign server certificate: %w", err)
	}
	return &tls.Certificate{Certificate: [][]byte{der, a.cert.Raw}, PrivateKey: key}, nil
}

// SignServer signs a key for names and addresses that a door serves. It returns the certificate and the
// authority's own as PEM.
func (a *Authority) SignServer(names []string, key any, now time.Time) (string, error) {
	template := serverTemplate(names, now)
	template.Subject.CommonName = "dspool door"
	der, err := a.sign(template, key, now.Add(-skew))
	if err != nil {
		return "", fmt.Errorf("sign certificate of a door: %w", err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})) + string(a.pem), nil
}

func serverTemplate(hosts []string, now time.Time) *x509.Certificate {
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: "dspool server"},
		NotAfter:    now.Add(serverLife),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else if h != "" {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	return template
}

// ServerTLS serves hosts with a certificate that is made anew when a third of its life is left.
func (a *Authority) ServerTLS(hosts []string, now func() time.Time) *tls.Config {
	var cache certificateCache
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return cache.get(now(), func(t time.Time) (*tls.Certificate, error) { return a.ServerCertificate(hosts, t) })
		},
	}
}

// AgentTLS is ServerTLS for the agent link: a client certificate is optional (enrolment
// has none yet) and, when given, must be the authority's. Its dates are those of a clock that may have been
// wrong when it was signed and may be wrong now, and count for nothing: a machine speaks for
// itself as long as the store has it, which every request is held against.
func (a *Authority) AgentTLS(now func() time.Time) *tls.Config {
	c := a.ServerTLS([]string{AgentServerName}, now)
	c.ClientAuth = tls.RequestClientCert
	c.ClientCAs = x509.NewCertPool()
	c.ClientCAs.AddCert(a.cert)
	c.VerifyConnection = func(s tls.ConnectionState) error { // also of one that is resumed
		if len(s.PeerCertificates) == 0 {
			return nil
		}
		leaf := s.PeerCertificates[0]
		_, err := leaf.Verify(x509.VerifyOptions{Roots: c.ClientCAs, CurrentTime: leaf.NotAfter, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
		return err
	}
	c.MinVersion = tls.VersionTLS13
	return c
}

// SignMachine checks a PEM certificate request and signs it for a machine, whatever
// name the request carries. It returns the certificate as PEM.
func (a *Authority) SignMachine(machine string, key any, now time.Time) (string, error) {
	der, err := a.sign(&x509.Certificate{
		Subject:     pkix.Name{CommonName: machine, OrganizationalUnit: []string{"machine"}},
		NotAfter:    now.Add(machineLife),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, key, now.Add(-skew))
	if err != nil {
		return "", fmt.Errorf("sign certificate of machine %s: %w", machine, err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), nil
}

// ParseRequest checks a PEM certificate request and returns its public key with the key's hash.
func ParseRequest(csr string) (key any, hash string, err error) {
	block, _ := pem.Decode([]byte(csr))
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, "", dspool.Errorf(dspool.Invalid, "the certificate request is not PEM")
	}
	req, err := x509.ParseCertificateRequest(block.Bytes)
	if err == nil {
		err = req.CheckSignature()
	}
	if err != nil {
		return nil, "", dspool.Errorf(dspool.Invalid, "the certificate request is wrong: %w", err)
	}
	sum := sha256.Sum256(req.RawSubjectPublicKeyInfo)
	return req.PublicKey, hex.EncodeToString(sum[:]), nil
}

// MachineOf returns the machine that the client certificate of a connection by [Authority.AgentTLS] names.
func MachineOf(state *tls.ConnectionState) (string, bool) {
	if state == nil || len(state.PeerCertificates) == 0 {
		return "", false
	}
	subject := state.PeerCertificates[0].Subject
	if len(subject.OrganizationalUnit) != 1 || subject.OrganizationalUnit[0] != "machine" {
		return "", false
	}
	return subject.CommonName, subject.CommonName != ""
}

func (a *Authority) sign(template *x509.Certificate, public any, from time.Time) ([]byte, error) {
	template.SerialNumber = serial()
	template.NotBefore = from
	return x509.CreateCertificate(rand.Reader, template, a.cert, public, a.key)
}

// EnrolToken is the token with which a machine joins. It follows from the authority's key and the
// machine's name, which is never used again, so that making a machine a second time after a
// crash gives it the same one and no token lies in the store.
func (a *Authority) EnrolToken(machine string) (string, error) {
	return a.derive("enrol token\x00" + machine)
}

// Derive is the secret for a purpose of the server itself, such as "hub token": 64 hexadecimal digits
// that follow from the authority's key, so that they lie nowhere and are the same after a restart. The
// purpose is a constant without NUL.
func (a *Authority) Derive(purpose string) (string, error) { return a.derive(purpose) }

func (a *Authority) derive(purpose string) (string, error) {
	der, err := x509.MarshalPKCS8PrivateKey(a.key)
	if err != nil {
		return "", err
	}
	mac := hmac.New(sha256.New, der)
	mac.Write([]byte("dspool " + purpose))
	return hex.EncodeToString(mac.Sum(nil)), nil
}
