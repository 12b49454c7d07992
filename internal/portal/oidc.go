package portal

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/dspool/dspool"
)

// OIDC is a provider at which people log in instead.
type OIDC struct {
	Issuer, ClientID string
	ClientSecret     func() (string, error) // read when it is needed
	UsernameClaim    string                 // names new accounts; preferred_username unless given
	Scopes           []string
	CreateUsers      bool     // makes accounts for people who have none
	AllowedGroups    []string // the claim groups has to name one of them, where there are any
}

// label is how people know the provider.
func (o *OIDC) label() string {
	if u, err := url.Parse(o.Issuer); err == nil && u.Hostname() != "" {
		return u.Hostname()
	}
	return "the provider"
}

// lets says whether a person's groups, of whatever form a provider gives them, are among those that may log in.
func (o *OIDC) lets(groups any) bool {
	if len(o.AllowedGroups) == 0 {
		return true
	}
	list, _ := groups.([]any)
	return slices.ContainsFunc(list, func(g any) bool {
		name, ok := g.(string)
		return ok && slices.Contains(o.AllowedGroups, name)
	})
}

const (
	foreignLife     = 10 * time.Minute // that somebody may take to log in at the provider
	providerTakes   = 15 * time.Second
	providerRest    = 5 * time.Second // after it did not answer
	providerGood    = time.Hour       // after which its discovery document is read again
	providerMost    = 1 << 20         // bytes of any answer of it
	mostSpent       = 10_000
	oidcCallback    = "/login/oidc/callback"
	errTryAgainHint = "begin again at the login page"
)

// foreign is logging in at a provider by OpenID Connect Core 1.0, with the code flow, PKCE and nonce.
type foreign struct {
	http *http.Client

	mu       sync.Mutex
	provider *oidc.Provider
	issuer   string
	read     time.Time
	failed   error                // of the last try to find it
	spent    map[string]time.Time // states that have come back, until they end
}

func newForeign() *foreign {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.ResponseHeaderTimeout = providerTakes
	return &foreign{http: &http.Client{Timeout: providerTakes, Transport: bounded{t}}, spent: map[string]time.Time{}}
}

// bounded reads no more of an answer than any provider has to say.
type bounded struct{ http.RoundTripper }

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := b.RoundTripper.RoundTrip(r)
	if err == nil {
		res.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(res.Body, providerMost), res.Body}
	}
	return res, err
}

// at finds the provider. Its keys are read again when it signs with one that is not known.
func (f *foreign) at(o *OIDC, now time.Time) (*oidc.Provider, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.provider != nil && f.issuer == o.Issuer && now.Sub(f.read) < providerGood {
		return f.provider, nil
	}
	// While one that does not answer is asked, others wait: they take the answer for theirs.
	if f.failed != nil && f.issuer == o.Issuer && now.Sub(f.read) < providerRest {
		return nil, f.failed
	}
	// The provider keeps this context for reading keys later on.
	p, err := oidc.NewProvider(oidc.ClientContext(context.Background(), f.http), o.Issuer)
	if err != nil {
		err = fmt.Errorf("find the OpenID provider: %w", err)
	}
	f.provider, f.failed, f.issuer, f.read = p, err, o.Issuer, time.Now()
	return p, err
}

// spend uses a state up; false if it was used before.
func (f *foreign) spend(state string, until, now time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for s, end := range f.spent {
		if now.After(end) || len(f.spent) > mostSpent {
			delete(f.spent, s)
		}
	}
	if _, again := f.spent[state]; again {
		return false
	}
	f.spent[state] = until
	return true
}

// trip is what the browser's cookie remembers while its user is at the provider. The portal signs it.
type trip struct {
	State    string    `json:"s"`
	Nonce    string    `json:"n"`
	Verifier string    `json:"v"`
	Next     string    `json:"p"`
	Until    time.Time `json:"u"`
}

func (p *Portal) pack(t trip) string {
	text, err := json.Marshal(t)
	if err != nil {
		panic(err) // it is made of strings
	}
	body := text64(text)
	return body + "." + p.signed("trip", body)
}

