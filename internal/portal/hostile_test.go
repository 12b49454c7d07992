package portal_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/dspool/dspool/internal/portal"
)

// provider signs whatever a test wants of it.
type provider struct {
	*httptest.Server
	t      *testing.T
	key    *ecdsa.PrivateKey
	claims map[string]any // of the next ID token, over what is right
	sign   func([]byte) string
	nonce  string
}

func newProvider(t *testing.T) *provider {
	p := &provider{t: t}
	var err error
	if p.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	p.sign = func(b []byte) string { return p.signWith(p.key, b) }
	mux := http.NewServeMux()
	reply := func(w http.ResponseWriter, v any) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(v)
	}
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, map[string]any{
			"issuer": p.URL, "authorization_endpoint": p.URL + "/auth", "token_endpoint": p.URL + "/token", "jwks_uri": p.URL + "/keys",
			"id_token_signing_alg_values_supported": []string{"ES256"},
		})
	})
	mux.HandleFunc("/keys", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: p.key.Public(), KeyID: "1", Algorithm: "ES256", Use: "sig"}}})
	})
	mux.HandleFunc("/token", func(w http.ResponseWriter, _ *http.Request) {
		c := map[string]any{
			"iss": p.URL, "aud": "portal", "sub": "1", "nonce": p.nonce, "iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix(),
		}
		for k, v := range p.claims {
			c[k] = v
		}
		b, _ := json.Marshal(c)
		reply(w, map[string]any{"access_token": "x", "token_type": "Bearer", "id_token": p.sign(b)})
	})
	p.Server = httptest.NewServer(mux)
	t.Cleanup(p.Close)
	return p
}

func (p *provider) signWith(key any, b []byte) string {
	p.t.Helper()
	alg := jose.ES256
	if _, ok := key.([]byte); ok {
		alg = jose.HS256
	}
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: jose.JSONWebKey{Key: key, KeyID: "1"}}, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	o, err := s.Sign(b)
	if err != nil {
		p.t.Fatal(err)
	}
	text, err := o.CompactSerialize()
	if err != nil {
		p.t.Fatal(err)
	}
	return text
}

// login comes back with a code to a portal that trusts the provider.
func (p *provider) login(b *browser) page {
	at, err := url.Parse(b.get("/login/oidc").to())
	if err != nil {
		b.t.Fatal(err)
	}
	q := at.Query()
	if q.Get("code_challenge_method") != "S256" || q.Get("code_challenge") == "" || q.Get("nonce") == "" || q.Get("state") == "" {
		b.t.Errorf("asked with %s", at)
	}
	if p.nonce == "" {
		p.nonce = q.Get("nonce")
	}
	return b.get("/login/oidc/callback?" + url.Values{"state": {q.Get("state")}, "code": {"any"}}.Encode())
}

func TestTokensOfAProviderThatDoNotCount(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	attempt := func(t *testing.T, set func(*provider)) (*browser, page) {
		t.Helper()
		p := newProvider(t)
		set(p)
		w.change(func(s *portal.Settings) {
			s.OIDC = &portal.OIDC{Issuer: p.URL, ClientID: "portal", ClientSecret: func() (string, error) { return "s", nil }, Scopes: []string{"openid"}, CreateUsers: true}
		})
		b := w.browser()
		return b, p.login(b)
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	good := map[string]any{"preferred_username": "hans"}
	with := func(k string, v any) func(*provider) {
		return func(p *provider) { p.claims = map[string]any{"preferred_username": "hans", k: v} }
	}
	for name, set := range map[string]func(*provider){
		"for another client":      with("aud", "other"),
		"of another issuer":       with("iss", "http://evil.example"),
		"that have expired":       with("exp", time.Now().Add(-time.Hour).Unix()),
		"of another login":        with("nonce", "other"),
		"without a nonce":         with("nonce", ""),
		"without a subject":       with("sub", ""),
		"with too long a subject": with("sub", strings.Repeat("a", 300)),
		"signed by another key":   func(p *provider) { p.claims = good; p.sign = func(b []byte) string { return p.signWith(other, b) } },
		"signed by a shared one": func(p *provider) {
			p.claims = good
			p.sign = func(b []byte) string { return p.signWith([]byte(strings.Repeat("s", 32)), b) }
		},
		"signed by nobody":         func(p *provider) { p.claims = good; p.sign = func(b []byte) string { return unsigned(b) } },
		"that are none":            func(p *provider) { p.sign = func([]byte) string { return "x" } },
		"whose name is no text":    func(p *provider) { p.claims = map[string]any{"preferred_username": []string{"hans"}} },
		"that name only an e-mail": func(p *provider) { p.claims = map[string]any{"email": "ada@example.org", "email_verified": "false"} },
		"whose e-mail is a name":   func(p *provider) { p.claims = map[string]any{"email": "ada", "email_verified": true} },
	} {
		t.Run(name, func(t *testing.T) {
			b, p := attempt(t, set)
			if p.status != http.StatusForbidden && p.status != http.StatusBadRequest || b.cookie() != nil {
				t.Errorf("%d %s %s", p.status, p.to(), p.body)
			}
		})
	}
	t.Run("whether an e-mail is verified, of whatever form, matters to nobody", func(t *testing.T) {
		for i, v := range []any{"false", false, "true", true, nil, 0, []string{"x"}} {
			name := "person" + string(rune('a'+i))
			b, p := attempt(t, func(p *provider) {
				p.claims = map[string]any{"preferred_username": name, "email": "ada@example.org", "email_verified": v}
			})
			if p.to() != "/" {
				t.Fatalf("%v: %d %s", v, p.status, p.body)
			}
			if p := b.get("/"); !strings.Contains(p.body, name) || strings.Contains(p.body, "Hello ada") {
				t.Errorf("%v: %s", v, p.body)
			}
		}
	})
}

func unsigned(b []byte) string {
	return base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + base64.RawURLEncoding.EncodeToString(b) + "."
}
