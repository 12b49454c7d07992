package portal

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/control"
)

const (
	formMost  = 64 << 10 // bytes of a form
	formTakes = 10 * time.Second
	// beforeLife is how long a login page may lie open.
	beforeLife = 12 * time.Hour
	// refusedAfter is how long a refusal takes at least: what is written down of a wrong password is not of a
	// wrong name, and must not show.
	refusedAfter = 250 * time.Millisecond
)

// member is somebody who is logged in.
type member struct {
	control.Browser
	visit
	CSRF string
}

// login returns whose the request is; nil if nobody's.
func (p *Portal) login(r *http.Request, v visit) (*member, error) {
	secret := v.cookie(r, loginCookie)
	if secret == "" {
		return nil, nil
	}
	b, err := p.Control.WebLogin(r.Context(), secret)
	if dspool.ErrorCode(err) == dspool.Unauthenticated {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	return &member{Browser: b, visit: v, CSRF: p.signed("form", b.ID)}, nil
}

// member lets only people who are logged in through, and what changes something only from the portal's
// own pages: their origin, and a token in the form that ends with the login.
func (p *Portal) member(fn func(http.ResponseWriter, *http.Request, *member)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v := visitOf(r)
		m, err := p.login(r, v)
		if err != nil {
			p.fail(w, r, nil, err)
			return
		}
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			if !v.sameOrigin(r) {
				p.fail(w, r, nil, errForeign)
				return
			}
			if m == nil {
				redirect(w, "/login")
				return
			}
			if !p.readForm(w, r) {
				return
			}
			if !p.rightly("form", m.ID, r.PostForm.Get("csrf")) {
				p.fail(w, r, m, errStale)
				return
			}
		}
		if m == nil {
			next := url.Values{"next": {r.URL.RequestURI()}}
			redirect(w, "/login?"+next.Encode())
			return
		}
		fn(w, r, m)
	}
}

var (
	errForeign = dspool.Errorf(dspool.Forbidden, "this was not sent by a page of the portal").WithHint("go to the portal's first page and do it there")
	errStale   = dspool.Errorf(dspool.Forbidden, "this page is of an earlier login").WithHint("load it again, and send it once more")
)

// readForm reads a small form that comes soon.
func (p *Portal) readForm(w http.ResponseWriter, r *http.Request) bool {
	c := http.NewResponseController(w)
	_ = c.SetReadDeadline(p.now().Add(formTakes)) // where it is not possible, it is a test
	defer c.SetReadDeadline(time.Time{})
	r.Body = http.MaxBytesReader(w, r.Body, formMost)
	if err := r.ParseForm(); err != nil {
		p.fail(w, r, nil, dspool.Errorf(dspool.Invalid, "the form cannot be read"))
		return false
	}
	return true
}

// loginPage is what the login page shows.
type loginPage struct {
	Next, CSRF, User, Failed, Provider string
	Out, Password                      bool
}

func (p *Portal) showLogin(w http.ResponseWriter, r *http.Request) {
	v := visitOf(r)
	next := safeNext(r.URL.Query().Get("next"))
	if m, err := p.login(r, v); err != nil {
		p.fail(w, r, nil, err)
		return
	} else if m != nil {
		redirect(w, next)
		return
	}
	before := v.cookie(r, beforeCookie)
	if before == "" {
		before = random()
		v.setCookie(w, beforeCookie, before, beforeLife)
	}
	p.loginPage(w, v, http.StatusOK, before, loginPage{Next: next, Out: r.URL.Query().Has("out")})
}

func (p *Portal) loginPage(w http.ResponseWriter, v visit, status int, before string, page loginPage) {
	page.CSRF = p.signed("login", before)
	if o := v.settings.OIDC; o != nil {
		page.Provider = o.label()
	}
	p.render(w, v, status, "login", page, nil, v.hubOrigins()...)
}

