package control

import (
	"context"
	"fmt"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/auth"
	"github.com/dspool/dspool/internal/store"
)

// Settings that the configuration writes and use cases read.
const (
	settingUser      = "defaults.user"
	settingPool      = "defaults.pool"
	settingJobsShare = "defaults.jobs_share"
	settingUIDs      = "users.uid_range"
)

// Users lists the accounts that the subject may see.
func (c *Control) Users(ctx context.Context, who auth.Subject) (list api.List[dspool.User], err error) {
	list.Items = []dspool.User{}
	err = c.Store.Read(ctx, func(tx *store.Tx) error {
		users, err := tx.Users()
		for _, u := range users {
			if auth.Can(who, auth.See, auth.Account, u.Name) {
				list.Items = append(list.Items, u)
			} else if auth.Can(who, auth.See, auth.UserName, u.Name) && u.Name != dspool.HubUser {
				list.Items = append(list.Items, dspool.User{Name: u.Name, UID: u.UID, Created: u.Created})
			}
		}
		return err
	})
	return list, err
}

// AddUser makes an account with an id that nobody had before, and its home.
func (c *Control) AddUser(ctx context.Context, who auth.Subject, req api.AddUserRequest) (user dspool.User, err error) {
	if !auth.Can(who, auth.Change, auth.Account, req.Name) {
		return user, forbid("add users")
	}
	if err := dspool.CheckUserName(req.Name); err != nil {
		return user, err
	}
	err = c.write(ctx, func(w *work) error {
		user, err = w.addUser(who, req.Name, req.Admin)
		return err
	})
	return user, err
}

func (w *work) addUser(who auth.Subject, name string, admin bool) (dspool.User, error) {
	ids, err := w.uidRange()
	if err != nil {
		return dspool.User{}, err
	}
	user, err := w.AddUser(name, admin, ids)
	if err != nil {
		return user, err
	}
	// Within the transaction, though a share may be slow: people are added seldom, and one without
	// a home is not added.
	homes, err := w.homeShares()
	if err != nil {
		return user, err
	}
	if err := makeHome(user, homes); err != nil {
		return user, err
	}
	return user, w.event(dspool.Event{
		Actor: who.Name(), Kind: "user.added", User: name, Message: fmt.Sprintf("user %s added with id %d", name, user.UID),
	})
}

// DefaultUIDs is the range of users' ids where the configuration names none.
var DefaultUIDs = dspool.UIDRange{First: 20000, Last: 29999}

// uidRange reads the configured range.
func (w *work) uidRange() (dspool.UIDRange, error) {
	s, err := w.Setting(settingUIDs)
	if err != nil || s == "" {
		return DefaultUIDs, err
	}
	var r dspool.UIDRange
	if _, err := fmt.Sscanf(s, "%d-%d", &r.First, &r.Last); err != nil {
		return r, fmt.Errorf("read setting %s: %w", settingUIDs, err)
	}
	return r, nil
}

// RemoveUser removes an account: its tokens end at once and its jobs are cancelled. Its files
// stay, and its id is never given again.
func (c *Control) RemoveUser(ctx context.Context, who auth.Subject, name string) error {
	if !auth.Can(who, auth.Change, auth.Account, name) {
		return forbid("remove users")
	}
	return c.write(ctx, func(w *work) error {
		user, err := w.User(name)
		if err != nil {
			return err
		}
		if uid, err := hubUID(w.Tx); err != nil {
			return err
		} else if uid == user.UID {
			return ownAccount(name)
		}
		jobs, err := w.OpenJobs()
		if err != nil {
			return err
		}
		for _, j := range jobs {
			if j.User != name {
				continue
			}
			// Cancelling one job may have ended those that wait for it.
			if j, err = w.Job(j.ID); err != nil || j.State.Ended() || j.Cancelling {
				if err != nil {
					return err
				}
				continue
			}
			if err := w.cancelJob(&j, dspool.Why(dspool.WhyUserRemoved, dspool.ReasonParams{User: name})); err != nil {
				return err
			}
		}
		sessions, err := w.OpenSessions()
		if err != nil {
			return err
		}
		for _, s := range sessions {
			if s.User == name {
				if err := w.closeSession(&s, dspool.Why(dspool.WhyUserRemoved, dspool.ReasonParams{User: name})); err != nil {
					return err
				}
			}
		}
		if err := w.RemoveUser(name); err != nil {
			return err
		}
		if err := w.endCertificates(name); err != nil {
			return err
		}
		w.wake(TopicAccess, topicGateway)
		return w.event(dspool.Event{Actor: who.Name(), Kind: "user.removed", User: name, Message: "user " + name + " removed; the files stay"})
	})
}

