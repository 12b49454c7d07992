package control

import (
	"context"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

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
		ok = known && !is("serial", strconv.FormatUint(p.Serial, 10)) && !is("key", p.Key)
		how = "certificate " + strconv.FormatUint(p.Serial, 10) + " " + p.Key
	case "password":
		ok = c.wrong.allows(p.User, p.From) && auth.CheckPassword(hash, p.Password) && known
		how = "password"
		if !p.Probe {
			c.wrong.note(p.User, p.From, ok)
		}
	}
	if !ok {
		if !p.Probe && p.Method == "password" && known {
			err := c.write(ctx, func(w *work) error {
				return w.event(dspool.Event{Actor: "gateway", Kind: "login.refused", User: p.User, Message: "a login as " + p.User + " from " + clip(p.From) + " was refused", Reason: "wrong password"})
			})
			if err != nil {
				c.Log.Error("record refused login", "err", err)
			}
		}
		return id, auth.ErrUnauthenticated
	}
	return api.Identity{User: user.Name, UID: user.UID, Admin: user.Admin, Auth: how}, nil
}

// wrongs slows down guessing: after a few wrong passwords, those of the same user and those from the
// same address are refused for a while that doubles. Keys and certificates are never held back.
type wrongs struct {
	mu   sync.Mutex
	seen map[string]wrongCount
	now  func() time.Time
}

type wrongCount struct {
	n     int
	until time.Time
	last  time.Time
}

const (
	freeWrongs   = 5
	wrongMemory  = 15 * time.Minute
	longestRest  = 5 * time.Minute
	rememberMost = 10_000
)

func newWrongs() *wrongs { return &wrongs{seen: map[string]wrongCount{}, now: time.Now} }

func (w *wrongs) keys(user, from string) [2]string {
	host, _, err := net.SplitHostPort(from)
	if err != nil {
		host = from
	}
	return [2]string{"user " + user, "from " + host}
}

func (w *wrongs) allows(user, from string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, k := range w.keys(user, from) {
		if w.now().Before(w.seen[k].until) {
			return false
		}
	}
	return true
}

func (w *wrongs) note(user, from string, right bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.now()
	if len(w.seen) > rememberMost {
		for k, c := range w.seen {
			if now.Sub(c.last) > wrongMemory || len(w.seen) > 2*rememberMost {
				delete(w.seen, k)
			}
		}
	}
	for _, k := range w.keys(user, from) {
		if right {
			delete(w.seen, k)
			continue
		}
		c := w.seen[k]
		if now.Sub(c.last) > wrongMemory {
			c = wrongCount{}
		}
		c.n, c.last = c.n+1, now
		if over := c.n - freeWrongs; over >= 0 {
			c.until = now.Add(min(time.Second<<min(over, 10), longestRest))
		}
		w.seen[k] = c
	}
}
