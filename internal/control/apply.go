package control

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/auth"
	"github.com/dspool/dspool/internal/config"
	"github.com/dspool/dspool/internal/store"
)

// Problems is several things wrong with one file, as one error.
type Problems struct {
	Sum    error // says the first, and how many there are
	Fields []api.FieldProblem
}

func (p *Problems) Error() string { return p.Sum.Error() }

// Unwrap returns the error that sums the problems up.
func (p *Problems) Unwrap() error { return p.Sum }

// Apply makes the configuration that of a file, or only says what would change. Everything
// wrong with the file is reported at once, and then nothing is changed.
func (c *Control) Apply(ctx context.Context, who auth.Subject, req api.ApplyRequest) (res api.ApplyResult, err error) {
	if !auth.Can(who, auth.Change, auth.Config, "") {
		return res, forbid("change the configuration")
	}
	cfg, problems := config.Parse(req.Name, []byte(req.Text), req.Dir)
	if len(problems) == 0 {
		cfg.SetStateDir(c.StateDir)
		problems = append(keysOfFile(cfg), c.authoritiesOfFile(cfg)...)
		for i := range cfg.Images {
			if err := c.findRecipe(&cfg.Images[i], cfg.Server.Images, req.Dir); err != nil {
				message, hint := sentence(err)
				problems = append(problems, cfg.ProblemAt("image", cfg.Images[i].Name, message, hint))
			}
		}
	}
	if len(problems) > 0 {
		return res, problemsError(problems)
	}
	err = c.write(ctx, func(w *work) error {
		gone, err := w.withoutRemoved(cfg)
		if err != nil {
			return err
		}
		current, err := currentConfig(w.Tx, cfg)
		if err != nil {
			return err
		}
		res = api.ApplyResult{Changes: append(gone, config.Diff(current, cfg)...), Applied: !req.DryRun}
		if problems, err := w.conflicts(cfg, res.Changes); err != nil {
			return err
		} else if len(problems) > 0 {
			return conflictError(problems)
		}
		if req.DryRun {
			return nil
		}
		return w.apply(who, current, cfg, res.Changes)
	})
	if err != nil || req.DryRun {
		return res, err
	}
	if err := c.EnsureHub(ctx); err != nil {
		c.Log.Error("keep JupyterHub running", "err", err)
	}
	return res, c.EnsureImages(ctx)
}

// sentence takes an error apart into what a problem of a file shows of it.
func sentence(err error) (message, hint string) {
	if e := (*dspool.Error)(nil); errors.As(err, &e) {
		return e.Message, e.Hint
	}
	return err.Error(), ""
}

// findRecipe gives an image the path of its recipe, and refuses a recipe that is wrong.
func (c *Control) findRecipe(img *dspool.Image, recipes, beside string) error {
	var dirs []string
	if recipes != "" {
		dirs = append(dirs, recipes)
	}
	if beside != "" {
		dirs = append(dirs, filepath.Join(beside, "images"))
	}
	path, err := c.Images.Resolve(*img, dirs...)
	if err != nil {
		return err
	}
	img.Recipe = path
	_, err = c.Images.Key(*img)
	return err
}

func problemsError(problems []config.Problem) error {
	return &Problems{Sum: config.Err(problems), Fields: config.FieldProblems(problems)}
}

// conflictError is for what the file may well say, only not now.
func conflictError(problems []config.Problem) error {
	var sum *dspool.Error
	if !errors.As(config.Err(problems), &sum) {
		return config.Err(problems)
	}
	return &Problems{Sum: &dspool.Error{Code: dspool.Conflict, Message: sum.Message, Hint: sum.Hint}, Fields: config.FieldProblems(problems)}
}

// currentConfig is what is applied now, in the form of a file that says as much as wanted.
func currentConfig(tx *store.Tx, wanted *config.Config) (*config.Config, error) {
	cfg := &config.Config{}
	var err error
	if cfg.Pools, err = tx.Pools(); err != nil {
		return nil, err
	}
	if cfg.Sizes, err = tx.Sizes(); err != nil {
		return nil, err
	}
	if cfg.Shares, err = tx.Shares(); err != nil {
		return nil, err
	}
	if cfg.Images, err = tx.Images(); err != nil {
		return nil, err
	}
	users, err := tx.Users()
	if err != nil {
		return nil, err
	}
	for _, u := range users {
		now, err := fileUser(tx, u, wanted.Users)
		if err != nil {
			return nil, err
		}
		cfg.Users = append(cfg.Users, now)
	}
	if cfg.Doors, err = doorsOf(tx); err != nil {
		return nil, err
	}
	if cfg.Retention, err = retention(tx); err != nil {
		return nil, err
	}
	if err := readSetting(tx, settingSSH, &cfg.SSH); err != nil {
		return nil, err
	}
	if err := readSetting(tx, settingWeb, &cfg.Web); err != nil {
		return nil, err
	}
	if err := readSetting(tx, settingLogin, &cfg.Login); err != nil {
		return nil, err
	}
	for key, into := range map[string]*string{settingUser: &cfg.Defaults.User, settingPool: &cfg.Defaults.Pool, settingJobsShare: &cfg.Defaults.JobsShare} {
		if *into, err = tx.Setting(key); err != nil {
			return nil, err
		}
	}
	cfg.UIDs, err = (&work{Tx: tx}).uidRange()
	return cfg, err
}

