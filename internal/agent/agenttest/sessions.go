package agenttest

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/agent/host"
)

// places are the sessions of a Machine, guarded by its mutex.
type places struct {
	signer    ssh.Signer // of its sshd, were there one
	authority string
	open      map[int64]*place
	refuse    func(api.SessionDirective) error
	ill       string

	apps    map[int64]*fakeApp
	script  func(api.AppDirective) api.AppReport
	version int64 // of apps
}

type place struct {
	directive api.SessionDirective
	active    bool
	activity  dspool.Reason
}

func newPlaces() places {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err) // crypto/rand does not fail
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		panic(err)
	}
	return places{signer: signer, open: map[int64]*place{}, apps: map[int64]*fakeApp{}, version: 1}
}

// Signer is the host key of the machine's sshd: a test may serve with it.
func (m *Machine) Signer() ssh.Signer { return m.places.signer }

// Authority is whose certificates let users in, in the form of authorized_keys; "" before the
// agent has enrolled.
func (m *Machine) Authority() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.places.authority
}

// RefuseSessions makes sessions fail to open with the error of f, unless that is nil. An error
// that is host.ErrAway is tried again. f must not call m.
func (m *Machine) RefuseSessions(f func(api.SessionDirective) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.places.refuse = f
}

// SetActivity says what lives in an open session from now on.
func (m *Machine) SetActivity(session int64, active bool, reason dspool.Reason) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if p := m.places.open[session]; p != nil {
		p.active, p.activity = active, reason
	}
}

// SetLogins says whether logins work; ill is why not, "" that they do.
func (m *Machine) SetLogins(ill string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.places.ill = ill
}

// Opened returns the directives of the open sessions, by identifier.
func (m *Machine) Opened() []api.SessionDirective {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := []api.SessionDirective{}
	for _, p := range m.places.open {
		list = append(list, p.directive)
	}
	slices.SortFunc(list, func(a, b api.SessionDirective) int { return cmp.Compare(a.ID, b.ID) })
	return list
}

// HostKey implements agent.Host.
func (m *Machine) HostKey() (string, error) {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(m.places.signer.PublicKey()))), nil
}

// Trust implements agent.Host.
func (m *Machine) Trust(ctx context.Context, authority string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := errors.Join(m.broken, ctx.Err()); err != nil {
		return errors.Join(host.ErrAway, err)
	}
	m.places.authority = authority
	m.signal()
	return nil
}

// Open implements agent.Host.
func (m *Machine) Open(ctx context.Context, d api.SessionDirective) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := errors.Join(m.broken, ctx.Err()); err != nil {
		return errors.Join(host.ErrAway, err)
	}
	if m.places.refuse != nil {
		if err := m.places.refuse(d); err != nil {
			return err
		}
	}
	for id, p := range m.places.open {
		if id != d.ID && p.directive.UID == d.UID {
			return dspool.Errorf(dspool.Conflict, "%s still has session %d on the machine", d.User, id)
		}
	}
	if p := m.places.open[d.ID]; p != nil {
		p.directive = d
	} else {
		m.places.open[d.ID] = &place{directive: d, activity: dspool.Reason{Code: dspool.WhyNothingRuns}}
	}
	m.wantApps(d)
	return nil
}

// Close implements agent.Host.
func (m *Machine) Close(ctx context.Context, d api.SessionDirective) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := errors.Join(m.broken, ctx.Err()); err != nil {
		return errors.Join(host.ErrAway, err)
	}
	delete(m.places.open, d.ID)
	m.dropApps(d.ID)
	return nil
}

// Killed implements agent.Host.
func (m *Machine) Killed(ctx context.Context) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return false, errors.Join(m.broken, ctx.Err())
}

// Sessions implements agent.Host.
func (m *Machine) Sessions(ctx context.Context) ([]host.Session, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := errors.Join(m.broken, ctx.Err()); err != nil {
		return nil, errors.Join(host.ErrAway, err)
	}
	var list []host.Session
	for id, p := range m.places.open {
		list = append(list, host.Session{ID: id, User: p.directive.User, UID: p.directive.UID, Active: p.active, Activity: p.activity})
	}
	return list, nil
}

// Health implements agent.Host.
func (m *Machine) Health(context.Context) (dspool.Health, dspool.Reason) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.places.ill != "" {
		return dspool.Unhealthy, dspool.Why(dspool.WhySSHDEnds, dspool.ReasonParams{Detail: m.places.ill})
	}
	return dspool.Healthy, dspool.Reason{}
}
