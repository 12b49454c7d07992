package control

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/auth"
	"github.com/dspool/dspool/internal/store"
)

// seenUser returns an account that the subject may see.
func seenUser(tx *store.Tx, who auth.Subject, name string) (dspool.User, error) {
	if !auth.Can(who, auth.See, auth.Account, name) {
		return dspool.User{}, hidden("user", dspool.Quote(name))
	}
	return tx.User(name)
}

// User shows an account with its keys and open sessions.
func (c *Control) User(ctx context.Context, who auth.Subject, name string) (d api.UserDetail, err error) {
	d.Keys, d.Sessions = []dspool.UserKey{}, []dspool.Session{}
	err = c.Store.Read(ctx, func(tx *store.Tx) error {
		if d.User, err = seenUser(tx, who, name); err != nil {
			return err
		}
		keys, err := tx.UserKeys(name)
		if err != nil {
			return err
		}
		d.Keys = append(d.Keys, keys...)
		rows, err := tx.Sessions(store.SessionFilter{User: name, Limit: 100})
		for _, r := range rows {
			if r.UID != d.User.UID {
				continue // of a former account of this name
			}
			d.Sessions = append(d.Sessions, r.Session)
		}
		return err
	})
	return d, err
}

// ChangeUser changes what an account may do and where it lands. It tells what still runs with the groups from
// before the last change of them, or ends that.
func (c *Control) ChangeUser(ctx context.Context, who auth.Subject, name string, req api.ChangeUserRequest) (out api.ChangedUser, err error) {
	user := &out.User
	if !auth.Can(who, auth.Change, auth.Account, name) && (req.Admin != nil || req.Groups != nil || req.Now || who.User != name) {
		return out, forbid("change accounts")
	}
	if err := ownAccount(name); err != nil {
		return out, err
	}
	err = c.write(ctx, func(w *work) error {
		if *user, err = w.User(name); err != nil {
			return err
		}
		if req.Admin != nil {
			if err := w.SetAdmin(name, *req.Admin); err != nil {
				return err
			}
		}
		if req.DefaultPool != nil {
			if *req.DefaultPool != "" {
				if _, err := w.poolForPeople(*req.DefaultPool); err != nil {
					return err
				}
			}
			if err := w.SetDefaultPool(name, *req.DefaultPool); err != nil {
				return err
			}
		}
		if req.Groups != nil {
			if err := w.setGroups(*user, *req.Groups); err != nil {
				return err
			}
		}
		if *user, err = w.User(name); err != nil {
			return err
		}
		if req.Groups != nil || req.Now {
			before, err := w.beforeRights(*user)
			if err != nil {
				return err
			}
			out.Old = before.told
			if req.Now {
				if err := before.end(w, dspool.Why(dspool.WhyRightsChanged, dspool.ReasonParams{User: name, By: who.Name()})); err != nil {
					return err
				}
			}
		}
		return w.event(dspool.Event{Actor: who.Name(), Kind: "user.changed", User: name, Message: "account of " + name + " changed"})
	})
	return out, err
}

// setGroups makes a user a member of exactly these groups; missing ones are made.
func (w *work) setGroups(user dspool.User, groups []string) error {
	ids, err := w.uidRange()
	if err != nil {
		return err
	}
	for _, g := range groups {
		if err := dspool.CheckUserName(g); err != nil {
			return dspool.Errorf(dspool.Invalid, "group name %s is not allowed", dspool.Quote(g)).WithHint("the same rules as for users' names")
		}
		if _, err := w.User(g); err == nil {
			return dspool.Errorf(dspool.Conflict, "%s is a user, so it cannot be a group", g).WithHint("every user already has a group of the same name")
		}
		if _, err := w.Group(g); dspool.ErrorCode(err) == dspool.NotFound {
			if _, err := w.AddGroup(g, ids); err != nil {
				return err
			}
		} else if err != nil {
			return err
		}
		if err := w.AddMember(g, user.Name); err != nil {
			return err
		}
	}
	for _, g := range user.Groups {
		if !slices.Contains(groups, g) {
			if err := w.RemoveMember(g, user.Name); err != nil {
				return err
			}
		}
	}
	if !slices.Equal(slices.Sorted(slices.Values(groups)), slices.Sorted(slices.Values(user.Groups))) {
		return w.rightsChanged(user.Name)
	}
	return nil
}

