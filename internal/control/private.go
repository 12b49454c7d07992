package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/config"
	"github.com/dspool/dspool/internal/store"
)

// PrivateFolders are the folders of a share of jobs in which users keep what is theirs alone.
var PrivateFolders = []string{jobsFolder, notebooksFolder}

// PrivateFolder is a folder of a share that is one user's alone.
type PrivateFolder struct {
	Share  string // path of the share on the host
	Folder string // below it
	Target string // where machines see it
}

// JobsShare is the name of the share that keeps jobs; "" if there is none.
func JobsShare(tx *store.Tx) (string, error) { return tx.Setting(settingJobsShare) }

// prepare makes what a machine mounts of users' private folders those of the users who have a
// claim on it, no more and no less. People are root there and read all that is mounted.
func (c *Control) prepare(ctx context.Context, machine string) error {
	leave, err := c.preparing.enter(ctx, machine) // what one read must not overwrite what the next one reads later
	if err != nil {
		return err
	}
	defer leave()
	var folders []PrivateFolder
	err = c.Store.Read(ctx, func(tx *store.Tx) (err error) {
		folders, err = privateFolders(tx, machine)
		return err
	})
	if err != nil {
		return err
	}
	if c.Prepare == nil {
		return errors.New("nothing mounts users' folders")
	}
	if err := c.Prepare(ctx, machine, folders); err != nil {
		c.Log.Error("mount what is private to users", "machine", machine, "err", err)
		return fmt.Errorf("mount users' folders on %s: %w", machine, err)
	}
	return nil
}

// privateFolders are those of all users with a claim on a machine, in order of their place there.
func privateFolders(tx *store.Tx, machine string) ([]PrivateFolder, error) {
	m, err := tx.Machine(machine)
	if err != nil {
		return nil, err
	}
	pool, err := tx.Pool(m.Pool)
	if err != nil {
		return nil, err
	}
	var homes []dspool.Share
	for _, name := range pool.Shares {
		s, err := tx.Share(name)
		if err != nil {
			return nil, err
		}
		if s.Mount == dspool.HomeMount {
			homes = append(homes, s)
		}
	}
	set := map[PrivateFolder]bool{}
	add := func(s dspool.Share, folder string) {
		set[PrivateFolder{Share: s.Path, Folder: folder, Target: path.Join(s.Mount, folder)}] = true
	}
	home := func(user string) {
		for _, s := range homes {
			add(s, user)
		}
	}
	if err := addJobFolders(tx, machine, home, add); err != nil {
		return nil, err
	}
	sessions, err := tx.Sessions(store.SessionFilter{Machine: machine})
	if err != nil {
		return nil, err
	}
	name, err := JobsShare(tx)
	if err != nil {
		return nil, err
	}
	for _, s := range sessions {
		home(s.User)
		if !slices.Contains(pool.Shares, name) {
			continue
		}
		share, err := tx.Share(name)
		if err != nil {
			return nil, err
		}
		for _, folder := range PrivateFolders {
			add(share, folder+"/"+s.User)
		}
	}
	folders := make([]PrivateFolder, 0, len(set))
	for f := range set {
		folders = append(folders, f)
	}
	slices.SortFunc(folders, func(a, b PrivateFolder) int { return cmp.Compare(a.Target, b.Target) })
	return folders, nil
}

// addJobFolders adds those of the users whose attempts a machine has.
func addJobFolders(tx *store.Tx, machine string, home func(string), add func(dspool.Share, string)) error {
	attempts, err := tx.OpenAttempts(machine)
	if err != nil {
		return err
	}
	ids := make([]int64, 0, len(attempts))
	for _, a := range attempts {
		ids = append(ids, a.Job)
	}
	slices.Sort(ids)
	jobs, err := tx.JobsByID(slices.Compact(ids))
	if err != nil {
		return err
	}
	for _, j := range jobs {
		share, err := tx.Share(j.Share)
		if err != nil {
			return err
		}
		home(j.User)
		add(share, jobsFolder+"/"+j.User)
	}
	return nil
}

// privacyConflicts refuses what would make machines private, or no longer, that are there: what
// they do not see was settled when they were made.
func (w *work) privacyConflicts(cfg *config.Config, machines []store.MachineRow) (problems []config.Problem, err error) {
	pools, err := w.Pools()
	if err != nil {
		return nil, err
	}
	jobs, err := JobsShare(w.Tx)
	if err != nil {
		return nil, err
	}
	problems = exposed(cfg)
	for _, old := range pools {
		n := howMany(machines, func(m store.MachineRow) bool { return m.Pool == old.Name })
		i := slices.IndexFunc(cfg.Pools, func(p dspool.Pool) bool { return p.Name == old.Name })
		if n == 0 || i < 0 {
			continue
		}
		const hint = "wait until its machines are gone, or remove them"
		switch {
		case old.Policy.Sudo != cfg.Pools[i].Policy.Sudo:
			problems = append(problems, cfg.ProblemAt("pool", old.Name, fmt.Sprintf("sudo of pool %s cannot be changed: it has %d machines", old.Name, n), hint))
		case old.Policy.Sudo && jobs != cfg.Defaults.JobsShare:
			problems = append(problems, cfg.ProblemAt("pool", old.Name,
				fmt.Sprintf("the share of jobs cannot be changed: people are root on the %d machines of pool %s", n, old.Name), hint))
		}
	}
	return problems, nil
}

// exposed finds shares of pools whose people become root in which another share lies that keeps
// what is private: it would be seen through them.
func exposed(cfg *config.Config) (problems []config.Problem) {
	for _, p := range cfg.Pools {
		for _, outer := range cfg.Shares {
			if !p.Policy.Sudo || !slices.Contains(p.Shares, outer.Name) || outer.Mount == dspool.HomeMount {
				continue
			}
			for _, s := range cfg.Shares {
				private := s.Mount == dspool.HomeMount || s.Name == cfg.Defaults.JobsShare
				if private && s.Name != outer.Name && (s.Path == outer.Path || strings.HasPrefix(s.Path, outer.Path+"/")) {
					problems = append(problems, cfg.ProblemAt("pool", p.Name,
						fmt.Sprintf("people are root on machines of pool %s, and would see share %s in share %s", p.Name, s.Name, outer.Name),
						"give the shares paths beside each other, or take "+outer.Name+" from the pool"))
				}
			}
		}
	}
	return problems
}