// Tokens lists tokens: a user's own, or for administrators those of anybody.
func (c *Control) Tokens(ctx context.Context, who auth.Subject, user string) (list api.List[dspool.Token], err error) {
	list.Items = []dspool.Token{}
	if !who.Admin {
		if user != "" && user != who.User {
			return list, nil
		}
		user = who.User
	}
	err = c.Store.Read(ctx, func(tx *store.Tx) error {
		tokens, err := tx.Tokens(user)
		for _, t := range tokens {
			list.Items = append(list.Items, t.Token)
		}
		return err
	})
	return list, err
}

// AddToken makes a token; its secret is in the answer and nowhere else.
func (c *Control) AddToken(ctx context.Context, who auth.Subject, req api.AddTokenRequest) (out api.NewToken, err error) {
	if err := dspool.CheckTitle("token name", req.Name); err != nil {
		return out, err
	}
	out.Secret = auth.NewSecret()
	err = c.write(ctx, func(w *work) error {
		if req.Spawner && !who.Admin {
			return forbid("make tokens for spawners")
		}
		if req.User != "" && !auth.Can(who, auth.Change, auth.Tokens, req.User) {
			return forbid("make tokens for others")
		}
		user, err := w.actingUser(who, req.User)
		if err != nil {
			return err
		}
		if err := ownAccount(user.Name); err != nil {
			return err
		}
		kind, what := store.TokenAPI, "token "
		if req.Spawner {
			kind, what = store.TokenSpawner, "spawner token "
		}
		out.Token = dspool.Token{ID: auth.NewID(), User: user.Name, Name: req.Name, Created: w.Now()}
		if req.Expires > 0 {
			t := w.Now().Add(time.Duration(req.Expires))
			out.Expires = &t
		}
		row := store.TokenRow{Token: out.Token, Kind: kind}
		if who.Token != "" && user.Name == who.User && !req.Spawner { // else an administrator gives others theirs
			if _, err := w.Token(who.Token); dspool.ErrorCode(err) == dspool.NotFound {
				return auth.ErrUnauthenticated // ended meanwhile
			} else if err != nil {
				return err
			}
			row.Parent, row.Expires = who.Token, soonest(out.Expires, who.Expires)
			out.Expires = row.Expires
		}
		if err := w.roomForToken(user.Name); err != nil {
			return err
		}
		if err := w.Tx.AddToken(row, auth.HashSecret(out.Secret)); err != nil {
			return err
		}
		return w.event(dspool.Event{Actor: who.Name(), Kind: "token.created", User: user.Name, Message: what + out.ID + " created for " + user.Name})
	})
	return out, err
}

// soonest is the earlier of a time and a limit; nil and zero are never.
func soonest(t *time.Time, limit time.Time) *time.Time {
	if limit.IsZero() || t != nil && t.Before(limit) {
		return t
	}
	return &limit
}

