package control

import (
	"slices"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/auth"
	"github.com/dspool/dspool/internal/config"
	"github.com/dspool/dspool/internal/store"
)

// withoutRemoved takes users out of a file's configuration that somebody has removed by command: a file
// that still names them must neither bring them back nor keep the server from starting.
func (w *work) withoutRemoved(cfg *config.Config) ([]api.Change, error) {
	skipped := []api.Change{}
	var kept []config.User
	for _, u := range cfg.Users {
		gone, err := w.WasUser(u.Name)
		if err != nil {
			return nil, err
		}
		if !gone {
			kept = append(kept, u)
			continue
		}
		skipped = append(skipped, api.Change{
			Action: "skip", Kind: "user", Name: u.Name, Detail: "was removed; `dspool user add " + u.Name + "` makes a new account of that name",
		})
	}
	cfg.Users = kept
	return skipped, nil
}

// keysOfFile puts the keys of a file's users into the form in which they are kept, and finds the wrong ones.
func keysOfFile(cfg *config.Config) (problems []config.Problem) {
	for i := range cfg.Users {
		u := &cfg.Users[i]
		for k, text := range u.Keys {
			key, _, err := auth.ParseKey(text)
			if err != nil {
				message, hint := sentence(err)
				problems = append(problems, cfg.ProblemAt("user", u.Name, "user "+u.Name+": "+message, hint))
				continue
			}
			u.Keys[k] = auth.KeyLine(key)
		}
	}
	return problems
}

// fileUser is how an account stands in the terms of a file: what the file does not say about it stays.
func fileUser(tx *store.Tx, u dspool.User, wanted []config.User) (config.User, error) {
	now := config.User{Name: u.Name, Admin: u.Admin, Groups: u.Groups, DefaultPool: u.DefaultPool}
	i := slices.IndexFunc(wanted, func(w config.User) bool { return w.Name == u.Name })
	if i < 0 {
		return now, nil
	}
	want := &wanted[i]
	if want.Groups == nil {
		want.Groups = now.Groups
	}
	if want.DefaultPool == "" {
		want.DefaultPool = now.DefaultPool
	}
	keys, err := tx.UserKeys(u.Name)
	for _, k := range want.Keys {
		if slices.ContainsFunc(keys, func(have dspool.UserKey) bool { return have.Key == k }) {
			now.Keys = append(now.Keys, k)
		}
	}
	return now, err
}

// applyUser makes an account that of the file.
func (w *work) applyUser(who auth.Subject, want config.User) error {
	user, err := w.User(want.Name)
	if dspool.ErrorCode(err) == dspool.NotFound {
		user, err = w.addUser(who, want.Name, want.Admin)
	} else if err == nil && user.Admin != want.Admin {
		err = w.SetAdmin(want.Name, want.Admin)
	}
	if err != nil {
		return err
	}
	if err := w.setGroups(user, want.Groups); err != nil {
		return err
	}
	if err := w.SetDefaultPool(want.Name, want.DefaultPool); err != nil {
		return err
	}
	for _, line := range want.Keys {
		key, comment, err := auth.ParseKey(line)
		if err != nil {
			return err
		}
		err = w.Tx.AddUserKey(dspool.UserKey{Fingerprint: auth.Fingerprint(key), User: user.Name, Key: auth.KeyLine(key), Comment: comment, Added: w.Now()})
		if err != nil && dspool.ErrorCode(err) != dspool.Conflict {
			return err
		}
	}
	return nil
}
