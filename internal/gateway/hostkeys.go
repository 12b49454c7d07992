package gateway

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"github.com/dspool/dspool"
	"golang.org/x/crypto/ssh"
)

// hostKeys are the one identity that people see, whichever machine answers.
type hostKeys struct {
	plain []ssh.Signer                  // ed25519, RSA
	certs *atomic.Pointer[[]ssh.Signer] // the same keys with the server's host certificates
}

const rsaBits = 3072

// loadHostKeys reads the doors' keys, and makes them the first time.
func loadHostKeys(dir string) (k hostKeys, err error) {
	k.certs = &atomic.Pointer[[]ssh.Signer]{}
	k.certs.Store(&[]ssh.Signer{})
	ed, err := loadKey(filepath.Join(dir, "host_ed25519"), func() (crypto.Signer, error) {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	})
	if err != nil {
		return k, err
	}
	r, err := loadKey(filepath.Join(dir, "host_rsa"), func() (crypto.Signer, error) { return rsa.GenerateKey(rand.Reader, rsaBits) })
	if err != nil {
		return k, err
	}
	// Never SHA-1, which the library would offer for an RSA key.
	modern, err := ssh.NewSignerWithAlgorithms(r.(ssh.AlgorithmSigner), []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256})
	if err != nil {
		return k, fmt.Errorf("use the RSA host key: %w", err)
	}
	k.plain = []ssh.Signer{ed, modern}
	return k, errors.Join(publish(dir, "host_ed25519", ed), publish(dir, "host_rsa", r))
}

// publish leaves the public half beside a key, where the server finds it to make host certificates.
func publish(dir, name string, s ssh.Signer) error {
	path := filepath.Join(dir, name+".pub")
	line := ssh.MarshalAuthorizedKey(s.PublicKey())
	if there, err := os.ReadFile(path); err == nil && bytes.Equal(there, line) {
		return nil
	}
	tmp := path + ".new"
	if err := os.WriteFile(tmp, line, 0o644); err != nil {
		return fmt.Errorf("publish host key: %w", err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("publish host key: %w", err)
	}
	return nil
}

func loadKey(path string, make func() (crypto.Signer, error)) (ssh.Signer, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := makeKey(path, make); err != nil {
			return nil, fmt.Errorf("make host key %s: %w", filepath.Base(path), err)
		}
		b, err = os.ReadFile(path)
	}
	if err != nil {
		return nil, fmt.Errorf("read host key: %w", err)
	}
	if info, err := os.Stat(path); err == nil && info.Mode().Perm()&0o077 != 0 {
		return nil, dspool.Errorf(dspool.Forbidden, "host key %s can be read by others", path).WithHint("chmod 600 %s; if somebody may have read it, remove it", path)
	}
	s, err := ssh.ParsePrivateKey(b)
	if err != nil {
		return nil, dspool.Errorf(dspool.Invalid, "host key %s cannot be read: %w", path, err).WithHint("restore it from a backup; without it every client warns of a changed host key")
	}
	return s, nil
}

// makeKey writes the key whole or not at all; of two gateways that start at once, one wins.
func makeKey(path string, make func() (crypto.Signer, error)) error {
	key, err := make()
	if err != nil {
		return err
	}
	block, err := ssh.MarshalPrivateKey(key, "dspool")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(pem.EncodeToMemory(block))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// certify takes over the host certificates among lines that belong to the doors' keys.
func (k hostKeys) certify(lines string) {
	certs := []ssh.Signer{}
	for line := range strings.Lines(lines) {
		pub, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
		if err != nil {
			continue
		}
		cert, ok := pub.(*ssh.Certificate)
		if !ok || cert.CertType != ssh.HostCert {
			continue
		}
		for _, s := range k.plain {
			if signer, err := ssh.NewCertSigner(cert, s); err == nil {
				certs = append(certs, signer)
			}
		}
	}
	k.certs.Store(&certs)
}

// addTo gives a door's configuration the keys, and the certificates that there are.
func (k hostKeys) addTo(c *ssh.ServerConfig) {
	for _, s := range *k.certs.Load() {
		c.AddHostKey(s)
	}
	for _, s := range k.plain {
		c.AddHostKey(s)
	}
}

// announcement is the payload of hostkeys-00@openssh.com.
func (k hostKeys) announcement() (b []byte) {
	for _, s := range k.plain {
		b = append(b, ssh.Marshal(struct{ Key []byte }{s.PublicKey().Marshal()})...)
	}
	return b
}

// prove answers hostkeys-prove-00@openssh.com: signatures of the asked keys over the session.
func (k hostKeys) prove(meta ssh.ConnMetadata, asked []byte) ([]byte, bool) {
	negotiated := ""
	if m, ok := meta.(ssh.AlgorithmsConnMetadata); ok {
		negotiated = m.Algorithms().HostKey
	}
	var out []byte
	for n := 0; len(asked) > 0; n++ {
		var one struct {
			Key  []byte
			Rest []byte `ssh:"rest"`
		}
		if ssh.Unmarshal(asked, &one) != nil || n == len(k.plain) {
			return nil, false
		}
		asked = one.Rest
		signer := k.byKey(one.Key)
		if signer == nil {
			return nil, false
		}
		data := ssh.Marshal(struct {
			What    string
			Session []byte
			Key     []byte
		}{"hostkeys-prove-00@openssh.com", meta.SessionID(), one.Key})
		algorithm := signer.PublicKey().Type()
		if algorithm == ssh.KeyAlgoRSA {
			algorithm = ssh.KeyAlgoRSASHA512
			if strings.HasPrefix(negotiated, ssh.KeyAlgoRSASHA256) {
				algorithm = ssh.KeyAlgoRSASHA256
			}
		}
		sig, err := signer.(ssh.AlgorithmSigner).SignWithAlgorithm(rand.Reader, data, algorithm)
		if err != nil {
			return nil, false
		}
		out = append(out, ssh.Marshal(struct{ Sig []byte }{ssh.Marshal(sig)})...)
	}
	return out, len(out) > 0
}

func (k hostKeys) byKey(blob []byte) ssh.Signer {
	for _, s := range k.plain {
		if string(s.PublicKey().Marshal()) == string(blob) {
			return s
		}
	}
	return nil
}
