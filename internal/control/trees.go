package control

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/asuser"
	"golang.org/x/sys/unix"
)

// jobsFolder is the folder of a share in which jobs have their directories.
const jobsFolder = "jobs"

// trees is what a job's task finds on the shares: the user's home and the folder of the user's
// jobs. Below that everything is made by the machine, as the user.
type trees struct {
	user  dspool.User
	jobs  dspool.Share
	homes []dspool.Share
}

// treesOf finds out what trees a user's jobs in a pool need.
func (w *work) treesOf(user dspool.User, poolName string) (t trees, err error) {
	pool, err := w.Pool(poolName)
	if err != nil {
		return t, err
	}
	name, err := w.Setting(settingJobsShare)
	if err != nil {
		return t, err
	}
	if name == "" || !slices.Contains(pool.Shares, name) {
		return t, dspool.Errorf(dspool.Invalid, "pool %s does not mount a share for jobs", pool.Name).
			WithHint("set defaults.jobs_share to a share and name it under the pool's shares")
	}
	t.user = user
	if t.jobs, err = w.Share(name); err != nil {
		return t, err
	}
	t.homes, err = w.homeShares()
	return t, err
}

// make makes the trees. A share may be slow: no transaction waits for it.
func (t trees) make() error {
	if err := makeHome(t.user, t.homes); err != nil {
		return err
	}
	root, err := openShare(t.jobs)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := root.MkdirOwned(asuser.Cred{}, jobsFolder, 0o755); err != nil {
		return shareError(t.jobs, "make folder of jobs", err)
	}
	if err := root.MkdirOwned(ownerOf(t.user), jobsFolder+"/"+t.user.Name, 0o700); err != nil {
		return shareError(t.jobs, "make folder of "+t.user.Name+"'s jobs", err)
	}
	return nil
}

// JobDir is a job's directory relative to its share.
func JobDir(user string, id int64) string {
	return jobsFolder + "/" + user + "/" + strconv.FormatInt(id, 10)
}

// credOf is whose file rights an account has on shares.
func credOf(who api.Account) asuser.Cred {
	c := asuser.Cred{UID: who.UID, GID: who.GID}
	for _, g := range who.Groups {
		c.Groups = append(c.Groups, g.GID)
	}
	return c
}

// ownerOf is whose a user's folders are.
func ownerOf(user dspool.User) asuser.Cred { return asuser.Cred{UID: user.UID, GID: user.UID} }

// homeShares are the shares that pools where people work mount at /home: at most one of a pool, perhaps
// several of all.
func (w *work) homeShares() ([]dspool.Share, error) {
	shares, err := w.Shares()
	if err != nil {
		return nil, err
	}
	pools, err := w.Pools()
	return slices.DeleteFunc(shares, func(s dspool.Share) bool {
		return s.Mount != dspool.HomeMount || !slices.ContainsFunc(pools, func(p dspool.Pool) bool { return p.Runs == "" && slices.Contains(p.Shares, s.Name) })
	}), err
}

// makeHome makes a user's home on every share of homes.
func makeHome(user dspool.User, shares []dspool.Share) error {
	for _, s := range shares {
		root, err := openShare(s)
		if err != nil {
			return err
		}
		err = root.MkdirOwned(ownerOf(user), user.Name, 0o700)
		root.Close()
		if err != nil {
			return shareError(s, "make home of "+user.Name, err)
		}
	}
	return nil
}

// shareError is a fault of a share, in words for whoever was to get something there: which share, and what is
// wrong with it.
func shareError(s dspool.Share, what string, err error) error {
	for _, errno := range []unix.Errno{unix.EDQUOT, unix.EIO, unix.EROFS, unix.ESTALE, unix.ENOTCONN, unix.ETIMEDOUT, unix.EHOSTDOWN, unix.ENODEV} {
		if errors.Is(err, errno) {
			return dspool.Errorf(dspool.Unavailable, "share %s cannot be written: %s", s.Name, errno).WithHint("an administrator has to look at its file system")
		}
	}
	if errors.Is(err, unix.ENOSPC) {
		return dspool.Errorf(dspool.Unavailable, "share %s is full", s.Name).WithHint("files on it have to be removed, or it has to get more room")
	}
	return fmt.Errorf("%s on share %s: %w", what, s.Name, err)
}

// readyShare makes a share's tree and, in that of jobs, the folders that hold users' own: where users
// write beside each other, one of them could otherwise make these first.
func readyShare(s dspool.Share, jobs bool) error {
	root, err := openShare(s)
	if err != nil {
		return err
	}
	defer root.Close()
	if !jobs {
		return nil
	}
	for _, folder := range PrivateFolders {
		if err := root.MkdirOwned(asuser.Cred{}, folder, 0o755); err != nil {
			return fmt.Errorf("make folder of %s on share %s: %w", folder, s.Name, err)
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
