package control

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/auth"
	"github.com/dspool/dspool/internal/plan"
	"github.com/dspool/dspool/internal/store"
)

// Decision is one transaction in which a plan is computed and written down.
type Decision struct{ *work }

// Rows is what a plan was computed from, as the store has it.
type Rows struct {
	Pools    []string // names
	Machines map[string]*store.MachineRow
	Jobs     map[int64]*store.JobRow
}

// Decide runs fn in one transaction; what it changes is durable before anybody is woken.
func (c *Control) Decide(ctx context.Context, fn func(*Decision) error) error {
	return c.write(ctx, func(w *work) error { return fn(&Decision{w}) })
}

// UIDRange returns the configured range of users' ids.
func UIDRange(tx *store.Tx) (dspool.UIDRange, error) { return (&work{Tx: tx}).uidRange() }

const planner = "planner"

// Enact writes a plan down: placements, recalls, machines to be and to go, and every reason.
func (d *Decision) Enact(rows Rows, p plan.Plan) error {
	touched := map[int64]bool{}
	if err := d.place(rows, p.Place, touched); err != nil {
		return fmt.Errorf("place tasks: %w", err)
	}
	if err := d.recall(p.Recall); err != nil {
		return fmt.Errorf("recall tasks: %w", err)
	}
	for _, c := range p.Create {
		if err := d.create(rows, c); err != nil {
			return fmt.Errorf("create machine: %w", err)
		}
	}
	for _, x := range p.Destroy {
		if err := d.destroy(rows.Machines[x.Machine], x.Reason); err != nil {
			return fmt.Errorf("destroy machine: %w", err)
		}
	}
	if err := d.enactSessions(p); err != nil {
		return fmt.Errorf("seat sessions: %w", err)
	}
	reasons := map[int64]dspool.Reason{}
	for _, w := range p.Waiting {
		reasons[w.Job] = w.Reason
	}
	for id, job := range rows.Jobs {
		if !job.Cancelling && !job.Reason.Equal(reasons[id]) {
			job.Reason = reasons[id]
			touched[id] = true
			d.wake(TopicJob(id))
		}
	}
	for _, id := range slices.Sorted(maps.Keys(touched)) {
		if err := d.UpdateJob(*rows.Jobs[id]); err != nil {
			return err
		}
	}
	return d.note(rows.Pools, p.Notes)
}

func (d *Decision) place(rows Rows, places []plan.Place, touched map[int64]bool) error {
	var attempts []store.AttemptRow
	for _, p := range places {
		job := rows.Jobs[p.Job]
		indices := job.Pending.Take(p.Count)
		if p.Try && len(indices) == 1 { // not always the same
			job.Pending.Add(indices[0])
			i, _ := job.Pending.TakeNth(rand.Int64N(job.Pending.Len()))
			indices[0] = i
		}
		if len(indices) == 0 {
			continue
		}
		for _, i := range indices {
			attempts = append(attempts, store.AttemptRow{
				Job: job.ID, Index: i, User: job.User, State: dspool.TaskAssigned, Reason: p.Reason, Assigned: d.Now(),
				Claims: []store.ClaimRow{{Machine: p.Machine, Request: job.Spec.Request(), Desired: store.Run}},
			})
		}
		count(&job.Tasks, dspool.TaskPending, -int64(len(indices)))
		count(&job.Tasks, dspool.TaskAssigned, int64(len(indices)))
		touched[p.Job] = true
		d.wake(TopicMachine(p.Machine), TopicJob(p.Job))
		what := fmt.Sprintf("task %d", indices[0])
		if n := len(indices); n > 1 {
			what = fmt.Sprintf("%d tasks, from %d on,", n, indices[0])
		}
		err := d.event(dspool.Event{
			Actor: planner, Kind: "task.placed", Pool: job.Spec.Pool, Machine: p.Machine, Job: job.ID, User: job.User,
			Message: fmt.Sprintf("%s of job %d placed on %s", what, job.ID, p.Machine), Reason: p.Reason,
		})
		if err != nil {
			return err
		}
	}
	if len(attempts) == 0 {
		return nil
	}
	_, err := d.InsertAttempts(attempts)
	return err
}

func (d *Decision) recall(recalls []plan.Recall) error {
	for len(recalls) > 0 {
		// Those of one reason together: usually all of a machine's.
		reason, n := recalls[0].Reason, 1
		for n < len(recalls) && recalls[n].Reason.Equal(reason) {
			n++
		}
		ids := make([]int64, n)
		for i, r := range recalls[:n] {
			ids[i] = r.Attempt
		}
		recalls = recalls[n:]
		if err := d.SetDesired(ids, store.Recall, reason); err != nil {
			return err
		}
		rows, err := d.Attempts(ids)
		if err != nil {
			return err
		}
		for _, a := range rows {
			for _, cl := range a.Claims {
				d.wake(TopicMachine(cl.Machine))
			}
		}
	}
	return nil
}