func (p *Portal) unpack(s string) (t trip, ok bool) {
	for i := range len(s) {
		if s[i] != '.' || !p.rightly("trip", s[:i], s[i+1:]) {
			continue
		}
		text, err := base64.RawURLEncoding.DecodeString(s[:i])
		return t, err == nil && json.Unmarshal(text, &t) == nil && p.now().Before(t.Until)
	}
	return t, false
}

func (v visit) oauth(provider *oidc.Provider) *oauth2.Config {
	o := v.settings.OIDC
	return &oauth2.Config{
		ClientID: o.ClientID, Endpoint: provider.Endpoint(), RedirectURL: v.url() + oidcCallback,
		Scopes: o.Scopes,
	}
}

var errNoProvider = dspool.Errorf(dspool.NotFound, "there is no login by another service here").WithHint("log in with a password")

// toProvider sends somebody to the provider to log in.
func (p *Portal) toProvider(w http.ResponseWriter, r *http.Request) {
	v := visitOf(r)
	next := safeNext(r.URL.Query().Get("next"))
	if v.settings.OIDC == nil {
		p.fail(w, r, nil, errNoProvider)
		return
	}
	// The provider knows one address to come back to, and the cookie has to be there.
	if v.origin() != v.url() {
		redirect(w, v.url()+"/login/oidc?"+url.Values{"next": {next}}.Encode())
		return
	}
	provider, err := p.foreign.at(v.settings.OIDC, p.now())
	if err != nil {
		p.Log.Error("log somebody in at the OpenID provider", "err", err)
		p.fail(w, r, nil, dspool.Errorf(dspool.Unavailable, "the login service %s does not answer", v.settings.OIDC.label()).WithHint("try again in a minute, or log in with a password"))
		return
	}
	t := trip{State: random(), Nonce: random(), Verifier: oauth2.GenerateVerifier(), Next: next, Until: p.now().Add(foreignLife)}
	v.setCookie(w, foreignCookie, p.pack(t), foreignLife)
	redirect(w, v.oauth(provider).AuthCodeURL(t.State, oidc.Nonce(t.Nonce), oauth2.S256ChallengeOption(t.Verifier)))
}

// fromProvider takes somebody who comes back.
func (p *Portal) fromProvider(w http.ResponseWriter, r *http.Request) {
	v := visitOf(r)
	if v.settings.OIDC == nil {
		p.fail(w, r, nil, errNoProvider)
		return
	}
	q := r.URL.Query()
	t, ok := p.unpack(v.cookie(r, foreignCookie))
	v.setCookie(w, foreignCookie, "", 0)
	if !ok || len(q["state"]) != 1 || q.Get("state") != t.State || !p.foreign.spend(t.State, t.Until, p.now()) {
		p.fail(w, r, nil, dspool.Errorf(dspool.Forbidden, "this login was not begun in this browser, or is too old").WithHint(errTryAgainHint))
		return
	}
	if e := q.Get("error"); e != "" {
		p.Log.Info("the OpenID provider refused a login", "error", dspool.Quote(clipped(e, 64)))
		p.fail(w, r, nil, dspool.Errorf(dspool.Forbidden, "the login service %s refused the login", v.settings.OIDC.label()).WithHint(errTryAgainHint))
		return
	}
	user, err := p.ofProvider(r.Context(), v, t, q.Get("code"))
	if err == nil {
		err = p.enter(r.Context(), w, r, v, user, "OpenID at "+v.settings.OIDC.label())
	}
	if err != nil {
		p.fail(w, r, nil, err)
		return
	}
	redirect(w, safeNext(t.Next))
}

// claims are what the portal looks at of an ID token beside what go-oidc verifies. An e-mail address, verified
// or not, is nobody's identity here.
type claims map[string]any