// hubOrigins are where the login form's answers may lead in the end, to which browsers apply form-action
// too: for who came from there to JupyterHub, and through it to the own notebooks.
func (v visit) hubOrigins() []string {
	if v.settings.Hub == "" {
		return nil
	}
	return []string{v.settings.Hub, strings.Replace(v.settings.Hub, "://", "://*.", 1)}
}

// wrongLogin is the one answer to a name or password that is wrong, and to too many guesses.
const wrongLogin = "The name or the password is wrong. After several wrong ones, wait some minutes."

func (p *Portal) doLogin(w http.ResponseWriter, r *http.Request) {
	v := visitOf(r)
	if !v.sameOrigin(r) {
		p.fail(w, r, nil, errForeign)
		return
	}
	if !p.readForm(w, r) {
		return
	}
	f := r.PostForm
	before := v.cookie(r, beforeCookie)
	if before == "" || !p.rightly("login", before, f.Get("csrf")) {
		p.fail(w, r, nil, dspool.Errorf(dspool.Forbidden, "this login page is too old, or the browser takes no cookies").WithHint("load the login page again"))
		return
	}
	user, next := strings.TrimSpace(f.Get("user")), safeNext(f.Get("next"))
	proof := api.Proof{User: user, From: v.from, Protocol: dspool.ProtocolWeb, Method: "password", Password: f.Get("password")}
	refused := time.NewTimer(refusedAfter)
	defer refused.Stop()
	id, err := p.Control.ProveWho(r.Context(), proof)
	switch {
	case dspool.ErrorCode(err) == dspool.Unauthenticated:
		select {
		case <-refused.C:
		case <-r.Context().Done():
		}
		p.loginPage(w, v, http.StatusForbidden, before, loginPage{Next: next, User: clipped(user, 64), Failed: wrongLogin})
		return
	case err != nil:
		p.fail(w, r, nil, err)
		return
	}
	if err := p.enter(r.Context(), w, r, v, id.User, "password"); err != nil {
		p.fail(w, r, nil, err)
		return
	}
	redirect(w, next)
}

// enter begins a login with a secret that nobody knew before, and ends the browser's former one.
func (p *Portal) enter(ctx context.Context, w http.ResponseWriter, r *http.Request, v visit, user, how string) error {
	old, err := p.login(r, v)
	if err != nil {
		return err
	}
	secret, _, err := p.Control.BeginWebLogin(ctx, user, how, v.from)
	if err != nil {
		return err
	}
	if old != nil {
		if err := p.Control.EndWebLogin(ctx, old.Who, old.ID, dspool.Reason{Code: dspool.WhyLoggedInAnew}); err != nil {
			return err
		}
	}
	v.setCookie(w, loginCookie, secret, control.WebLife)
	v.setCookie(w, beforeCookie, "", 0)
	return nil
}

// askLogout is where JupyterHub sends people who have logged out of it: whether they leave the portal as
// well is theirs to say.
func (p *Portal) askLogout(w http.ResponseWriter, r *http.Request) {
	v := visitOf(r)
	m, err := p.login(r, v)
	if err != nil || m == nil {
		redirect(w, "/login")
		return
	}
	p.render(w, v, http.StatusOK, "logout", nil, m)
}

func (p *Portal) logout(w http.ResponseWriter, r *http.Request, m *member) {
	p.left(w, r, m, p.Control.EndWebLogin(r.Context(), m.Who, m.ID, dspool.Reason{Code: dspool.WhyLoggedOut}))
}

func (p *Portal) logoutEverywhere(w http.ResponseWriter, r *http.Request, m *member) {
	p.left(w, r, m, p.Control.EndWebLogins(r.Context(), m.Who, dspool.Reason{Code: dspool.WhyLoggedOutAll}))
}

func (p *Portal) left(w http.ResponseWriter, r *http.Request, m *member, err error) {
	if err != nil {
		p.fail(w, r, m, err)
		return
	}
	m.setCookie(w, loginCookie, "", 0)
	redirect(w, "/login?out")
}

func clipped(s string, most int) string {
	if len(s) > most {
		s = s[:most]
	}
	return strings.ToValidUTF8(s, "")
}
