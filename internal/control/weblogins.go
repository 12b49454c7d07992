package control

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/auth"
	"github.com/dspool/dspool/internal/store"
)

// Lives of a browser's login: without use, and altogether. A user has at most mostBrowsers of them; one
// more ends the oldest.
const (
	webIdle      = 12 * time.Hour
	WebLife      = 7 * 24 * time.Hour
	mostBrowsers = 50
)

// Browser is somebody's login at the portal.
type Browser struct {
	ID      string
	Who     auth.Subject
	UID     int
	Groups  []string
	Name    string // how it came about, for people
	Created time.Time
	Expires time.Time
	Used    time.Time
}

// BeginWebLogin lets a browser in as a user who has proved it. The secret is for the browser's cookie
// alone.
func (c *Control) BeginWebLogin(ctx context.Context, user, how, from string) (secret string, b Browser, err error) {
	secret = auth.NewSecret()
	err = c.write(ctx, func(w *work) error {
		account, err := w.User(user)
		if err != nil {
			return err
		}
		if err := w.roomForBrowser(user); err != nil {
			return err
		}
		expires := w.Now().Add(WebLife)
		t := store.TokenRow{Kind: store.TokenWeb, Token: dspool.Token{
			ID: auth.NewID(), User: user, Name: dspool.Clip("browser at " + place(from)), Created: w.Now(), Expires: &expires,
		}}
		if err := w.Tx.AddToken(t, auth.HashSecret(secret)); err != nil {
			return err
		}
		b = browserOf(t, account)
		return w.event(dspool.Event{Actor: user, Kind: "web.login", User: user, Message: fmt.Sprintf("%s logged in at the portal from %s with %s", user, place(from), how)})
	})
	return secret, b, err
}

func browserOf(t store.TokenRow, u dspool.User) Browser {
	b := Browser{
		ID: t.ID, Who: auth.Subject{User: u.Name, UID: u.UID, Admin: u.Admin, Since: u.Created}, UID: u.UID, Groups: u.Groups,
		Name: t.Name, Created: t.Created, Used: t.Created,
	}
	if t.Used != nil {
		b.Used = *t.Used
	}
	if t.Expires != nil {
		b.Expires = *t.Expires
	}
	return b
}

// over says whether a login has ended by itself.
func (b Browser) over(now time.Time) bool {
	return !now.Before(b.Expires) || now.Sub(b.Used) >= webIdle
}

// roomForBrowser forgets the oldest of a user's logins where they are too many. One that only time has ended
// opens nothing, but may again when a wrong clock is set right.
func (w *work) roomForBrowser(user string) error {
	tokens, err := w.Tokens(user)
	if err != nil {
		return err
	}
	tokens = slices.DeleteFunc(tokens, func(t store.TokenRow) bool { return t.Kind != store.TokenWeb })
	for _, t := range tokens[:max(0, len(tokens)-mostBrowsers+1)] { // oldest first
		if err := w.endBrowser(t.ID); err != nil {
			return err
		}
	}
	return nil
}

// endBrowser ends one login, and the terminals that are open by it.
func (w *work) endBrowser(id string) error {
	w.wake(TopicAccess, topicGateway)
	return w.DeleteToken(id)
}

// WebLogin returns the login that a cookie's secret is of, and notes that it was used.
// Unauthenticated for every other secret alike.
func (c *Control) WebLogin(ctx context.Context, secret string) (Browser, error) {
	return c.browser(ctx, func(tx *store.Tx) (store.TokenRow, error) { return tx.TokenByHash(auth.HashSecret(secret)) })
}

// WebLoginByID is WebLogin for who knows the login otherwise: JupyterHub by the token it got from it.
func (c *Control) WebLoginByID(ctx context.Context, id string) (Browser, error) {
	return c.browser(ctx, func(tx *store.Tx) (store.TokenRow, error) { return tx.Token(id) })
}

// WebLoginStands is WebLoginByID for a page that only lies open: that is no use of the login.
func (c *Control) WebLoginStands(ctx context.Context, id string) (Browser, error) {
	b, _, err := c.browserNow(ctx, func(tx *store.Tx) (store.TokenRow, error) { return tx.Token(id) })
	return b, err
}

