package control

import (
	"context"
	"slices"
	"strconv"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/auth"
	"github.com/dspool/dspool/internal/store"
)

// ProveWho says who somebody at a door is. Every wrong proof gets the same answer.
func (c *Control) ProveWho(ctx context.Context, p api.Proof) (id api.Identity, err error) {
	known := true
	var user dspool.User
	var hash string
	var keys []dspool.UserKey
	var revoked []store.Revocation
	var former uint64        // certificates up to this one are not this account's
	var authorities []string // the team's own
	err = c.Store.Read(ctx, func(tx *store.Tx) error {
		user, err = tx.User(p.User)
		if dspool.ErrorCode(err) == dspool.NotFound {
			known = false
			return nil
		} else if err != nil {
			return err
		}
		if hash, err = tx.PasswordHash(p.User); err != nil {
			return err
		}
		if keys, err = tx.UserKeys(p.User); err != nil {
			return err
		}
		if former, err = endedCertificates(tx, p.User); err != nil {
			return err
		}
		if authorities, err = userAuthorities(tx); err != nil {
			return err
		}
		revoked, err = tx.Revocations()
		return err
	})
	if err != nil {
		return id, err
	}
	is := func(kind store.RevocationKind, value string) bool {
		return slices.ContainsFunc(revoked, func(r store.Revocation) bool { return r.Kind == kind && r.Value == value })
	}
	ok, how := false, ""
	switch p.Method {
	case "key":
		ok = slices.ContainsFunc(keys, func(k dspool.UserKey) bool { return k.Fingerprint == p.Key }) && !is("key", p.Key)
		how = "key " + p.Key
	case "certificate":
		serial := strconv.FormatUint(p.Serial, 10)
		ok = known && !is(store.RevokedKey, p.Key) && !is(store.RevokedKey, p.Authority)
		if p.Authority == "" || p.Authority == c.ownAuthority() {
			how = "certificate " + serial + " " + p.Key
			ok = ok && (former == 0 || p.Serial > former) && !is(store.RevokedSerial, serial)
		} else {
			how = "certificate " + serial + " of authority " + p.Authority + ", " + p.Key
			ok = ok && isAuthority(authorities, p.Authority) && !is(store.RevokedForeign, p.Authority+" "+serial)
			// What was signed for a former account of the name must not open this one.
			ok = ok && (former == 0 || p.ValidAfter >= uint64(user.Created.Unix()))
		}
	case "password":
		how = "password"
		ok = c.wrong.guess(ctx, p.User, p.From, func() bool { return auth.CheckPassword(hash, p.Password) && known })
	}
	if !ok {
		if !p.Probe && p.Method == "password" && known {
			err := c.write(ctx, func(w *work) error {
				return w.event(dspool.Event{Actor: "gateway", Kind: "login.refused", User: p.User, Message: "a login as " + p.User + " from " + dspool.Clip(p.From) + " was refused", Reason: dspool.Reason{Code: dspool.WhyWrongPassword}})
			})
			if err != nil {
				c.Log.Error("record refused login", "err", err)
			}
		}
		return id, auth.ErrUnauthenticated
	}
	return api.Identity{User: user.Name, UID: user.UID, Admin: user.Admin, Auth: how}, nil
}
