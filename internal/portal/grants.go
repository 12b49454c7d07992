package portal

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"strings"
	"sync"
	"time"

	"github.com/dspool/dspool/internal/auth"
	"github.com/dspool/dspool/internal/control"
)

const (
	codeLife = 60 * time.Second
	// mostCodes are remembered; who asks for more ends the oldest. JupyterHub trades one within a second.
	mostCodes = 10_000
)

// grant is what a code stands for.
type grant struct {
	login     string // by its id
	redirect  string
	challenge string
	expires   time.Time
	used      bool
}

// grants are the codes of the last minute. They may be lost: whoever waits for one logs in again.
type grants struct {
	mu    sync.Mutex
	codes map[string]*grant // by their hash
	order []string
}

func newGrants() *grants { return &grants{codes: map[string]*grant{}} }

func (g *grants) add(gr grant) (code string) {
	code = random()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.forget(gr.expires.Add(-codeLife))
	hash := auth.HashSecret(code)
	g.codes[hash], g.order = &gr, append(g.order, hash)
	return code
}

// forget drops codes that have expired, and the oldest of too many.
func (g *grants) forget(now time.Time) {
	n := 0
	for n < len(g.order) && (len(g.order)-n >= mostCodes || now.After(g.codes[g.order[n]].expires)) {
		delete(g.codes, g.order[n])
		n++
	}
	g.order = g.order[n:]
}

// take uses a code up; again says that it was used before.
func (g *grants) take(code string, now time.Time) (gr grant, again, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	found := g.codes[auth.HashSecret(code)]
	if found == nil || !now.Before(found.expires) {
		return grant{}, false, false
	}
	again, found.used = found.used, true
	return *found, again, !again
}

// claim is what an access token says. It lies in no store, so that it outlives a restart: the login that it
// names is looked up each time, and with it ends the token.
type claim struct {
	Login string    `json:"l"`
	User  string    `json:"u"`
	Since time.Time `json:"s"` // when the account was made
	Admin bool      `json:"a,omitempty"`
}

const tokenPurpose = "access token"

func (p *Portal) accessToken(b control.Browser) string {
	text, err := json.Marshal(claim{Login: b.ID, User: b.Who.User, Since: b.Who.Since, Admin: b.Who.Admin})
	if err != nil {
		panic(err) // it is made of strings
	}
	body := text64(text)
	return body + "." + p.signed(tokenPurpose, body)
}

func (p *Portal) ofAccessToken(ctx context.Context, token string) (b control.Browser, err error) {
	body, code, _ := strings.Cut(token, ".")
	if len(token) > 4096 || !p.rightly(tokenPurpose, body, code) {
		return b, auth.ErrUnauthenticated
	}
	text, err := base64.RawURLEncoding.DecodeString(body)
	if err != nil {
		return b, auth.ErrUnauthenticated
	}
	var c claim
	if err := json.NewDecoder(bytes.NewReader(text)).Decode(&c); err != nil {
		return b, auth.ErrUnauthenticated
	}
	if b, err = p.Control.WebLoginByID(ctx, c.Login); err != nil {
		return b, err
	}
	if b.Who.User != c.User || b.Who.Admin != c.Admin || !b.Who.Since.Equal(c.Since) {
		return control.Browser{}, auth.ErrUnauthenticated
	}
	return b, nil
}