// conflicts finds changes that what runs now does not allow.
func (w *work) conflicts(cfg *config.Config, changes []api.Change) (problems []config.Problem, err error) {
	machines, err := w.LiveMachines()
	if err != nil {
		return nil, err
	}
	machines = slices.DeleteFunc(machines, isDead)
	jobs, err := w.OpenJobs()
	if err != nil {
		return nil, err
	}
	users, err := w.Users()
	if err != nil {
		return nil, err
	}
	for _, u := range users {
		if u.UID < cfg.UIDs.First || u.UID > cfg.UIDs.Last {
			problems = append(problems, cfg.ProblemAt("user", u.Name,
				fmt.Sprintf("user %s has id %d, outside the new range %d-%d", u.Name, u.UID, cfg.UIDs.First, cfg.UIDs.Last), "widen users.uid_range"))
		}
	}
	private, err := w.privacyConflicts(cfg, machines)
	if err != nil {
		return nil, err
	}
	problems = append(problems, private...)
	for _, ch := range changes {
		switch {
		case ch.Kind == "pool" && ch.Action == "remove":
			pool, err := w.Pool(ch.Name)
			if err != nil {
				return nil, err
			}
			// What runs there is the server's own, which ends it.
			n := howMany(machines, func(m store.MachineRow) bool { return m.Pool == ch.Name && pool.Runs == "" })
			waiting := howMany(jobs, func(j store.JobRow) bool { return j.Spec.Pool == ch.Name })
			if n+waiting > 0 {
				problems = append(problems, cfg.ProblemAt("pool", ch.Name,
					fmt.Sprintf("pool %s cannot be removed: it has %d machines and %d jobs", ch.Name, n, waiting), "cancel its jobs and wait until its machines are gone"))
			}
		case ch.Kind == "share" && ch.Action != "add":
			// Machines have mounted it as it was, and jobs that have not ended write there.
			mounted := map[string]bool{}
			pools, err := w.Pools()
			if err != nil {
				return nil, err
			}
			for _, p := range pools {
				mounted[p.Name] = slices.Contains(p.Shares, ch.Name)
			}
			n := howMany(machines, func(m store.MachineRow) bool { return mounted[m.Pool] })
			waiting := howMany(jobs, func(j store.JobRow) bool { return j.Share == ch.Name })
			if n+waiting > 0 {
				verb := map[string]string{"remove": "removed", "change": "changed"}[ch.Action]
				problems = append(problems, cfg.ProblemAt("share", ch.Name,
					fmt.Sprintf("share %s cannot be %s: %d machines have mounted it and %d jobs write there", ch.Name, verb, n, waiting), "wait until they are gone"))
			}
		}
	}
	return problems, nil
}

func howMany[T any](list []T, match func(T) bool) int {
	n := 0
	for _, t := range list {
		if match(t) {
			n++
		}
	}
	return n
}

// apply writes the configuration down. Users that the file does not name stay: they were
// added by hand, and removing people is never a side effect.
func (w *work) apply(who auth.Subject, current, cfg *config.Config, changes []api.Change) error {
	if err := w.SetSetting(settingUIDs, fmt.Sprintf("%d-%d", cfg.UIDs.First, cfg.UIDs.Last)); err != nil {
		return err
	}
	for key, value := range map[string]string{settingUser: cfg.Defaults.User, settingPool: cfg.Defaults.Pool, settingJobsShare: cfg.Defaults.JobsShare} {
		if err := w.SetSetting(key, value); err != nil {
			return err
		}
	}
	for _, z := range cfg.Sizes {
		if err := w.PutSize(z); err != nil {
			return err
		}
	}
	for _, s := range cfg.Shares {
		if err := w.PutShare(s); err != nil {
			return err
		}
		if err := readyShare(s, s.Name == cfg.Defaults.JobsShare); err != nil {
			return err
		}
	}
	for _, img := range cfg.Images {
		old, err := w.Image(img.Name)
		if dspool.ErrorCode(err) == dspool.NotFound {
			img.State = dspool.ImageMissing
		} else if err != nil {
			return err
		} else {
			old.Recipe = img.Recipe
			img = old
		}
		if err := w.PutImage(img); err != nil {
			return err
		}
	}
	for _, p := range cfg.Pools {
		if err := w.PutPool(p); err != nil {
			return err
		}
	}
	for _, u := range cfg.Users {
		if err := w.applyUser(who, u); err != nil {
			return err
		}
	}
	if err := w.setDoors(cfg.Doors); err != nil {
		return err
	}
	if err := w.setRetention(cfg.Retention); err != nil {
		return err
	}
	if err := w.setSSH(cfg.SSH); err != nil {
		return err
	}
	if err := w.setServer(cfg.Server); err != nil {
		return err
	}
	if err := w.setWeb(cfg.Web, cfg.Login); err != nil {
		return err
	}
	for _, ch := range changes {
		if ch.Action == "remove" {
			if err := w.drop(ch.Kind, ch.Name); err != nil {
				return err
			}
		}
	}
	if len(changes) == 0 {
		return nil
	}
	w.wake(topicPlan, TopicAccess)
	return w.event(dspool.Event{Actor: who.Name(), Kind: "config.applied", Message: fmt.Sprintf("configuration applied: %d changes", len(changes))})
}

func (w *work) drop(kind, name string) error {
	switch kind {
	case "pool":
		return w.DeletePool(name)
	case "size":
		return w.DeleteSize(name)
	case "share":
		return w.DeleteShare(name)
	case "image":
		return w.DeleteImage(name)
	}
	return nil
}