func (c *Control) browser(ctx context.Context, find func(*store.Tx) (store.TokenRow, error)) (Browser, error) {
	b, stale, err := c.browserNow(ctx, find)
	if err == nil && stale { // as with tokens
		if err := c.write(ctx, func(w *work) error { return w.TouchToken(b.ID, w.Now()) }); err != nil {
			c.Log.Warn("note use of web login", "login", b.ID, "err", err)
		}
	}
	return b, err
}

// browserNow also says whether it is time to note the login's use.
func (c *Control) browserNow(ctx context.Context, find func(*store.Tx) (store.TokenRow, error)) (b Browser, stale bool, err error) {
	err = c.Store.Read(ctx, func(tx *store.Tx) error {
		t, err := find(tx)
		if dspool.ErrorCode(err) == dspool.NotFound || err == nil && t.Kind != store.TokenWeb {
			return auth.ErrUnauthenticated
		} else if err != nil {
			return err
		}
		user, err := tx.User(t.User)
		if dspool.ErrorCode(err) == dspool.NotFound {
			return auth.ErrUnauthenticated
		} else if err != nil {
			return err
		}
		if b = browserOf(t, user); b.over(tx.Now()) {
			return auth.ErrUnauthenticated
		}
		stale = tx.Now().Sub(b.Used) > time.Minute
		return nil
	})
	if err != nil {
		return Browser{}, false, err
	}
	return b, stale, nil
}

// GatewayWebLogin says whose a portal cookie is.
func (c *Control) GatewayWebLogin(ctx context.Context, req api.WebLogin) (api.Identity, error) {
	b, err := c.WebLogin(ctx, req.Secret)
	if err != nil {
		return api.Identity{}, err
	}
	return api.Identity{User: b.Who.User, UID: b.UID, Admin: b.Who.Admin, Auth: "web login " + b.ID, Login: b.ID}, nil
}

// WebLogins are a user's logins at the portal that are not over, newest first.
func (c *Control) WebLogins(ctx context.Context, who auth.Subject) (list []Browser, err error) {
	err = c.Store.Read(ctx, func(tx *store.Tx) error {
		user, err := tx.User(who.User)
		if err != nil {
			return err
		}
		tokens, err := tx.Tokens(user.Name)
		for _, t := range slices.Backward(tokens) {
			if b := browserOf(t, user); t.Kind == store.TokenWeb && !b.over(tx.Now()) {
				list = append(list, b)
			}
		}
		return err
	})
	return list, err
}

// EndWebLogin ends one login of the user; nil if it is over already.
func (c *Control) EndWebLogin(ctx context.Context, who auth.Subject, id string, why dspool.Reason) error {
	return c.endWebLogins(ctx, who, why, func(t store.TokenRow) bool { return t.ID == id })
}

// EndWebLogins ends every login of the user at the portal, and with them those at JupyterHub.
func (c *Control) EndWebLogins(ctx context.Context, who auth.Subject, why dspool.Reason) error {
	return c.endWebLogins(ctx, who, why, func(store.TokenRow) bool { return true })
}

func (c *Control) endWebLogins(ctx context.Context, who auth.Subject, why dspool.Reason, which func(store.TokenRow) bool) error {
	return c.write(ctx, func(w *work) error { return w.endWebLogins(who, who.User, why, which) })
}

func (w *work) endWebLogins(who auth.Subject, user string, why dspool.Reason, which func(store.TokenRow) bool) error {
	tokens, err := w.Tokens(user)
	if err != nil || user == "" {
		return err
	}
	n := 0
	for _, t := range tokens {
		if t.Kind != store.TokenWeb || !which(t) {
			continue
		}
		if err := w.endBrowser(t.ID); err != nil {
			return err
		}
		n++
	}
	if n == 0 {
		return nil
	}
	return w.event(dspool.Event{Actor: who.Name(), Kind: "web.logout", User: user, Message: fmt.Sprintf("%d web logins of %s ended", n, user), Reason: why})
}
