package portal

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"time"
)

// Cookies of the portal. Where there is TLS their names begin with __Host-: only the portal's own origin
// can set such a one, so that no page of a notebook can give somebody another login.
const (
	loginCookie   = "dspool"
	beforeCookie  = "dspool-before"  // binds the login page's form to a browser
	foreignCookie = "dspool-foreign" // binds a login at a provider to a browser
)

func (v visit) cookieName(name string) string {
	if v.https {
		return "__Host-" + name
	}
	return name
}

// cookie is the value of a cookie; "" where there is none, or more than one: then somebody else may have
// set one of them.
func (v visit) cookie(r *http.Request, name string) string {
	all := r.CookiesNamed(v.cookieName(name))
	if len(all) != 1 || len(all[0].Value) > 4096 {
		return ""
	}
	return all[0].Value
}

// setCookie keeps a value for a time; an empty one ends the cookie.
func (v visit) setCookie(w http.ResponseWriter, name, value string, life time.Duration) {
	age := int(life / time.Second)
	if value == "" {
		age = -1
	}
	http.SetCookie(w, &http.Cookie{
		Name: v.cookieName(name), Value: value, Path: "/", MaxAge: age, Secure: v.https, HttpOnly: true, SameSite: http.SameSiteLaxMode,
	})
}

// sign is a code that only the portal can make, for a purpose and what it is about.
func (p *Portal) sign(purpose, about string) []byte {
	mac := hmac.New(sha256.New, p.Key)
	mac.Write([]byte("dspool portal " + purpose + "\x00" + about))
	return mac.Sum(nil)
}

func (p *Portal) signed(purpose, about string) string { return text64(p.sign(purpose, about)) }

func (p *Portal) rightly(purpose, about, code string) bool {
	got, err := base64.RawURLEncoding.DecodeString(code)
	return err == nil && hmac.Equal(got, p.sign(purpose, about))
}

func text64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// random makes a value of 256 random bits.
func random() string {
	b := make([]byte, 32)
	rand.Read(b)
	return text64(b)
}