// endTokens ends a user's tokens for the API but one, and returns how many there were.
func (w *work) endTokens(user, keep string) (n int, err error) {
	tokens, err := w.Tokens(user)
	if err != nil {
		return 0, err
	}
	for _, t := range tokens {
		if t.Kind != store.TokenAPI || t.ID == keep {
			continue
		}
		if err := w.DeleteToken(t.ID); err != nil && dspool.ErrorCode(err) != dspool.NotFound { // gone with its parent
			return n, err
		}
		n++
	}
	if n > 0 {
		w.wake(TopicAccess, topicGateway)
	}
	return n, nil
}

// mostTokens and mostKeys are how many an account may have.
const (
	mostTokens = 1000
	mostKeys   = 100
)

// roomForToken forgets a user's tokens that have expired, and refuses more than anybody needs.
func (w *work) roomForToken(user string) error {
	tokens, err := w.Tokens(user)
	if err != nil {
		return err
	}
	valid := 0
	for _, t := range tokens {
		if t.Expires == nil || w.Now().Before(*t.Expires) {
			valid++
		} else if err := w.DeleteToken(t.ID); err != nil && dspool.ErrorCode(err) != dspool.NotFound { // gone with its parent
			return err
		}
	}
	if valid >= mostTokens {
		return dspool.Errorf(dspool.Conflict, "user %s has %d tokens already", user, valid).WithHint("revoke some: dspool token revoke")
	}
	return nil
}

// RevokeToken ends a token at once.
func (c *Control) RevokeToken(ctx context.Context, who auth.Subject, id string) error {
	return c.write(ctx, func(w *work) error {
		t, err := w.Token(id)
		if dspool.ErrorCode(err) == dspool.NotFound || (err == nil && !auth.Can(who, auth.Change, auth.Tokens, t.User)) {
			return hidden("token", dspool.Quote(id))
		} else if err != nil {
			return err
		}
		if err := w.endBrowser(id); err != nil { // or another token
			return err
		}
		return w.event(dspool.Event{Actor: who.Name(), Kind: "token.revoked", User: t.User, Message: "token " + id + " of " + t.User + " revoked"})
	})
}

// Authenticate returns the subject of a token's secret.
func (c *Control) Authenticate(ctx context.Context, secret string) (auth.Subject, error) {
	var who auth.Subject
	var token store.TokenRow
	stale := false
	err := c.Store.Read(ctx, func(tx *store.Tx) (err error) {
		if hub, err := c.isHub(tx, secret); err != nil {
			return err
		} else if hub {
			who = auth.Subject{User: dspool.HubUser, Spawner: true}
			return nil
		}
		token, err = tx.TokenByHash(auth.HashSecret(secret))
		if dspool.ErrorCode(err) == dspool.NotFound {
			return auth.ErrUnauthenticated
		} else if err != nil {
			return err
		}
		if token.Kind == store.TokenWeb { // a cookie is for the portal's pages only
			return auth.ErrUnauthenticated
		}
		if token.Expires != nil && !tx.Now().Before(*token.Expires) {
			return auth.ErrUnauthenticated
		}
		user, err := tx.User(token.User)
		if dspool.ErrorCode(err) == dspool.NotFound {
			return auth.ErrUnauthenticated
		}
		stale = token.Used == nil || tx.Now().Sub(*token.Used) > time.Minute
		who = auth.Subject{User: user.Name, UID: user.UID, Admin: user.Admin, Since: user.Created, Token: token.ID}
		if token.Expires != nil {
			who.Expires = *token.Expires
		}
		if token.Kind == store.TokenSpawner { // a program: it is nobody, and least of all who made its token
			who = auth.Subject{User: "spawner " + token.ID, Spawner: true}
		}
		return err
	})
	if err != nil {
		return auth.Subject{}, err
	}
	if stale { // when it was last used is worth a write a minute, not one a request
		if err := c.write(ctx, func(w *work) error { return w.TouchToken(token.ID, w.Now()) }); err != nil {
			c.Log.Warn("note use of token", "token", token.ID, "err", err) // with a full disk people still read
		}
	}
	return who, nil
}
