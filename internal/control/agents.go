package control

import (
	"context"
	"crypto/subtle"
	"fmt"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/auth"
	"github.com/dspool/dspool/internal/store"
)

// Enrol joins a machine: it trades the machine's single-use token for a certificate. The same key
// may ask again (its agent may have been killed before it stored the answer), any other may not.
func (c *Control) Enrol(ctx context.Context, req api.EnrolRequest) (api.EnrolResponse, error) {
	key, hash, err := auth.ParseRequest(req.CSR)
	if err != nil {
		return api.EnrolResponse{}, err
	}
	// Everybody on a machine may ask, so that a wrong token must not keep those who write waiting.
	err = c.Store.Read(ctx, func(tx *store.Tx) error {
		_, err := enrolling(tx, req, hash)
		return err
	})
	if err != nil {
		return api.EnrolResponse{}, err
	}
	err = c.write(ctx, func(w *work) error {
		m, err := enrolling(w.Tx, req, hash)
		if err != nil {
			return err
		}
		m.AgentKey, m.AgentReady, m.Seen = hash, true, w.Now()
		if m.HostKey, err = hostKey(req.HostKey); err != nil {
			return err
		}
		if m.State == dspool.Starting {
			if err := w.makeReady(&m); err != nil {
				return err
			}
		}
		return w.UpdateMachine(m)
	})
	if err != nil {
		return api.EnrolResponse{}, err
	}
	cert, err := c.Authority.SignMachine(req.Machine, key, c.Store.Now())
	return api.EnrolResponse{Certificate: cert, SSHTrust: c.SSH.MachineTrust()}, err
}

// enrolling returns the machine that a request to enrol may speak for.
func enrolling(tx *store.Tx, req api.EnrolRequest, key string) (store.MachineRow, error) {
	m, err := tx.Machine(req.Machine)
	if dspool.ErrorCode(err) == dspool.NotFound {
		return m, auth.ErrUnauthenticated
	} else if err != nil {
		return m, err
	}
	right := subtle.ConstantTimeCompare([]byte(m.TokenHash), []byte(auth.HashSecret(req.Token))) == 1
	if !right || m.TokenHash == "" || m.State == dspool.Destroying || m.State.Ended() || (m.AgentKey != "" && m.AgentKey != key) {
		return m, auth.ErrUnauthenticated
	}
	return m, nil
}

// hostKey is the public key of a machine's sshd, which is pinned from now on; "" has no sshd.
func hostKey(line string) (string, error) {
	if line == "" {
		return "", nil
	}
	key, _, err := auth.ParseKey(line)
	if err != nil {
		return "", err
	}
	return auth.KeyLine(key), nil
}

// MachineCreated records that the provider has made a machine; its agent may have joined before.
func (c *Control) MachineCreated(ctx context.Context, name, address string) error {
	return c.write(ctx, func(w *work) error {
		m, err := w.Machine(name)
		if err != nil || m.State.Ended() {
			return err
		}
		m.Address = address
		if m.State == dspool.Creating {
			m.State, m.Tries, m.RetryAt = dspool.Starting, 0, time.Time{}
			if m.AgentReady {
				if err := w.makeReady(&m); err != nil {
					return err
				}
			}
		}
		return w.UpdateMachine(m)
	})
}

func (w *work) makeReady(m *store.MachineRow) error {
	now := w.Now()
	m.State, m.ReadyAt, m.IdleSince = dspool.Ready, &now, &now
	m.Health, m.HealthReason = dspool.Healthy, dspool.Reason{}
	w.wake(topicPlan)
	return w.event(dspool.Event{
		Actor: "machine " + m.Name, Kind: "machine.ready", Pool: m.Pool, Machine: m.Name,
		Message: fmt.Sprintf("%s is ready, %s after it was wanted", m.Name, now.Sub(m.Created).Round(time.Millisecond)),
	})
}

// Renew gives a machine that still lives a new certificate for the key that it enrolled with.
func (c *Control) Renew(ctx context.Context, machine string, req api.RenewRequest) (api.EnrolResponse, error) {
	key, hash, err := auth.ParseRequest(req.CSR)
	if err != nil {
		return api.EnrolResponse{}, err
	}
	err = c.Store.Read(ctx, func(tx *store.Tx) error {
		m, err := agentOf(tx, machine)
		if err == nil && m.AgentKey != hash {
			return auth.ErrUnauthenticated
		}
		return err
	})
	if err != nil {
		return api.EnrolResponse{}, err
	}
	cert, err := c.Authority.SignMachine(machine, key, c.Store.Now())
	return api.EnrolResponse{Certificate: cert}, err
}