// Groups lists the groups: a user's own, or for administrators all.
func (c *Control) Groups(ctx context.Context, who auth.Subject) (list api.List[dspool.Group], err error) {
	list.Items = []dspool.Group{}
	err = c.Store.Read(ctx, func(tx *store.Tx) error {
		groups, err := tx.Groups()
		for _, g := range groups {
			if who.Admin || who.User != "" && slices.Contains(g.Members, who.User) {
				list.Items = append(list.Items, g)
			}
		}
		return err
	})
	return list, err
}

// SetPassword sets an account's password for doors and login; nobody but the user, who knows the old one,
// and administrators may. Whoever changes a password may do so because another person has it: browsers are
// logged out, and tokens end but for the one by which it is asked.
func (c *Control) SetPassword(ctx context.Context, who auth.Subject, name string, req api.PasswordRequest) error {
	return c.setPassword(ctx, who, name, req, "")
}

// SetOwnPassword is SetPassword of who asks in a browser, whose own login goes on.
func (c *Control) SetOwnPassword(ctx context.Context, b Browser, req api.PasswordRequest) error {
	who := b.Who
	who.Admin = false // who has found an administrator's browser open must not find the account
	return c.setPassword(ctx, who, who.User, req, b.ID)
}

func (c *Control) setPassword(ctx context.Context, who auth.Subject, name string, req api.PasswordRequest, keep string) error {
	if !auth.Can(who, auth.Change, auth.Tokens, name) {
		return hidden("user", dspool.Quote(name))
	}
	if err := ownAccount(name); err != nil {
		return err
	}
	hash := ""
	if req.New != "" {
		if err := auth.CheckNewPassword(req.New, name); err != nil {
			return err
		}
		hash = auth.HashPassword(req.New)
	}
	old, err := c.passwordHash(ctx, name)
	if err != nil {
		return err
	}
	// Whoever has found a token must not find the password with it.
	right := func() bool { return auth.CheckPassword(old, req.Old) }
	if !who.Admin && old != "" && !c.wrong.guess(ctx, name, "account "+name, right) {
		return dspool.Errorf(dspool.Forbidden, "the old password is wrong").WithHint("after several wrong ones, wait some minutes; an administrator can set a new one")
	}
	return c.write(ctx, func(w *work) error {
		if _, err := w.User(name); err != nil {
			return err
		}
		if err := w.Tx.SetPassword(name, hash); err != nil {
			return err
		}
		if err := w.endWebLogins(who, name, dspool.Reason{Code: dspool.WhyPasswordChanged}, func(t store.TokenRow) bool { return t.ID != keep }); err != nil {
			return err
		}
		message := "password of " + name + map[bool]string{true: " set", false: " removed"}[hash != ""]
		if old != "" { // whoever had it may have made tokens by it
			by := ""
			if who.User == name {
				by = who.Token
			}
			n, err := w.endTokens(name, by)
			if err != nil {
				return err
			}
			if n > 0 {
				message += fmt.Sprintf(", %d tokens ended", n)
			}
		}
		return w.event(dspool.Event{Actor: who.Name(), Kind: "user.password", User: name, Message: message})
	})
}

func (c *Control) passwordHash(ctx context.Context, user string) (hash string, err error) {
	err = c.Store.Read(ctx, func(tx *store.Tx) error {
		hash, err = tx.PasswordHash(user)
		if dspool.ErrorCode(err) == dspool.NotFound {
			return nil
		}
		return err
	})
	return hash, err
}

// UserKeys lists the public keys of an account.
func (c *Control) UserKeys(ctx context.Context, who auth.Subject, user string) (list api.List[dspool.UserKey], err error) {
	list.Items = []dspool.UserKey{}
	err = c.Store.Read(ctx, func(tx *store.Tx) error {
		if _, err := seenUser(tx, who, user); err != nil {
			return err
		}
		keys, err := tx.UserKeys(user)
		list.Items = append(list.Items, keys...)
		return err
	})
	return list, err
}

