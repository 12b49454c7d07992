package control

import (
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