// agentOf returns the machine of an agent and refuses that of one that is no more.
func agentOf(tx *store.Tx, machine string) (store.MachineRow, error) {
	m, err := tx.Machine(machine)
	if dspool.ErrorCode(err) == dspool.NotFound || (err == nil && m.State.Ended()) {
		return m, auth.ErrUnauthenticated
	}
	return m, err
}

// Directives returns what is wanted of a machine beyond revision after, waiting up to wait for it.
func (c *Control) Directives(ctx context.Context, machine string, after int64, wait time.Duration) (api.Directives, error) {
	timeout := time.NewTimer(wait)
	defer timeout.Stop()
	watch := false // what the machine mounts
	for {
		changed := c.Changed(TopicMachine(machine))
		var left <-chan struct{}
		if watch {
			left = c.Changed(topicLeft(machine))
		}
		d, private, err := c.directives(ctx, machine, after)
		if err != nil || len(d.Attempts) > 0 || len(d.Sessions) > 0 || wait <= 0 {
			return d, err
		}
		if watch != private {
			watch = private
			continue
		}
		select {
		case <-changed:
		case <-left:
		case <-timeout.C:
			return d, nil
		case <-ctx.Done():
			return d, ctx.Err()
		case <-c.base.Done(): // the server stops: let go of the agent, it will ask again
			return d, nil
		}
	}
}

// directives also says whether what the machine mounts follows who has a claim on it.
func (c *Control) directives(ctx context.Context, machine string, after int64) (d api.Directives, private bool, err error) {
	err = c.Store.Read(ctx, func(tx *store.Tx) error {
		m, err := agentOf(tx, machine)
		if err != nil {
			return err
		}
		pool, err := tx.Pool(m.Pool)
		if err != nil && dspool.ErrorCode(err) != dspool.NotFound { // one that runs an app is removed before its machine
			return err
		}
		private = pool.Policy.Sudo
		rows, revision, err := tx.ClaimsSince(machine, after)
		if err != nil {
			return err
		}
		d.Revision = max(revision, after)
		sessions, revision, err := tx.SessionsSince(machine, after)
		if err != nil {
			return err
		}
		d.Revision = max(revision, d.Revision)
		if d.Sessions, err = c.sessionDirectives(tx, sessions); err != nil {
			return err
		}
		var ids []int64
		for _, a := range rows {
			claim := a.Claims[0]
			for _, cl := range a.Claims {
				if cl.Machine == machine {
					claim = cl
				}
			}
			d.Attempts = append(d.Attempts, api.AttemptDirective{
				ID: a.ID, Job: a.Job, Index: a.Index,
				Cancel: claim.Desired != store.Run, Recall: claim.Desired == store.Recall, Reason: toUser(a.User, claim.Why),
			})
			if len(ids) == 0 || ids[len(ids)-1] != a.Job {
				ids = append(ids, a.Job)
			}
		}
		if len(ids) == 0 {
			return nil
		}
		d.Jobs, err = taskSpecs(tx, ids)
		return err
	})
	if err == nil && private {
		// Afterwards, so that all whom the directives name are there.
		if err := c.prepare(ctx, machine); err != nil {
			return api.Directives{}, private, err
		}
	}
	return d, private, err
}

// taskSpecs makes what machines need to know of jobs.
func taskSpecs(tx *store.Tx, ids []int64) ([]api.TaskSpec, error) {
	jobs, err := tx.JobsByID(ids)
	if err != nil {
		return nil, err
	}
	accounts := accountsOf(tx)
	specs := make([]api.TaskSpec, 0, len(jobs))
	for _, j := range jobs {
		share, err := tx.Share(j.Share)
		if err != nil {
			return nil, fmt.Errorf("find the share of job %d: %w", j.ID, err)
		}
		who, err := accounts.of(j.User, j.UID)
		if err != nil {
			return nil, err
		}
		specs = append(specs, api.TaskSpec{
			Job: j.ID, Account: who, Mount: share.Mount, Dir: share.Mount + "/" + j.Dir,
			Command: j.Spec.Command, Env: j.Spec.Env, Request: j.Spec.Request(),
			Count: j.Tasks.Total, TimeLimit: j.Spec.TimeLimit,
		})
	}
	return specs, nil
}