// AddUserKey adds a public key to an account.
func (c *Control) AddUserKey(ctx context.Context, who auth.Subject, user string, req api.AddKeyRequest) (key dspool.UserKey, err error) {
	if !auth.Can(who, auth.Change, auth.Tokens, user) {
		return key, hidden("user", dspool.Quote(user))
	}
	if err := ownAccount(user); err != nil {
		return key, err
	}
	public, comment, err := auth.ParseKey(req.Key)
	if err != nil {
		return key, err
	}
	err = c.write(ctx, func(w *work) error {
		if _, err := w.User(user); err != nil {
			return err
		}
		// Every try to log in looks at all of them.
		if there, err := w.Tx.UserKeys(user); err != nil {
			return err
		} else if len(there) >= mostKeys {
			return dspool.Errorf(dspool.Conflict, "user %s has %d keys already", user, len(there)).WithHint("remove some: dspool user key remove")
		}
		key = dspool.UserKey{Fingerprint: auth.Fingerprint(public), User: user, Key: auth.KeyLine(public), Comment: comment, Added: w.Now()}
		if err := w.Tx.AddUserKey(key); err != nil {
			return err
		}
		w.wake(topicGateway)
		return w.event(dspool.Event{Actor: who.Name(), Kind: "user.key", User: user, Message: fmt.Sprintf("key %s of %s added", key.Fingerprint, user)})
	})
	return key, err
}

// RemoveUserKey removes a public key from an account.
func (c *Control) RemoveUserKey(ctx context.Context, who auth.Subject, user, fingerprint string) error {
	if !auth.Can(who, auth.Change, auth.Tokens, user) {
		return hidden("user", dspool.Quote(user))
	}
	return c.write(ctx, func(w *work) error {
		if err := w.DeleteUserKey(user, fingerprint); err != nil {
			return err
		}
		w.wake(topicGateway)
		return w.event(dspool.Event{Actor: who.Name(), Kind: "user.key", User: user, Message: fmt.Sprintf("key %s of %s removed", fingerprint, user)})
	})
}

// Lives of what a login gives.
const (
	loginLife = 12 * time.Hour
	loginMost = 30 * 24 * time.Hour
	certMost  = 24 * time.Hour
)

// life is what somebody asked for, within bounds.
func life(asked dspool.Duration, most time.Duration) time.Duration {
	if asked <= 0 {
		return min(loginLife, most)
	}
	return min(time.Duration(asked), most)
}

// Login trades a password for a token.
func (c *Control) Login(ctx context.Context, from string, req api.LoginRequest) (out api.Login, err error) {
	id, err := c.ProveWho(ctx, api.Proof{User: req.User, From: from, Protocol: dspool.ProtocolWeb, Method: "password", Password: req.Password})
	if err != nil {
		return out, err
	}
	return c.grantLogin(ctx, auth.Subject{User: id.User, Admin: id.Admin}, dspool.Duration(life(req.Expires, loginMost)))
}

// grantLogin gives a user who has proved it a token.
func (c *Control) grantLogin(ctx context.Context, who auth.Subject, expires dspool.Duration) (out api.Login, err error) {
	if out.NewToken, err = c.AddToken(ctx, who, api.AddTokenRequest{Name: "login", Expires: expires}); err != nil {
		return out, err
	}
	d, err := c.User(ctx, who, who.User)
	out.User = d.User
	return out, err
}

// SignUserCertificate makes a short-lived certificate with which the subject comes in at the doors.
func (c *Control) SignUserCertificate(ctx context.Context, who auth.Subject, req api.CertificateRequest) (cert api.Certificate, err error) {
	if who.Spawner {
		return cert, dspool.Errorf(dspool.Forbidden, "a spawner does not log in")
	}
	if who.User == "" {
		return cert, dspool.Errorf(dspool.Invalid, "a certificate is for a user, and the host's root is none").WithHint("log in as a user: dspool login")
	}
	err = c.write(ctx, func(w *work) error {
		if cert.Serial, err = w.NextSerial(); err != nil {
			return err
		}
		cert.Expires = w.Now().Add(life(req.Expires, certMost))
		cert.Expires = *soonest(&cert.Expires, who.Expires)
		if cert.Certificate, err = c.SSH.SignUser(req.PublicKey, who.User, cert.Serial, w.Now(), cert.Expires); err != nil {
			return err
		}
		return w.event(dspool.Event{
			Actor: who.Name(), Kind: "certificate.issued", User: who.User,
			Message: fmt.Sprintf("certificate %d issued to %s, good until %s", cert.Serial, who.User, cert.Expires.Format(time.RFC3339)),
		})
	})
	return cert, err
}

