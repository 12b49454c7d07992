package control

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/asuser"
	"github.com/dspool/dspool/internal/store"
)

// jobsFolder is the folder of a share in which jobs have their directories.
const jobsFolder = "jobs"

// makeUserTrees makes what a job's task finds on the shares: the user's home and the folder of
// the user's jobs. Below that everything is made by the machine, as the user.
func (w *work) makeUserTrees(user dspool.User, job *store.JobRow) error {
	pool, err := w.Pool(job.Spec.Pool)
	if err != nil {
		return err
	}
	name, err := w.Setting(settingJobsShare)
	if err != nil {
		return err
	}
	if name == "" || !slices.Contains(pool.Shares, name) {
		return dspool.Errorf(dspool.Invalid, "pool %s does not mount a share for jobs", pool.Name).
			WithHint("set defaults.jobs_share to a share and name it under the pool's shares")
	}
	share, err := w.Share(name)
	if err != nil {
		return err
	}
	job.Share, job.Dir = name, "" // the id is not known before the insert
	if err := w.makeHome(user); err != nil {
		return err
	}
	root, err := openShare(share)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := root.MkdirOwned(asuser.Cred{}, jobsFolder, 0o755); err != nil {
		return fmt.Errorf("make folder of jobs on share %s: %w", share.Name, err)
	}
	if err := root.MkdirOwned(credOf(user.UID), jobsFolder+"/"+user.Name, 0o700); err != nil {
		return fmt.Errorf("make folder of %s's jobs on share %s: %w", user.Name, share.Name, err)
	}
	return nil
}

// JobDir is a job's directory relative to its share.
func JobDir(user string, id int64) string {
	return jobsFolder + "/" + user + "/" + strconv.FormatInt(id, 10)
}

func credOf(uid int) asuser.Cred { return asuser.Cred{UID: uid, GID: uid} }

// makeHome makes a user's home on the share that is mounted at /home, if there is one.
func (w *work) makeHome(user dspool.User) error {
	shares, err := w.Shares()
	if err != nil {
		return err
	}
	for _, s := range shares {
		if s.Mount != dspool.HomeMount {
			continue
		}
		root, err := openShare(s)
		if err != nil {
			return err
		}
		defer root.Close()
		if err := root.MkdirOwned(credOf(user.UID), user.Name, 0o700); err != nil {
			return fmt.Errorf("make home of %s: %w", user.Name, err)
		}
	}
	return nil
}

// openShare opens a share's tree on the host, making it when it is missing. The tree's own
// directory belongs to root: users write below it, in what is theirs, and on a share that is
// not the homes' also beside each other, as in /tmp.
func openShare(s dspool.Share) (*asuser.Root, error) {
	if _, err := os.Stat(s.Path); os.IsNotExist(err) {
		mode := fs.FileMode(0o777) | fs.ModeSticky
		if s.Mount == dspool.HomeMount {
			mode = 0o755
		}
		if err := os.MkdirAll(filepath.Dir(s.Path), 0o755); err != nil {
			return nil, fmt.Errorf("make share %s: %w", s.Name, err)
		}
		if err := os.Mkdir(s.Path, 0o700); err != nil && !os.IsExist(err) {
			return nil, fmt.Errorf("make share %s: %w", s.Name, err)
		}
		if err := os.Chmod(s.Path, mode); err != nil {
			return nil, fmt.Errorf("make share %s: %w", s.Name, err)
		}
	}
	root, err := asuser.OpenRoot(s.Path)
	if err != nil {
		return nil, dspool.Errorf(dspool.Unavailable, "share %s cannot be opened: %w", s.Name, err)
	}
	return root, nil
}
