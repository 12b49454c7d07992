package portal

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/dspool/dspool"
)

// The authorization server of RFC 6749 for one client, with PKCE (RFC 7636) and without a page that asks
// for consent: portal and JupyterHub are one system to whoever logs in.

// callbackPath is where JupyterHub takes codes.
const callbackPath = "/hub/oauth_callback"

// authorize gives JupyterHub a code for whoever is logged in (RFC 6749, section 4.1.1).
func (p *Portal) authorize(w http.ResponseWriter, r *http.Request) {
	v := visitOf(r)
	q := r.URL.Query()
	one := func(name string) string {
		if len(q[name]) != 1 {
			return ""
		}
		return q[name][0]
	}
	// Who asks and where it leads are looked at first: an error goes to no place that is not the client's.
	back := v.settings.Hub + callbackPath
	if v.settings.Hub == "" || v.settings.ClientID == "" || one("client_id") != v.settings.ClientID || one("redirect_uri") != back {
		p.fail(w, r, nil, dspool.Errorf(dspool.Invalid, "this login request is not JupyterHub's").WithHint("begin at JupyterHub's own page"))
		return
	}
	answer := func(a url.Values) {
		if state := one("state"); state != "" {
			a.Set("state", state)
		}
		redirect(w, back+"?"+a.Encode())
	}
	for name, values := range q {
		if len(values) > 1 { // section 3.1
			answer(url.Values{"error": {"invalid_request"}, "error_description": {clipped(name, 32) + " is given twice"}})
			return
		}
	}
	switch {
	case one("response_type") != "code":
		answer(url.Values{"error": {"unsupported_response_type"}})
		return
	case one("code_challenge_method") != "S256" || len(one("code_challenge")) != 43:
		answer(url.Values{"error": {"invalid_request"}, "error_description": {"PKCE with S256 is required"}})
		return
	}
	m, err := p.login(r, v)
	if err != nil {
		p.fail(w, r, nil, err)
		return
	}
	if m == nil {
		next := url.Values{"next": {r.URL.RequestURI()}}
		redirect(w, "/login?"+next.Encode())
		return
	}
	code := p.grants.add(grant{login: m.ID, redirect: back, challenge: one("code_challenge"), expires: p.now().Add(codeLife)})
	answer(url.Values{"code": {code}})
}

// token trades a code for an access token (RFC 6749, section 4.1.3).
func (p *Portal) token(w http.ResponseWriter, r *http.Request) {
	plain(w)
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		http.Error(w, "only POST", http.StatusMethodNotAllowed)
		return
	}
	refuse := func(status int, code, text string) { oauthError(w, status, code, text) }
	r.Body = http.MaxBytesReader(w, r.Body, formMost)
	c := http.NewResponseController(w)
	_ = c.SetReadDeadline(p.now().Add(formTakes)) // where it is not possible, it is a test
	defer c.SetReadDeadline(time.Time{})
	if err := r.ParseForm(); err != nil {
		refuse(http.StatusBadRequest, "invalid_request", "the form cannot be read")
		return
	}
	for name, values := range r.PostForm {
		if len(values) > 1 {
			refuse(http.StatusBadRequest, "invalid_request", clipped(name, 32)+" is given twice")
			return
		}
	}
	s, err := p.Settings(r.Context())
	if err != nil {
		p.Log.Error("read the portal's settings", "err", err)
		refuse(http.StatusServiceUnavailable, "server_error", "the server failed to do this")
		return
	}
	if !s.isClient(r) {
		w.Header().Set("WWW-Authenticate", `Basic realm="dspool"`)
		refuse(http.StatusUnauthorized, "invalid_client", "")
		return
	}
	f := r.PostForm
	if f.Get("grant_type") != "authorization_code" {
		refuse(http.StatusBadRequest, "unsupported_grant_type", "")
		return
	}
	g, again, ok := p.grants.take(f.Get("code"), p.now())
	if again {
		// Somebody else has the code, so the login that it is of ends, with every token (section 10.5).
		p.Log.Warn("an authorization code was shown twice", "login", g.login)
		if b, err := p.Control.WebLoginByID(r.Context(), g.login); err == nil {
			if err := p.Control.EndWebLogin(r.Context(), b.Who, b.ID, dspool.Reason{Code: dspool.WhyCodeTwice}); err != nil {
				p.Log.Error("end web login", "err", err)
			}
		}
	}
	verifier := f.Get("code_verifier")
	sum := sha256.Sum256([]byte(verifier))
	if !ok || f.Get("redirect_uri") != g.redirect || len(verifier) < 43 || len(verifier) > 128 ||
		subtle.ConstantTimeCompare([]byte(text64(sum[:])), []byte(g.challenge)) != 1 {
		refuse(http.StatusBadRequest, "invalid_grant", "the code is not valid")
		return
	}
	b, err := p.Control.WebLoginByID(r.Context(), g.login)
	if err != nil {
		refuse(http.StatusBadRequest, "invalid_grant", "the login has ended")
		return
	}
	writeJSON(w, http.StatusOK, map[string]any{
		"access_token": p.accessToken(b), "token_type": "Bearer", "expires_in": int64(b.Expires.Sub(p.now()).Seconds()), "scope": "identify",
	})
}

