package control

import (
	"cmp"
	"context"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/auth"
	"github.com/dspool/dspool/internal/store"
	"github.com/dspool/dspool/internal/suggest"
)

// Submit checks a job, fills its defaults and queues it. Nothing is stored when it could
// never run.
func (c *Control) Submit(ctx context.Context, who auth.Subject, req api.SubmitRequest) (dspool.Job, error) {
	if err := req.JobSpec.Check(); err != nil {
		return dspool.Job{}, err
	}
	// The job is drafted twice: once to learn what trees it needs and make them, then for good.
	var draft draft
	err := c.Store.Read(ctx, func(tx *store.Tx) (err error) {
		draft, err = (&work{Tx: tx}).draft(who, req)
		return err
	})
	if err != nil {
		return dspool.Job{}, err
	}
	if !draft.known {
		if err := draft.trees.make(); err != nil {
			return dspool.Job{}, err
		}
	}
	var job store.JobRow
	err = c.write(ctx, func(w *work) error {
		draft, err := w.draft(who, req)
		job = draft.job
		if err != nil || draft.known {
			return err
		}
		if f, ok := c.PoolFault(job.Spec.Pool); ok && job.Reason.IsZero() {
			job.Reason = dspool.Reason{Code: dspool.WhyHeldTrying}.With(f.Why)
		}
		if err := w.InsertJob(&job); err != nil {
			return err
		}
		job.Dir = JobDir(job.User, job.ID)
		if err := w.UpdateJob(job); err != nil {
			return err
		}
		w.wake(topicPlan, TopicJob(job.ID))
		tasks := "1 task"
		if job.Tasks.Total != 1 {
			tasks = fmt.Sprintf("%d tasks", job.Tasks.Total)
		}
		return w.event(dspool.Event{
			Actor: who.Name(), Kind: "job.submitted", Pool: job.Spec.Pool, Job: job.ID, User: job.User,
			Message: fmt.Sprintf("job %d submitted: %s of %s", job.ID, tasks, job.Spec.Request()),
		})
	})
	return showJob(who, job), err
}

// draft is a job as it would be stored.
type draft struct {
	job   store.JobRow
	trees trees
	known bool // it was submitted before, with the same key
}

// draft checks a submitted job against what is there and fills its defaults.
func (w *work) draft(who auth.Subject, req api.SubmitRequest) (d draft, err error) {
	user, err := w.actingUser(who, req.As)
	if err != nil {
		return d, err
	}
	if req.Key != "" {
		old, found, err := w.JobByKey(user.Name, req.Key)
		if err != nil || (found && old.UID == user.UID) {
			return draft{job: old, known: true}, err
		}
	}
	job := store.JobRow{Key: req.Key, UID: user.UID}
	job.User, job.Spec, job.State, job.Created = user.Name, req.JobSpec, dspool.JobQueued, w.Now()
	if err := w.fillSpec(&job.Spec); err != nil {
		return d, err
	}
	if job.Pending, err = dspool.ParseIndexSet(cmp.Or(job.Spec.Array, "0")); err != nil {
		return d, err
	}
	job.Tasks.Total = job.Pending.Len()
	job.Tasks.Pending = job.Tasks.Total
	if err := w.checkAfter(who, job.Spec.After); err != nil {
		return d, err
	}
	if job.Blocked, err = w.blocker(job.Spec.After); err != nil {
		return d, err
	}
	job.Reason = job.Blocked
	trees, err := w.treesOf(user, job.Spec.Pool)
	job.Share = trees.jobs.Name
	return draft{job: job, trees: trees}, err
}

// actingUser is the account a subject acts as: its own, or the one that an administrator names.
func (w *work) actingUser(who auth.Subject, as string) (dspool.User, error) {
	name := cmp.Or(as, who.User)
	if name == "" {
		var err error
		if name, err = w.Setting(settingUser); err != nil {
			return dspool.User{}, err
		}
		if name == "" {
			return dspool.User{}, dspool.Errorf(dspool.Invalid, "no user to run as: nothing ever runs as root").
				WithHint("give --as USER, or set defaults.user in the configuration")
		}
	}
	if !auth.Can(who, auth.Use, auth.Identity, name) {
		return dspool.User{}, dspool.Errorf(dspool.Forbidden, "only administrators may act as another user").WithHint("leave out --as")
	}
	user, err := w.User(name)
	if dspool.ErrorCode(err) == dspool.NotFound {
		return user, dspool.Errorf(dspool.Invalid, "there is no user %s", dspool.Quote(name)).WithHint("`dspool user list` shows all, `dspool user add` makes one")
	}
	return user, err
}

