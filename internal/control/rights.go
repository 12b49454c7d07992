package control

import (
	"crypto/sha256"
	"fmt"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/store"
)

// accounts are who things are done as on machines: in sessions, apps and tasks alike.
type accounts struct {
	tx   *store.Tx
	gids map[string]int // of groups; nil before the first is asked for
	seen map[int]api.Account
}

func accountsOf(tx *store.Tx) *accounts { return &accounts{tx: tx, seen: map[int]api.Account{}} }

// of returns the account of a name and id. One that has been removed is in no group.
func (a *accounts) of(name string, uid int) (api.Account, error) {
	if known, ok := a.seen[uid]; ok {
		return known, nil
	}
	who := api.Account{User: name, UID: uid, GID: uid, Home: dspool.HomeMount + "/" + name}
	user, err := a.tx.User(name)
	if err != nil && dspool.ErrorCode(err) != dspool.NotFound {
		return who, err
	}
	if err == nil && user.UID == uid {
		for _, g := range user.Groups {
			gid, err := a.gid(g)
			if err != nil {
				return who, err
			}
			who.Groups = append(who.Groups, api.GroupID{Name: g, GID: gid})
		}
	}
	a.seen[uid] = who
	return who, nil
}

func (a *accounts) gid(group string) (int, error) {
	if a.gids == nil {
		groups, err := a.tx.Groups()
		if err != nil {
			return 0, err
		}
		a.gids = map[string]int{}
		for _, g := range groups {
			a.gids[g.Name] = g.GID
		}
	}
	return a.gids[group], nil
}

// rightsOf names what an account may do on its machines: another name is another right.
func rightsOf(who api.Account) string { return nameOf(who.UID, who.Groups) }

// accessOf names what lets somebody in as who, and with which rights.
func accessOf(tx *store.Tx, who api.Account) (string, error) {
	keys, err := tx.UserKeys(who.User)
	if err != nil {
		return "", err
	}
	prints := make([]string, len(keys))
	for i, k := range keys {
		prints[i] = k.Fingerprint
	}
	return nameOf(rightsOf(who), prints), nil
}

func nameOf(things ...any) string {
	return fmt.Sprintf("%x", sha256.Sum256(fmt.Append(nil, things...)))[:16]
}

// openRights are the rights in open sessions, as the gateway is told them.
func openRights(tx *store.Tx) (list []api.Rights, err error) {
	sessions, err := tx.OpenSessions()
	if err != nil {
		return nil, err
	}
	accounts := accountsOf(tx)
	for _, s := range sessions {
		if s.State != dspool.SessionOpen {
			continue
		}
		who, err := accounts.of(s.User, s.UID)
		if err != nil {
			return nil, err
		}
		r := api.Rights{Session: s.ID}
		if r.Rights, err = accessOf(tx, who); err != nil {
			return nil, err
		}
		list = append(list, r)
	}
	return list, nil
}

// rightsSetting is the setting that holds when a user's rights on machines were changed last.
func rightsSetting(user string) string { return "rights." + user }

// rightsChanged has machines and the gateway drop what they prepared with the rights that a user had.
func (w *work) rightsChanged(user string) error {
	machines, err := w.TouchUser(user)
	if err != nil {
		return err
	}
	for _, m := range machines {
		w.wake(TopicMachine(m))
	}
	w.wake(topicGateway)
	return w.SetSetting(rightsSetting(user), w.Now().Format(time.RFC3339Nano))
}

// beforeRights is what still runs of a user with the rights from before they were changed last.
type beforeRights struct {
	attempts []store.AttemptRow
	sessions []store.SessionRow
	told     api.OldRights
}

func (w *work) beforeRights(user dspool.User) (b beforeRights, err error) {
	text, err := w.Setting(rightsSetting(user.Name))
	if err != nil || text == "" {
		return b, err
	}
	changed, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return b, fmt.Errorf("read setting %s: %w", rightsSetting(user.Name), err)
	}
	open, err := w.OpenAttempts("")
	if err != nil {
		return b, err
	}
	for _, a := range open {
		if a.User == user.Name && a.Started != nil && a.Started.Before(changed) {
			b.attempts = append(b.attempts, a)
			b.told.Tasks++
		}
	}
	sessions, err := w.Sessions(store.SessionFilter{User: user.Name})
	if err != nil {
		return b, err
	}
	for _, s := range sessions {
		if s.State != dspool.SessionOpen || s.UID != user.UID || s.Opened == nil || !s.Opened.Before(changed) {
			continue
		}
		lives := s.Active
		apps, err := w.AppsOf(s.ID)
		if err != nil {
			return b, err
		}
		for _, a := range apps {
			if a.Started != nil && a.Started.Before(changed) {
				b.told.Apps++
				lives = true
			}
		}
		connections, err := w.OpenConnections(s.ID)
		if err != nil {
			return b, err
		}
		for _, c := range connections {
			if c.Started.Before(changed) {
				b.told.Connections++
				lives = true
			}
		}
		b.sessions = append(b.sessions, s)
		if lives {
			b.told.Sessions++
		}
	}
	return b, nil
}

// end ends all of it.
func (b beforeRights) end(w *work, why dspool.Reason) error {
	ids := make([]int64, len(b.attempts))
	for i, a := range b.attempts {
		ids[i] = a.ID
		for _, cl := range a.Claims {
			w.wake(TopicMachine(cl.Machine))
		}
		w.wake(TopicJob(a.Job))
	}
	if err := w.SetDesired(ids, store.Cancel, why); err != nil {
		return err
	}
	for i := range b.sessions {
		if err := w.closeSession(&b.sessions[i], why); err != nil {
			return err
		}
	}
	return nil
}