// ofProvider trades a code for whom the provider says it is, and returns the account.
func (p *Portal) ofProvider(ctx context.Context, v visit, t trip, code string) (string, error) {
	o := v.settings.OIDC
	wrong := func(err error) error {
		p.Log.Warn("an OpenID login failed", "err", err)
		return dspool.Errorf(dspool.Forbidden, "the login at %s did not come through", o.label()).WithHint(errTryAgainHint)
	}
	provider, err := p.foreign.at(o, p.now())
	if err != nil {
		return "", wrong(err)
	}
	ctx, cancel := context.WithTimeout(oidc.ClientContext(ctx, p.foreign.http), providerTakes)
	defer cancel()
	client := v.oauth(provider)
	if client.ClientSecret, err = o.ClientSecret(); err != nil {
		return "", wrong(fmt.Errorf("read the client's secret: %w", err))
	}
	token, err := client.Exchange(ctx, code, oauth2.VerifierOption(t.Verifier))
	if err != nil {
		return "", wrong(discretely(err))
	}
	raw, ok := token.Extra("id_token").(string)
	if !ok {
		return "", wrong(errors.New("the answer has no ID token"))
	}
	id, err := provider.Verifier(&oidc.Config{ClientID: o.ClientID, Now: p.now}).Verify(ctx, raw)
	if err != nil {
		return "", wrong(err)
	}
	if id.Nonce != t.Nonce {
		return "", wrong(errors.New("the ID token is of another login"))
	}
	var c claims
	if err := id.Claims(&c); err != nil {
		return "", wrong(err)
	}
	if !o.lets(c["groups"]) {
		return "", dspool.Errorf(dspool.Forbidden, "%s lets you in, but none of your groups may log in here", o.label()).WithHint("ask an administrator")
	}
	return p.ofSubject(ctx, o, id.Issuer, id.Subject, c)
}

// discretely is an error of the token endpoint without what it answered, which may hold secrets.
func discretely(err error) error {
	var r *oauth2.RetrieveError
	if errors.As(err, &r) {
		return fmt.Errorf("trade the code: the provider answered %d %s", r.Response.StatusCode, dspool.Quote(clipped(r.ErrorCode, 64)))
	}
	return err
}

var plainWord = regexp.MustCompile(`^[A-Za-z0-9._:/@|~-]{1,255}$`)

// word is a provider's text as one word of a command that somebody may copy into a shell.
func word(s string) string {
	if plainWord.MatchString(s) {
		return s
	}
	return "'" + strings.Map(func(r rune) rune {
		if r < ' ' || r == '\'' || r == 0x7f {
			return -1
		}
		return r
	}, clipped(s, 255)) + "'"
}

// ofSubject is who an issuer's subject is here: the account that is linked, or a new one of a name that
// nobody has or had.
func (p *Portal) ofSubject(ctx context.Context, o *OIDC, issuer, subject string, c claims) (string, error) {
	user, err := p.Control.UserOfOIDC(ctx, issuer, subject)
	if err == nil || dspool.ErrorCode(err) != dspool.NotFound {
		return user.Name, err
	}
	who := dspool.Errorf(dspool.Forbidden, "you are known at %s, but no account here is linked with that", o.label()).
		WithHint("an administrator can link one: dspool user link NAME --issuer %s --subject %s", word(issuer), word(subject))
	if !o.CreateUsers {
		return "", who
	}
	claim := cmp.Or(o.UsernameClaim, "preferred_username")
	name, _ := c[claim].(string)
	user, err = p.Control.AddUserOfOIDC(ctx, issuer, subject, name)
	switch dspool.ErrorCode(err) {
	case dspool.Conflict:
		return "", dspool.Errorf(dspool.Forbidden, "you are known at %s as %s, and somebody here has or had that name", o.label(), dspool.Quote(clipped(name, 64))).WithHint("%s", who.Hint)
	case dspool.Invalid:
		return "", dspool.Errorf(dspool.Forbidden, "%s calls you %s, which cannot be the name of an account", o.label(), dspool.Quote(clipped(name, 64))).WithHint("%s", who.Hint)
	}
	return user.Name, err
}
