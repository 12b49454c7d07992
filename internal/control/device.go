package control

import (
	"context"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/auth"
	"github.com/dspool/dspool/internal/store"
)

// The device authorization grant of RFC 8628: a computer without a credential gets two codes, a person who
// is logged in at the portal confirms the short one, and the computer trades the long one for a token.

var (
	errDeviceOver = dspool.Errorf(dspool.Unauthenticated, "this login has expired, was taken already, or the server has restarted").
			WithHint("begin anew")
	errDeviceRefused = dspool.Errorf(dspool.Forbidden, "the login was refused in the browser")
	errDeviceNone    = dspool.Errorf(dspool.NotFound, "no computer waits with this code").
				WithHint("codes are good for %d minutes and once; after several wrong ones, wait some minutes", deviceLife/time.Minute)
)

// DeviceAsk is a computer that waits to be let in.
type DeviceAsk struct {
	Code string // as it shows it
	Name string // what it calls itself; "" if nothing
	From string // its address
	For  dspool.Duration
}

// BeginDeviceLogin gives a computer codes for a login. Unavailable while too many wait.
func (c *Control) BeginDeviceLogin(ctx context.Context, from string, req api.DeviceRequest) (out api.DeviceLogin, err error) {
	if err := checkDeviceName(req.Name); err != nil {
		return out, err
	}
	if host, _, err := net.SplitHostPort(from); err == nil {
		from = host
	}
	ask := DeviceAsk{Name: req.Name, From: dspool.Clip(from), For: dspool.Duration(life(req.Expires, loginMost))}
	out.DeviceCode, out.UserCode, err = c.devices.begin(ask)
	out.ExpiresIn, out.Interval = int(deviceLife/time.Second), int(deviceInterval/time.Second)
	return out, err
}

// checkDeviceName lets a computer call itself what computers are called, and tell no stories: whoever wants
// to be let in by somebody else writes it.
func checkDeviceName(name string) error {
	const most = 64
	strange := func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("-._@", r)
	}
	if len(name) > most || strings.ContainsFunc(name, strange) {
		return dspool.Errorf(dspool.Invalid, "%s is not a computer's name", dspool.Quote(name)).WithHint("at most %d letters, digits, - . _ and @", most)
	}
	return nil
}

// DeviceToken trades a device code for a token of whoever has confirmed the login: once.
func (c *Control) DeviceToken(ctx context.Context, req api.DeviceTokenRequest) (out api.DeviceToken, err error) {
	t, err := c.devices.poll(req.DeviceCode)
	out.State, out.Interval = t.state, int(t.interval/time.Second)
	if err != nil || t.state != api.DeviceGranted {
		return out, err
	}
	// The account may have gone meanwhile, or its rights.
	var user dspool.User
	err = c.Store.Read(ctx, func(tx *store.Tx) error {
		user, err = tx.User(t.who.User)
		return err
	})
	if dspool.ErrorCode(err) == dspool.NotFound || err == nil && !user.Created.Equal(t.who.Since) {
		return api.DeviceToken{}, errDeviceOver
	} else if err != nil {
		return api.DeviceToken{}, err
	}
	login, err := c.grantLogin(ctx, auth.Subject{User: user.Name, Admin: user.Admin}, t.For)
	if err != nil {
		return api.DeviceToken{}, err
	}
	out.Login = &login
	return out, nil
}

// WaitingDevice shows the computer that waits with a code to somebody who may let it in. Codes are short, so
// guesses at them are held back.
func (c *Control) WaitingDevice(ctx context.Context, who auth.Subject, code string) (ask DeviceAsk, err error) {
	code = userCode(code)
	right := func() bool {
		ask, err = c.devices.find(code)
		return err == nil
	}
	if !c.devices.wrong.guess(ctx, who.User, "portal of "+who.User, right) {
		return ask, errDeviceNone
	}
	return ask, nil
}

// AnswerDevice lets the computer that waits with a code log in as the subject, or refuses it. It returns
// which one that was.
func (c *Control) AnswerDevice(ctx context.Context, who auth.Subject, code string, yes bool) (ask DeviceAsk, err error) {
	if who.User == "" || who.Spawner {
		return ask, dspool.Errorf(dspool.Forbidden, "only people let computers log in")
	}
	if ask, err = c.WaitingDevice(ctx, who, code); err != nil {
		return ask, err
	}
	err = c.devices.answer(userCode(code), who, yes, func() error {
		e := dspool.Event{Actor: who.Name(), User: who.User, Kind: "login.confirmed", Message: fmt.Sprintf("%s let %s log in", who.User, ask)}
		if !yes {
			e.Kind, e.Message = "login.refused", fmt.Sprintf("a login as %s of %s was refused", who.User, ask)
			e.Reason = dspool.Reason{Code: dspool.WhyRefusedInBrowser}
		}
		return c.write(ctx, func(w *work) error { return w.event(e) })
	})
	return ask, err
}

func (a DeviceAsk) String() string {
	if a.Name == "" {
		return "a computer at " + a.From
	}
	return "the computer at " + a.From + " that calls itself " + a.Name
}
