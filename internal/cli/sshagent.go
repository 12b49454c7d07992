package cli

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"io/fs"
	"math"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/client"
)

// certComment begins the names of dspool's own keys in an agent.
const certComment = "dspool "

// agentTimeout bounds the talk with an agent, which may ask its user.
const agentTimeout = 30 * time.Second

// certify makes a key, has it certified and gives both to the agent or to files. It returns what to tell.
func (a *app) certify(ctx context.Context, c *client.Client, r loginRequest) (string, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return "", err
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		return "", err
	}
	signed, err := c.SignCertificate(ctx, api.CertificateRequest{PublicKey: strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey()))), Expires: r.life})
	if err != nil {
		return "", err
	}
	cert, err := userCertificate(signed.Certificate, signer.PublicKey(), r.user)
	if err != nil {
		return "", err
	}
	comment := certComment + r.user + "@" + c.Host()
	until := a.fullTime(&signed.Expires)
	if conn := a.agent(); conn != nil && !r.file {
		defer conn.Close()
		if err := a.toAgent(conn, key, cert, comment); err != nil {
			return "", dspool.Errorf(dspool.Unavailable, "the ssh-agent does not take the certificate: %w", err).WithHint("dspool login --file keeps it in files")
		}
		return "the SSH certificate is in the ssh-agent until " + until, nil
	}
	path, err := a.identity()
	if err != nil {
		return "", err
	}
	block, err := ssh.MarshalPrivateKey(key, comment)
	if err != nil {
		return "", err
	}
	if err := client.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
		return "", err
	}
	if err := client.WriteFile(path+"-cert.pub", []byte(strings.TrimSpace(string(ssh.MarshalAuthorizedKey(cert)))+" "+comment+"\n"), 0o600); err != nil {
		return "", err
	}
	return "the SSH key and its certificate are in " + path + ", good until " + until, nil
}

// userCertificate reads the server's answer and refuses what was not asked for.
func userCertificate(text string, key ssh.PublicKey, user string) (*ssh.Certificate, error) {
	public, _, _, _, err := ssh.ParseAuthorizedKey([]byte(text))
	cert, ok := public.(*ssh.Certificate)
	if err != nil || !ok || cert.CertType != ssh.UserCert || string(cert.Key.Marshal()) != string(key.Marshal()) || !slices.Contains(cert.ValidPrincipals, user) {
		return nil, dspool.Errorf(dspool.Internal, "the server did not answer with a certificate for user %s", dspool.Quote(user)).WithHint("compare `dspool version` here and there")
	}
	return cert, nil
}

// agent is a connection to the running ssh-agent, or nil.
func (a *app) agent() net.Conn {
	path := a.getenv("SSH_AUTH_SOCK")
	if path == "" {
		return nil
	}
	conn, err := net.DialTimeout("unix", path, agentTimeout)
	if err != nil {
		return nil
	}
	_ = conn.SetDeadline(time.Now().Add(agentTimeout))
	return conn
}

// toAgent adds the certificate for as long as it is good, in the place of the one from the last login.
func (a *app) toAgent(conn net.Conn, key ed25519.PrivateKey, cert *ssh.Certificate, comment string) error {
	keys := agent.NewClient(conn)
	left := time.Unix(int64(min(cert.ValidBefore, math.MaxInt64)), 0).Sub(a.Now()) / time.Second
	if left < 1 {
		return dspool.Errorf(dspool.Invalid, "it has expired already; is this computer's clock right?")
	}
	if _, err := removeFromAgent(keys, comment); err != nil {
		return err
	}
	return keys.Add(agent.AddedKey{PrivateKey: &key, Certificate: cert, Comment: comment, LifetimeSecs: uint32(min(left, math.MaxUint32))})
}

// removeFromAgent removes dspool's certificates with that comment, or all of dspool's for "".
func removeFromAgent(keys agent.ExtendedAgent, comment string) (n int, err error) {
	list, err := keys.List()
	if err != nil {
		return 0, err
	}
	for _, k := range list {
		ours := strings.HasPrefix(k.Comment, certComment) && strings.Contains(k.Format, "-cert-")
		if !ours || comment != "" && k.Comment != comment {
			continue
		}
		if err := keys.Remove(k); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

// identity is the file of the key that login keeps without an agent.
func (a *app) identity() (string, error) {
	home := a.getenv("HOME")
	if !filepath.IsAbs(home) {
		return "", dspool.Errorf(dspool.Invalid, "there is no place for an SSH key").WithHint("set HOME, or run an ssh-agent")
	}
	return filepath.Join(home, ".ssh", "dspool-ed25519"), nil
}

// identities are the key files to name to ssh: the one that login keeps, while its certificate is good,
// and those that ssh would have tried if none were named. None leaves the choice to ssh.
func (a *app) identities() []string {
	path, err := a.identity()
	if err != nil {
		return nil
	}
	text, err := os.ReadFile(path + "-cert.pub")
	if err != nil {
		return nil
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey(text)
	cert, ok := key.(*ssh.Certificate)
	if err != nil || !ok || uint64(a.Now().Unix()) >= cert.ValidBefore {
		return nil
	}
	var found []string
	for _, name := range []string{filepath.Base(path), "id_ed25519", "id_ed25519_sk", "id_ecdsa", "id_ecdsa_sk", "id_rsa"} {
		file := filepath.Join(filepath.Dir(path), name)
		if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() {
			found = append(found, file)
		}
	}
	return found
}

// forgetCertificates removes what certify made, and counts it.
func (a *app) forgetCertificates() (n int, err error) {
	var errs []error
	if conn := a.agent(); conn != nil {
		n, err = removeFromAgent(agent.NewClient(conn), "")
		errs = append(errs, err, conn.Close())
	}
	if path, err := a.identity(); err == nil {
		for _, p := range []string{path, path + "-cert.pub"} {
			switch err := os.Remove(p); {
			case err == nil && p != path:
				n++
			case err != nil && !errors.Is(err, fs.ErrNotExist):
				errs = append(errs, err)
			}
		}
	}
	return n, errors.Join(errs...)
}