func (d *Decision) create(rows Rows, c plan.Create) error {
	pool, err := d.Pool(c.Pool)
	if err != nil {
		return err
	}
	name, err := d.NextMachineName(c.Pool)
	if err != nil {
		return err
	}
	image, err := d.Image(pool.Image)
	if err != nil {
		return err
	}
	m := store.MachineRow{Disk: c.Size.Disk, ImageKey: image.Key}
	m.Machine = dspool.Machine{
		Name: name, Pool: c.Pool, Size: c.Size.Name, Resources: c.Size.Resources, Price: c.Size.Price, Image: pool.Image,
		State: dspool.Creating, Reason: c.Reason, Health: dspool.HealthUnknown, Created: d.Now(),
	}
	if m.TokenHash, err = d.tokenHash(name); err != nil {
		return err
	}
	if err := d.InsertMachine(m); err != nil {
		return err
	}
	rows.Machines[name] = &m
	return d.event(dspool.Event{
		Actor: planner, Kind: "machine.create", Pool: c.Pool, Machine: name,
		Message: fmt.Sprintf("%s is being created, size %s", name, c.Size.Name), Reason: c.Reason,
	})
}

func (w *work) tokenHash(machine string) (string, error) {
	token, err := w.authority.EnrolToken(machine)
	return auth.HashSecret(token), err
}

func (d *Decision) destroy(m *store.MachineRow, reason dspool.Reason) error {
	m.State, m.Reason, m.Tries, m.RetryAt = dspool.Destroying, reason, 0, time.Time{}
	if err := d.UpdateMachine(*m); err != nil {
		return err
	}
	d.wake(topicGateway)
	return d.event(dspool.Event{
		Actor: planner, Kind: "machine.destroy", Pool: m.Pool, Machine: m.Name,
		Message: m.Name + " is being removed", Reason: reason,
	})
}

// note keeps for every pool why it does not grow when it should.
func (d *Decision) note(pools []string, notes []plan.Note) error {
	for _, pool := range pools {
		var note dspool.Reason
		for _, n := range notes {
			if n.Pool == pool {
				note = n.Reason
			}
		}
		if was, err := d.Note(pool); err != nil {
			return err
		} else if was.Equal(note) {
			continue
		}
		if err := d.SetNote(pool, note); err != nil {
			return err
		}
	}
	return nil
}

// DestroyFailed records that the provider could not remove a machine; it is tried again after wait.
func (c *Control) DestroyFailed(ctx context.Context, name string, cause error, wait time.Duration) error {
	return c.write(ctx, func(w *work) error {
		m, err := w.Machine(name)
		if err != nil || m.State.Ended() {
			return err
		}
		m.Tries++
		m.RetryAt = w.Now().Add(wait)
		m.HealthReason = dspool.Why(dspool.WhyRemovingFailed, dspool.ReasonParams{Count: int64(m.Tries), Detail: dspool.Clip(cause.Error())})
		m.Health = dspool.Unhealthy
		w.wake(topicPlan)
		if err := w.UpdateMachine(m); err != nil || m.Tries > 1 {
			return err
		}
		return w.event(dspool.Event{
			Actor: "server", Kind: "machine.stuck", Pool: m.Pool, Machine: name,
			Message: name + " could not be removed; it is tried again until it is gone", Reason: m.HealthReason,
		})
	})
}

// MachineSilent records that a machine's agent has not been heard for too long. Nothing on it is
// touched: it only takes no new claims.
func (c *Control) MachineSilent(ctx context.Context, name string, limit time.Duration) error {
	return c.write(ctx, func(w *work) error {
		m, err := w.Machine(name)
		if err != nil || m.State != dspool.Ready || m.Health != dspool.Healthy || w.Now().Sub(m.Seen) <= limit {
			return err
		}
		m.Health, m.HealthReason = dspool.Unhealthy, dspool.Why(dspool.WhyAgentSilent, dspool.ReasonParams{Within: dspool.Duration(limit)})
		w.wake(topicPlan)
		if err := w.UpdateMachine(m); err != nil {
			return err
		}
		return w.event(dspool.Event{
			Actor: "server", Kind: "machine.unhealthy", Pool: m.Pool, Machine: name,
			Message: name + " is unhealthy", Reason: m.HealthReason,
		})
	})
}
