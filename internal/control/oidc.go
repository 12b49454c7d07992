package control

import (
	"context"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/auth"
	"github.com/dspool/dspool/internal/store"
)

// mostSubject is the longest issuer or subject: OpenID Connect Core 1.0, section 2, allows a subject 255
// characters.
const mostSubject = 255

// UserOfOIDC returns the account that is linked with an OpenID subject; NotFound if none is. Nothing else
// that a provider says of a person, such as an e-mail address, names an account.
func (c *Control) UserOfOIDC(ctx context.Context, issuer, subject string) (user dspool.User, err error) {
	err = c.Store.Read(ctx, func(tx *store.Tx) error {
		user, err = tx.UserByOIDC(issuer, subject)
		return err
	})
	return user, err
}

// AddUserOfOIDC makes an account for an OpenID subject that has none. Conflict if the name is somebody's.
func (c *Control) AddUserOfOIDC(ctx context.Context, issuer, subject, name string) (user dspool.User, err error) {
	if err := checkSubject(issuer, subject); err != nil {
		return user, err
	}
	if err := dspool.CheckUserName(name); err != nil {
		return user, err
	}
	err = c.write(ctx, func(w *work) error {
		if _, err := w.UserByOIDC(issuer, subject); dspool.ErrorCode(err) != dspool.NotFound {
			return dspool.Errorf(dspool.Conflict, "this person has an account already")
		}
		// A former account's name means its files to people, and to shares.
		if was, err := w.WasUser(name); err != nil {
			return err
		} else if was {
			return dspool.Errorf(dspool.Conflict, "user %s existed already", name)
		}
		if user, err = w.addUser(auth.Subject{User: "login"}, name, false); err != nil {
			return err
		}
		return w.SetOIDC(name, issuer, subject)
	})
	return user, err
}

// LinkOIDC lets an OpenID subject in as a user; empty ones let nobody in any more. Only administrators may.
func (c *Control) LinkOIDC(ctx context.Context, who auth.Subject, name, issuer, subject string) error {
	if !auth.Can(who, auth.Change, auth.Account, name) {
		return forbid("link accounts")
	}
	if err := ownAccount(name); err != nil {
		return err
	}
	if issuer != "" || subject != "" {
		if err := checkSubject(issuer, subject); err != nil {
			return err
		}
	}
	return c.write(ctx, func(w *work) error {
		if err := w.SetOIDC(name, issuer, subject); err != nil {
			return err
		}
		message := "account of " + name + " linked with a subject of " + issuer
		if issuer == "" {
			message = "account of " + name + " no longer linked"
		}
		return w.event(dspool.Event{Actor: who.Name(), Kind: "user.link", User: name, Message: message})
	})
}

func checkSubject(issuer, subject string) error {
	if issuer == "" || subject == "" || len(issuer) > mostSubject || len(subject) > mostSubject {
		return dspool.Errorf(dspool.Invalid, "an OpenID subject and its issuer go together").WithHint("each of 1 to %d characters", mostSubject)
	}
	return nil
}