// isClient says whether the request is JupyterHub's: by HTTP Basic or in the form, not both (section 2.3).
func (s Settings) isClient(r *http.Request) bool {
	id, secret := r.PostForm.Get("client_id"), r.PostForm.Get("client_secret")
	if user, password, ok := r.BasicAuth(); ok {
		uid, err1 := url.QueryUnescape(user)
		usecret, err2 := url.QueryUnescape(password)
		if err1 != nil || err2 != nil || secret != "" || id != "" && id != uid {
			return false
		}
		id, secret = uid, usecret
	}
	a, b := sha256.Sum256([]byte(secret)), sha256.Sum256([]byte(s.ClientSecret))
	return s.ClientID != "" && s.ClientSecret != "" && id == s.ClientID && subtle.ConstantTimeCompare(a[:], b[:]) == 1
}

// userinfo says whose an access token is: 401 once the login at the portal has ended, or the account has
// been removed or its rights have changed.
func (p *Portal) userinfo(w http.ResponseWriter, r *http.Request) {
	plain(w)
	if r.Method != http.MethodGet && r.Method != http.MethodPost { // OpenID Connect Core 1.0, section 5.3.1
		w.Header().Set("Allow", "GET, POST")
		http.Error(w, "only GET", http.StatusMethodNotAllowed)
		return
	}
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if token == "" || !strings.EqualFold(scheme, "Bearer") {
		w.Header().Set("WWW-Authenticate", `Bearer realm="dspool"`)
		oauthError(w, http.StatusUnauthorized, "invalid_request", "a bearer token is required")
		return
	}
	b, err := p.ofAccessToken(r.Context(), token)
	switch {
	case dspool.ErrorCode(err) == dspool.Unauthenticated:
		w.Header().Set("WWW-Authenticate", `Bearer realm="dspool", error="invalid_token"`)
		oauthError(w, http.StatusUnauthorized, "invalid_token", "the login has ended")
		return
	case err != nil:
		p.Log.Error("look up an access token", "err", err)
		oauthError(w, http.StatusServiceUnavailable, "server_error", "the server failed to do this")
		return
	}
	groups := b.Groups
	if groups == nil {
		groups = []string{}
	}
	writeJSON(w, http.StatusOK, map[string]any{"sub": b.Who.User, "name": b.Who.User, "preferred_username": b.Who.User, "uid": b.UID, "admin": b.Who.Admin, "groups": groups})
}

// plain is for answers to programs.
func plain(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("Pragma", "no-cache") // RFC 6749, section 5.1
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
}

func oauthError(w http.ResponseWriter, status int, code, text string) {
	e := map[string]any{"error": code}
	if text != "" {
		e["error_description"] = text
	}
	writeJSON(w, status, e)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}
