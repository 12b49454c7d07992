package agent

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
)

// Files in the agent's directory.
const (
	keyFile  = "agent.key"
	certFile = "agent.crt"
	linkFile = "link.json"
)

// linkState is what of AgentBoot an enrolled agent still needs. It holds no secret.
type linkState struct {
	URL        string           `json:"url"`
	ServerName string           `json:"server_name"`
	CA         string           `json:"ca"`
	Machine    string           `json:"machine"`
	Resources  dspool.Resources `json:"resources"`
	SSHTrust   string           `json:"ssh_trust,omitempty"`
}

// join returns the link of an enrolled agent. With a certificate from an earlier life it
// needs no token; else it enrols, again and again while the server is away.
func (a *Agent) join(ctx context.Context) (*link, error) {
	if err := os.MkdirAll(a.cfg.Dir, 0o700); err != nil {
		return nil, err
	}
	b := a.cfg.Boot
	state := linkState{URL: b.URL, ServerName: b.ServerName, CA: b.CA, Machine: b.Machine, Resources: b.Resources}
	kept, err := readLink(filepath.Join(a.cfg.Dir, linkFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if state.Machine == "" {
		if kept.Machine == "" {
			return nil, dspool.Errorf(dspool.Invalid, "the machine has neither a boot file nor an enrolled agent").
				WithHint("the provider writes the boot file when it makes the machine")
		}
		state = kept
	}
	key, err := loadKey(filepath.Join(a.cfg.Dir, keyFile))
	if err != nil {
		return nil, err
	}
	l, err := newLink(state, key, a.cfg.Dir, a.cfg.Dial, a.log)
	if err != nil {
		return nil, err
	}
	if cert, err := os.ReadFile(filepath.Join(a.cfg.Dir, certFile)); err == nil && kept.Machine == state.Machine {
		l.state.SSHTrust = kept.SSHTrust
		err = l.use(string(cert))
		if err == nil { // whatever its dates: the server goes by what it knows of the machine
			return l, a.enrolled(l)
		}
		a.log.Warn("the certificate of an earlier agent cannot be used", "error", err)
	}
	if b.Token == "" {
		return nil, dspool.Errorf(dspool.Unauthenticated, "the agent has no certificate and no token to enrol with").
			WithHint("remove the machine; the pool makes another")
	}
	csr, err := l.request()
	if err != nil {
		return nil, err
	}
	hostKey, err := a.cfg.Host.HostKey()
	if err != nil {
		a.log.Error("the machine has no host key: nobody can log in", "error", err)
	}
	var answer api.EnrolResponse
	var refused error
	err = a.insist(ctx, "enrol", func() error {
		err := l.call(ctx, "POST", "/agent/v1/enrol", api.EnrolRequest{Machine: state.Machine, Token: b.Token, CSR: csr, HostKey: hostKey}, &answer)
		var status *statusError
		if errors.As(err, &status) && status.permanent() {
			refused = err
			return nil
		}
		return err
	})
	if err != nil || refused != nil {
		return nil, errors.Join(err, refused)
	}
	if err := l.save(answer.Certificate); err != nil {
		return nil, err
	}
	l.state.SSHTrust = answer.SSHTrust
	// The next connection shows the certificate.
	l.http.CloseIdleConnections()
	return l, a.enrolled(l)
}

// enrolled writes what a later agent needs before the boot file, with the token, is removed.
func (a *Agent) enrolled(l *link) error {
	if err := l.keep(); err != nil {
		return err
	}
	if a.cfg.Enrolled != nil {
		a.cfg.Enrolled()
	}
	return nil
}

// keep writes what of the link a later agent needs.
func (l *link) keep() error {
	data, err := json.Marshal(l.state)
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(l.dir, linkFile), data)
}

func readLink(path string) (s linkState, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(data, &s); err != nil {
		return s, fmt.Errorf("read %s: %w", path, err)
	}
	return s, nil
}

// loadKey returns the agent's key. It is on disk before it is used: the server lets a token
// be used again only with the same key, which is what an agent that died while enrolling does.
func loadKey(path string) (*ecdsa.PrivateKey, error) {
	data, err := os.ReadFile(path)
	if err == nil {
		block, _ := pem.Decode(data)
		if block == nil {
			return nil, fmt.Errorf("read %s: no PEM in it", path)
		}
		key, err := x509.ParseECPrivateKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
		return key, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	return key, writeFile(path, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}))
}

// request makes a certificate request. The server takes the name from the token or from the
// certificate in use, so that the one in here is only for those who look at it.
func (l *link) request() (string, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: l.state.Machine}}, l.key)
	if err != nil {
		return "", fmt.Errorf("make certificate request: %w", err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})), nil
}

// writeFile replaces path by a file that only its owner reads, whole or not at all.
func writeFile(path string, data []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	_, err = f.Write(data)
	// No sync: a machine does not outlive its host, only the agent dies.
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
