package auth

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/dspool/dspool"
	"golang.org/x/crypto/ssh"
)

// SSHAuthority signs OpenSSH certificates (openssh PROTOCOL.certkeys). Three keys, so that no
// certificate is good for anything but its purpose: users at the doors, the gateway at machines,
// and the doors towards users.
type SSHAuthority struct {
	users, machines, hosts ssh.Signer
}

// OpenSSHAuthority reads the keys from dir, or makes them there.
func OpenSSHAuthority(dir string) (*SSHAuthority, error) {
	a := &SSHAuthority{}
	for name, into := range map[string]*ssh.Signer{"ssh_user_ca": &a.users, "ssh_machine_ca": &a.machines, "ssh_host_ca": &a.hosts} {
		signer, err := openSSHKey(filepath.Join(dir, name), "dspool "+strings.TrimPrefix(name, "ssh_"))
		if err != nil {
			return nil, fmt.Errorf("open SSH authority: %w", err)
		}
		*into = signer
	}
	return a, nil
}

func openSSHKey(path, comment string) (ssh.Signer, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, err
		}
		block, err := ssh.MarshalPrivateKey(key, comment)
		if err != nil {
			return nil, err
		}
		text = pem.EncodeToMemory(block)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return nil, err
		}
		if err := writeFile(path, text, 0o600); err != nil {
			return nil, err
		}
	} else if err != nil {
		return nil, err
	}
	return ssh.ParsePrivateKey(text)
}

// UserTrust is the authority of users' certificates, in the form of authorized_keys.
func (a *SSHAuthority) UserTrust() string { return line(a.users.PublicKey()) }

// MachineTrust is the authority that machines' sshd accepts.
func (a *SSHAuthority) MachineTrust() string { return line(a.machines.PublicKey()) }

// HostTrust is the authority of the doors' host certificates.
func (a *SSHAuthority) HostTrust() string { return line(a.hosts.PublicKey()) }

func line(key ssh.PublicKey) string {
	return string(bytes.TrimSpace(ssh.MarshalAuthorizedKey(key)))
}

// Lives of certificates.
const (
	gatewayLife = 5 * time.Minute
	hostLife    = 365 * 24 * time.Hour
)

var userExtensions = map[string]string{
	"permit-X11-forwarding": "", "permit-agent-forwarding": "", "permit-port-forwarding": "", "permit-pty": "", "permit-user-rc": "",
}

// SignUser makes a user's certificate for the doors.
func (a *SSHAuthority) SignUser(key, user string, serial uint64, from, until time.Time) (string, error) {
	return sign(a.users, key, ssh.Certificate{
		CertType: ssh.UserCert, Serial: serial, KeyId: user, ValidPrincipals: []string{user},
		ValidAfter: after(from), ValidBefore: uint64(until.Unix()),
		Permissions: ssh.Permissions{Extensions: userExtensions},
	})
}

// SignGateway makes a certificate with which the gateway logs into a machine as a user, for minutes.
func (a *SSHAuthority) SignGateway(key, user, keyID string, serial uint64, now time.Time) (string, error) {
	return sign(a.machines, key, ssh.Certificate{
		CertType: ssh.UserCert, Serial: serial, KeyId: keyID, ValidPrincipals: []string{user},
		ValidAfter: after(now), ValidBefore: uint64(now.Add(gatewayLife).Unix()),
		Permissions: ssh.Permissions{Extensions: userExtensions},
	})
}

// SignHost makes a certificate for a door's host key, for names.
func (a *SSHAuthority) SignHost(key string, names []string, serial uint64, now time.Time) (string, error) {
	return sign(a.hosts, key, ssh.Certificate{
		CertType: ssh.HostCert, Serial: serial, KeyId: "dspool doors", ValidPrincipals: names,
		ValidAfter: after(now), ValidBefore: uint64(now.Add(hostLife).Unix()),
	})
}

// after is from when a certificate of now counts. There is nothing before 1970, where clocks begin.
func after(now time.Time) uint64 { return uint64(max(0, now.Add(-skew).Unix())) }

func sign(signer ssh.Signer, key string, cert ssh.Certificate) (string, error) {
	public, _, err := ParseKey(key)
	if err != nil {
		return "", err
	}
	cert.Key = public
	if err := cert.SignCert(rand.Reader, signer); err != nil {
		return "", fmt.Errorf("sign certificate: %w", err)
	}
	return line(&cert), nil
}

// ParseKey reads one public key in the form of authorized_keys or of a .pub file, without options. It
// refuses certificates, and kinds of keys that OpenSSH no longer accepts.
func ParseKey(text string) (ssh.PublicKey, string, error) {
	bad := func(why string) (ssh.PublicKey, string, error) {
		return nil, "", dspool.Errorf(dspool.Invalid, "the public key is not usable: %s", why).
			WithHint("give one line of a .pub file, such as ~/.ssh/id_ed25519.pub")
	}
	if strings.Contains(text, "PRIVATE KEY") {
		return bad("it is a private key; keep that to yourself")
	}
	key, comment, options, rest, err := ssh.ParseAuthorizedKey([]byte(text))
	switch {
	case err != nil:
		return bad("it cannot be read")
	case len(options) > 0:
		return bad("it has options")
	case len(bytes.TrimSpace(rest)) > 0:
		return bad("there is more than one line")
	}
	switch key.Type() {
	case ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoSKED25519, ssh.KeyAlgoSKECDSA256:
	case ssh.KeyAlgoRSA:
		if bits, err := rsaBits(key); err != nil || bits < 2048 || bits > 16384 {
			return bad("an RSA key has from 2048 to 16384 bits")
		}
	default:
		return bad("keys of type " + dspool.Quote(key.Type()) + " are not accepted")
	}
	if err := dspool.CheckTitle("comment", comment); err != nil {
		comment = ""
	}
	return key, comment, nil
}

func rsaBits(key ssh.PublicKey) (int, error) {
	c, ok := key.(ssh.CryptoPublicKey)
	if !ok {
		return 0, errors.New("not a key of package crypto")
	}
	size, ok := c.CryptoPublicKey().(interface{ Size() int })
	if !ok {
		return 0, errors.New("not an RSA key")
	}
	return size.Size() * 8, nil
}

// Fingerprint is how ssh-keygen -l names a key.
func Fingerprint(key ssh.PublicKey) string { return ssh.FingerprintSHA256(key) }

// KeyLine is a key in the form of authorized_keys, without comment.
func KeyLine(key ssh.PublicKey) string { return line(key) }
