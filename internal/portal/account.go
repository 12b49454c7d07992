package portal

import (
	"context"
	"net/http"
	"slices"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/control"
)

const tokensShown = 100

// accountPage is somebody's own account. Secret is of a token that was just made: it is shown this once.
type accountPage struct {
	api.UserDetail
	Tokens   []dspool.Token
	Browsers []control.Browser
	Secret   string
	More     bool // tokens than are shown
	Said     string
	Failed   *dspool.Error
}

func (p *Portal) accountPage(ctx context.Context, m *member) (page accountPage, err error) {
	if page.UserDetail, err = p.Control.User(ctx, m.Who, m.Who.User); err != nil {
		return page, err
	}
	if page.Browsers, err = p.Control.WebLogins(ctx, m.Who); err != nil {
		return page, err
	}
	own := map[string]bool{}
	for _, b := range page.Browsers {
		own[b.ID] = true
	}
	tokens, err := p.Control.Tokens(ctx, m.Who, m.Who.User)
	for _, t := range slices.Backward(tokens.Items) { // newest first
		if own[t.ID] {
			continue
		}
		if page.More = len(page.Tokens) == tokensShown; page.More {
			break
		}
		page.Tokens = append(page.Tokens, t)
	}
	return page, err
}

func (p *Portal) findAccount(ctx context.Context, _ *http.Request, m *member) (any, error) {
	return p.accountPage(ctx, m)
}

// account shows the account after a change, with what was wrong if it was none.
func (p *Portal) account(w http.ResponseWriter, r *http.Request, m *member, err error, fill func(*accountPage)) {
	status := http.StatusOK
	var said *dspool.Error
	if err != nil {
		said, status = p.spoken(err)
	}
	page, err := p.accountPage(r.Context(), m)
	if err != nil {
		p.fail(w, r, m, err)
		return
	}
	if page.Failed = said; said == nil {
		fill(&page)
	}
	p.render(w, m.visit, status, "account", page, m)
}

func (p *Portal) setPassword(w http.ResponseWriter, r *http.Request, m *member) {
	f := r.PostForm
	err := func() error {
		if f.Get("new") != f.Get("again") {
			return dspool.Errorf(dspool.Invalid, "the two new passwords differ").WithHint("type the new one twice")
		}
		if f.Get("new") == "" {
			return dspool.Errorf(dspool.Invalid, "the new password is empty")
		}
		return p.Control.SetOwnPassword(r.Context(), m.Browser, api.PasswordRequest{Old: f.Get("old"), New: f.Get("new")})
	}()
	p.account(w, r, m, err, func(page *accountPage) { page.Said = "Your password is changed. Other browsers are logged out." })
}

func (p *Portal) addKey(w http.ResponseWriter, r *http.Request, m *member) {
	_, err := p.Control.AddUserKey(r.Context(), m.Who, m.Who.User, api.AddKeyRequest{Key: r.PostForm.Get("key")})
	p.account(w, r, m, err, func(page *accountPage) { page.Said = "The key is added." })
}

func (p *Portal) removeKey(w http.ResponseWriter, r *http.Request, m *member) {
	p.done(w, r, m, p.Control.RemoveUserKey(r.Context(), m.Who, m.Who.User, r.PostForm.Get("fingerprint")), "/account")
}

func (p *Portal) addToken(w http.ResponseWriter, r *http.Request, m *member) {
	d, err := dspool.ParseDuration(r.PostForm.Get("expires"))
	var token api.NewToken
	if err == nil {
		token, err = p.Control.AddToken(r.Context(), m.Who, api.AddTokenRequest{Name: r.PostForm.Get("name"), Expires: d})
	}
	p.account(w, r, m, err, func(page *accountPage) { page.Secret = token.Secret })
}

func (p *Portal) revokeToken(w http.ResponseWriter, r *http.Request, m *member) {
	p.done(w, r, m, p.Control.RevokeToken(r.Context(), m.Who, r.PathValue("id")), "/account")
}

func (p *Portal) endBrowser(w http.ResponseWriter, r *http.Request, m *member) {
	p.done(w, r, m, p.Control.EndWebLogin(r.Context(), m.Who, r.PathValue("id"), dspool.Reason{Code: dspool.WhyEndedElsewhere}), "/account")
}
