package control

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/store"
)

// GatewayDirectives returns what is wanted of the gateway as soon as that differs from what it knows
// as revision after, at the latest when wait has passed.
func (c *Control) GatewayDirectives(ctx context.Context, after int64, wait time.Duration) (api.GatewayDirectives, error) {
	timeout := time.NewTimer(wait)
	defer timeout.Stop()
	// What people on draining machines are told depends on the time that is left.
	look := time.NewTicker(time.Second)
	defer look.Stop()
	for {
		changed := c.Changed(topicGateway)
		d, err := c.gatewayDirectives(ctx)
		if err != nil {
			return d, err
		}
		if d.Revision = c.gateway.revision(d); d.Revision != after || wait <= 0 {
			return d, nil
		}
		tick := look.C
		if len(d.Tell) == 0 {
			tick = nil
		}
		select {
		case <-changed:
		case <-tick:
		case <-timeout.C:
			return d, nil
		case <-ctx.Done():
			return d, ctx.Err()
		case <-c.base.Done():
			return d, nil
		}
	}
}

func (c *Control) gatewayDirectives(ctx context.Context) (d api.GatewayDirectives, err error) {
	err = c.Store.Read(ctx, func(tx *store.Tx) error {
		if d.Doors, err = doorsOf(tx); err != nil {
			return err
		}
		revoked, err := tx.Revocations()
		if err != nil {
			return err
		}
		if d.Trust, err = c.trust(tx, revoked); err != nil {
			return err
		}
		if d.End, err = overConnections(tx); err != nil {
			return err
		}
		if d.Tell, err = drainNotices(tx); err != nil {
			return err
		}
		if d.Rights, err = openRights(tx); err != nil {
			return err
		}
		d.Web, err = c.gatewayWeb(tx)
		return err
	})
	d.Trust.HostCert = c.hostCertificates()
	return d, err
}

// overConnections are connections whose session has ended or is ending, whose machine is being removed,
// whose user is gone, or whose login at the portal was ended.
func overConnections(tx *store.Tx) (end []api.Notice, err error) {
	open, err := tx.OpenConnections(0)
	if err != nil {
		return nil, err
	}
	for _, conn := range open {
		s, err := tx.Session(conn.Session)
		if err != nil {
			return nil, err
		}
		var removed dspool.Reason
		if s.State == dspool.SessionOpen {
			m, err := tx.Machine(s.Machine)
			if err != nil {
				return nil, err
			}
			if m.State == dspool.Destroying {
				removed = m.Reason.Or(dspool.Reason{Code: dspool.WhyGoes})
			}
		}
		out := false
		if conn.Login != "" {
			if _, err := tx.Token(conn.Login); dspool.ErrorCode(err) == dspool.NotFound {
				out = true
			} else if err != nil {
				return nil, err
			}
		}
		tell := func(r dspool.Reason) {
			end = append(end, api.Notice{Connection: conn.ID, Reason: toUser(conn.User, r)})
		}
		_, err = tx.User(conn.User)
		switch {
		case dspool.ErrorCode(err) == dspool.NotFound:
			tell(dspool.Reason{Code: dspool.WhyAccountRemoved})
		case err != nil:
			return nil, err
		case out:
			tell(dspool.Reason{Code: dspool.WhyWebLoginEnded})
		case s.State == dspool.SessionClosing || s.State == dspool.SessionClosed:
			tell(dspool.Reason{Code: dspool.WhySessionEndsNotice}.With(s.Reason.Or(dspool.Reason{Code: dspool.WhyClosed})))
		case !removed.IsZero():
			tell(dspool.Why(dspool.WhyMachineLeaves, dspool.ReasonParams{Machine: s.Machine}).With(removed))
		}
	}
	return end, nil
}

// hostCertificates are certificates for the doors' host keys, made anew when keys or names change or time has passed.
// The gateway made the keys and left their public halves beside them.
func (c *Control) hostCertificates() string {
	files, err := filepath.Glob(filepath.Join(c.StateDir, "gateway", "*.pub"))
	if err != nil || len(c.HostNames) == 0 {
		return ""
	}
	var lines []string
	for _, f := range files {
		key, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		now := c.Store.Now()
		cert, err := c.gateway.hostCertificate(string(key), now, func() (string, error) {
			return c.SSH.SignHost(string(key), c.HostNames, uint64(now.Unix()), now)
		})
		if err != nil {
			c.Log.Error("sign host key of doors", "file", f, "err", err)
			continue
		}
		lines = append(lines, cert)
	}
	return strings.Join(lines, "\n")
}

// gatewayState is what the server remembers of the gateway between requests; nothing of it matters
// after a restart.
type gatewayState struct {
	mu    sync.Mutex
	last  string
	rev   int64
	certs map[string]signed
	heard map[string]time.Time // connections, by when the gateway last named them
	since time.Time
}

func newGatewayState() *gatewayState {
	now := time.Now()
	// A restarted server must not give a number that an old one gave for something else, whatever the clock says.
	return &gatewayState{rev: rand.Int64N(1 << 52), certs: map[string]signed{}, heard: map[string]time.Time{}, since: now}
}

// revision numbers what the gateway is told: the same content has the same number.
func (g *gatewayState) revision(d api.GatewayDirectives) int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	d.Revision = 0
	if content := fmt.Sprintf("%+v", d); content != g.last {
		g.last = content
		g.rev++
	}
	return g.rev
}

// signed is a certificate of a host key and when it was made.
type signed struct {
	text string
	at   time.Time
}

// hostAnew is after what time a certificate of a host key is made anew, a good while before it expires.
const hostAnew = 180 * 24 * time.Hour