// endedSetting is the setting that holds the last certificate that a former account of a name may have.
func endedSetting(user string) string { return "certificates." + user }

// endCertificates has no certificate that was issued until now let anybody in as a user: the name may
// be given again before the certificates of its former account have expired.
func (w *work) endCertificates(user string) error {
	last, err := w.NextSerial()
	if err != nil {
		return err
	}
	return w.SetSetting(endedSetting(user), strconv.FormatUint(last, 10))
}

// endedCertificates is the number up to which a user's certificates let nobody in.
func endedCertificates(tx *store.Tx, user string) (uint64, error) {
	text, err := tx.Setting(endedSetting(user))
	if err != nil || text == "" {
		return 0, err
	}
	last, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read setting %s: %w", endedSetting(user), err)
	}
	return last, nil
}

// Revoke ends a certificate or key at once, at every door.
func (c *Control) Revoke(ctx context.Context, who auth.Subject, req api.RevocationRequest) error {
	if !auth.Can(who, auth.Change, auth.Config, "") {
		return forbid("revoke certificates")
	}
	if (req.Serial == 0) == (req.Fingerprint == "") {
		return dspool.Errorf(dspool.Invalid, "a revocation names a serial number or a fingerprint").WithHint("one of the two")
	}
	if err := dspool.CheckTitle("reason", req.Why); err != nil {
		return err
	}
	for _, f := range []string{req.Fingerprint, req.Authority} {
		if f != "" && (!strings.HasPrefix(f, "SHA256:") || len(f) > 64 || strings.Contains(f, " ")) {
			return dspool.Errorf(dspool.Invalid, "%s is not a fingerprint", dspool.Quote(f)).WithHint("SHA256:…, as ssh-keygen -l prints it")
		}
	}
	kind, value := store.RevokedSerial, fmt.Sprint(req.Serial)
	switch {
	case req.Fingerprint != "" && req.Authority != "":
		return dspool.Errorf(dspool.Invalid, "an authority goes with a serial number, not with a fingerprint").WithHint("to end all that an authority signed, give its own fingerprint alone")
	case req.Fingerprint != "":
		kind, value = store.RevokedKey, req.Fingerprint
	case req.Authority != "" && req.Authority != c.ownAuthority():
		kind, value = store.RevokedForeign, req.Authority+" "+value
	}
	what := string(kind) + " " + value
	if kind == store.RevokedForeign {
		what = fmt.Sprintf("serial %d of authority %s", req.Serial, req.Authority)
	}
	return c.write(ctx, func(w *work) error {
		if err := w.AddRevocation(kind, value, req.Why); err != nil {
			return err
		}
		w.wake(topicGateway)
		return w.event(dspool.Event{Actor: who.Name(), Kind: "certificate.revoked", Message: what + " revoked", Reason: dspool.Why(dspool.WhyStated, dspool.ReasonParams{Detail: req.Why})})
	})
}

// KnownHosts are the lines that make clients trust the doors, whichever machine is behind them.
func (c *Control) KnownHosts(ctx context.Context) (string, error) {
	var b strings.Builder
	doors, err := c.Doors(ctx)
	for _, d := range doors.Items {
		if d.Protocol != dspool.ProtocolSSH {
			continue
		}
		for _, name := range c.HostNames {
			if _, port, err := net.SplitHostPort(d.Listen); err == nil && port != "22" {
				name = "[" + name + "]:" + port
			}
			fmt.Fprintf(&b, "@cert-authority %s %s\n", name, c.SSH.HostTrust())
		}
	}
	return b.String(), err
}