// fillSpec resolves a spec against the pool it names: defaults, and whether one task fits.
func (w *work) fillSpec(s *dspool.JobSpec) error {
	if s.Pool == "" {
		var err error
		if s.Pool, err = w.Setting(settingPool); err != nil {
			return err
		}
		if s.Pool == "" {
			return dspool.Errorf(dspool.Invalid, "the job names no pool").WithHint("give --pool; `dspool pool list` shows all")
		}
	}
	pool, err := w.Pool(s.Pool)
	if dspool.ErrorCode(err) == dspool.NotFound {
		return w.unknownPool(s.Pool)
	} else if err != nil {
		return err
	}
	if err := takesPeople(pool); err != nil {
		return err
	}
	if pool.Policy.Sudo {
		return dspool.Errorf(dspool.Invalid, "pool %s takes no jobs: people are root on its machines, each on their own", pool.Name).
			WithHint("choose another pool")
	}
	sizes, err := w.sizesOf(pool)
	if err != nil {
		return err
	}
	if s.Size != "" {
		i := slices.IndexFunc(sizes, func(z dspool.Size) bool { return z.Name == s.Size })
		if i < 0 {
			return dspool.Errorf(dspool.Invalid, "pool %s has no size %s", pool.Name, dspool.Quote(s.Size)).WithHint("%s", meant(s.Size, "it has", sizeNames(sizes)))
		}
		sizes = sizes[i : i+1]
	}
	s.CPUs = cmp.Or(s.CPUs, min(1, sizes[0].CPUs))
	asked := *s
	for _, z := range sizes {
		trial := asked
		if trial.Memory == 0 { // its share of the machine by its cpus, a whole number of MiB
			trial.Memory = max(dspool.MinMemory, int64(float64(z.Memory)*min(1, trial.CPUs/z.CPUs))>>20<<20)
		}
		if trial.Request().Fits(z.Resources) {
			*s = trial
			s.Name = cmp.Or(s.Name, title(s.Command[0]))
			return nil
		}
	}
	largest := slices.MaxFunc(sizes, func(a, b dspool.Size) int {
		return cmp.Or(cmp.Compare(a.CPUs, b.CPUs), cmp.Compare(a.Memory, b.Memory))
	})
	return dspool.Errorf(dspool.Invalid, "a task of %s fits no machine of pool %s", asked.Request(), pool.Name).
		WithHint("the largest that fits is %s, size %s", largest.Resources, largest.Name)
}

// knownPool returns a pool that somebody has named.
func (w *work) knownPool(name string) (dspool.Pool, error) {
	if name == "" {
		return dspool.Pool{}, dspool.Errorf(dspool.Invalid, "no pool is named").WithHint("`dspool pool list` shows all")
	}
	pool, err := w.Pool(name)
	if dspool.ErrorCode(err) == dspool.NotFound {
		return pool, w.unknownPool(name)
	}
	return pool, err
}

// poolForPeople is knownPool for one where people are to work.
func (w *work) poolForPeople(name string) (dspool.Pool, error) {
	pool, err := w.knownPool(name)
	if err != nil {
		return pool, err
	}
	return pool, takesPeople(pool)
}

// takesPeople refuses a pool that runs an app of the server's own: whoever got onto its machine would be
// taken for that app.
func takesPeople(pool dspool.Pool) error {
	if pool.Runs == "" {
		return nil
	}
	return dspool.Errorf(dspool.Invalid, "pool %s runs %s and takes nothing else", pool.Name, pool.Runs).WithHint("choose another pool")
}

func (w *work) unknownPool(name string) error {
	pools, err := w.Pools()
	if err != nil {
		return err
	}
	if len(pools) == 0 {
		return dspool.Errorf(dspool.Invalid, "there is no pool %s", dspool.Quote(name)).WithHint("there is none yet; `dspool apply` makes some")
	}
	names := make([]string, len(pools))
	for i, p := range pools {
		names[i] = p.Name
	}
	return dspool.Errorf(dspool.Invalid, "there is no pool %s", dspool.Quote(name)).WithHint("%s", meant(name, "there is", names))
}

// meant is the hint for a name that names nothing: the one that was probably meant, or all.
func meant(got, there string, names []string) string {
	if s := suggest.Nearest(got, names); s != "" {
		return "did you mean " + s + "?"
	}
	return there + " " + strings.Join(names, ", ")
}

func (w *work) sizesOf(p dspool.Pool) ([]dspool.Size, error) {
	sizes := make([]dspool.Size, 0, len(p.Sizes))
	for _, name := range p.Sizes {
		z, err := w.Size(name)
		if err != nil {
			return nil, err
		}
		sizes = append(sizes, z)
	}
	return sizes, nil
}

func sizeNames(sizes []dspool.Size) []string {
	names := make([]string, len(sizes))
	for i, z := range sizes {
		names[i] = z.Name
	}
	return names
}

// title makes a job's name from its program, within what CheckTitle allows.
func title(program string) string {
	name := path.Base(program)
	if len(name) > 64 || dspool.CheckTitle("", name) != nil {
		return "job"
	}
	return name
}

// checkAfter refuses jobs to wait for that are missing, hidden or have already not succeeded.
func (w *work) checkAfter(who auth.Subject, after []int64) error {
	jobs, err := w.JobsByID(after)
	if err != nil {
		return err
	}
	for _, id := range after {
		j, ok := jobs[id]
		if !ok || !auth.CanOld(who, auth.See, auth.Job, j.User, j.UID) {
			return dspool.Errorf(dspool.Invalid, "there is no job %d to wait for", id).WithHint("`dspool job list` shows yours")
		}
		if j.State.Ended() && j.State != dspool.JobSucceeded {
			return dspool.Errorf(dspool.Invalid, "job %d has already %s, so this one would never run", id, j.State)
		}
	}
	return nil
}