func (g *gatewayState) hostCertificate(key string, now time.Time, sign func() (string, error)) (string, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	// Also where the clock went back: it was signed for a time that is yet to come.
	if c, ok := g.certs[key]; ok && !now.Before(c.at) && now.Sub(c.at) < hostAnew {
		return c.text, nil
	}
	cert, err := sign()
	if err == nil {
		g.certs[key] = signed{cert, now}
	}
	return cert, err
}

func (c *Control) heard(connection string) {
	c.gateway.mu.Lock()
	defer c.gateway.mu.Unlock()
	c.gateway.heard[connection] = time.Now()
}

// silentConnection is how long a gateway may not name a connection before it counts as ended. It
// names all of them every ten seconds.
const silentConnection = 45 * time.Second

// EndSilentConnections ends connections that no gateway names any more: it was killed, and they with it.
func (c *Control) EndSilentConnections(ctx context.Context) error {
	var silent []api.ConnectionReport
	err := c.Store.Read(ctx, func(tx *store.Tx) error {
		open, err := tx.OpenConnections(0)
		if err != nil {
			return err
		}
		c.gateway.mu.Lock()
		defer c.gateway.mu.Unlock()
		for _, conn := range open {
			last := c.gateway.heard[conn.ID]
			if last.Before(c.gateway.since) {
				last = c.gateway.since
			}
			if time.Since(last) > silentConnection {
				silent = append(silent, api.ConnectionReport{ID: conn.ID, BytesIn: conn.BytesIn, BytesOut: conn.BytesOut, Ended: true, Why: dspool.Reason{Code: dspool.WhyGatewayGone}})
			}
		}
		maps.DeleteFunc(c.gateway.heard, func(_ string, last time.Time) bool { return time.Since(last) > 2*silentConnection })
		return nil
	})
	if err != nil || len(silent) == 0 {
		return err
	}
	return c.ReportConnections(ctx, silent)
}

// ReportConnections takes the gateway's word on connections.
func (c *Control) ReportConnections(ctx context.Context, reports []api.ConnectionReport) error {
	quiet := true
	for _, r := range reports {
		c.heard(r.ID)
		quiet = quiet && !r.Ended
	}
	return c.write(ctx, func(w *work) error {
		var rows []dspool.Connection
		for _, r := range reports {
			conn, err := w.Connection(r.ID)
			if dspool.ErrorCode(err) == dspool.NotFound || (err == nil && conn.Ended != nil) {
				continue
			} else if err != nil {
				return err
			}
			// Bytes alone are worth a write only now and then: when it ends, they are exact.
			if !r.Ended && r.BytesIn == conn.BytesIn && r.BytesOut == conn.BytesOut {
				continue
			}
			conn.BytesIn, conn.BytesOut = max(r.BytesIn, conn.BytesIn), max(r.BytesOut, conn.BytesOut)
			if r.Ended {
				now := w.Now()
				conn.Ended = &now
			}
			rows = append(rows, conn)
			if err := w.connectionMoved(conn, r); err != nil {
				return err
			}
		}
		return w.UpdateConnections(rows)
	})
}

func (w *work) connectionMoved(conn dspool.Connection, r api.ConnectionReport) error {
	s, err := w.Session(conn.Session)
	if err != nil {
		return err
	}
	at := clamp(r.LastInput, s.LastActive, w.Now())
	if r.Ended {
		at = w.Now()
		w.wake(topicPlan, topicGateway)
		err := w.event(dspool.Event{
			Actor: conn.User, Kind: "session.logout", Pool: s.Pool, Machine: s.Machine, User: conn.User,
			Message: fmt.Sprintf("%s left after %s: %s in, %s out", conn.User, w.Now().Sub(conn.Started).Round(time.Second),
				dspool.FormatBytes(conn.BytesIn), dspool.FormatBytes(conn.BytesOut)),
			Reason: heard(r.Why, conn.User),
		})
		if err != nil {
			return err
		}
	}
	if s.State == dspool.SessionClosed || at.Sub(s.LastActive) < seenEvery && !r.Ended {
		return nil
	}
	s.LastActive = at
	return w.UpdateSession(s)
}

// SignMachineLogin makes the certificate with which the gateway logs into the machine of a session.
func (c *Control) SignMachineLogin(ctx context.Context, req api.MachineLogin) (out api.MachineCertificate, err error) {
	err = c.Store.Read(ctx, func(tx *store.Tx) error {
		conn, err := tx.Connection(req.Connection)
		if err != nil {
			return err
		}
		s, err := tx.Session(req.Session)
		if err != nil {
			return err
		}
		if conn.Ended != nil || conn.Session != s.ID || s.State != dspool.SessionOpen {
			return dspool.Errorf(dspool.Conflict, "connection %s has no open session %d", dspool.Quote(req.Connection), req.Session)
		}
		if _, err := tx.User(conn.User); err != nil {
			return err
		}
		id := fmt.Sprintf("%s connection %s", conn.User, conn.ID)
		out.Certificate, err = c.SSH.SignGateway(req.PublicKey, conn.User, id, uint64(tx.Now().UnixMicro()), tx.Now())
		return err
	})
	return out, err
}

// Doors lists the places where people come in.
func (c *Control) Doors(ctx context.Context) (list api.List[dspool.Door], err error) {
	list.Items = []dspool.Door{}
	err = c.Store.Read(ctx, func(tx *store.Tx) error {
		doors, err := doorsOf(tx)
		list.Items = append(list.Items, doors...)
		return err
	})
	return list, err
}
