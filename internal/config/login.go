package config

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/dspool/dspool"
)

// Login is how people prove who they are in a browser, beside their passwords.
type Login struct {
	OIDC *OIDC // nil: by passwords alone
}

// OIDC is an OpenID Connect provider that people log in with.
type OIDC struct {
	Issuer           string   // as the provider writes it, to the letter
	ClientID         string   // what the provider calls the portal
	ClientSecretFile string   // absolute path; ReadSecret reads it
	UsernameClaim    string   // the claim that is the user's name here
	Scopes           []string // openid is among them
	CreateUsers      bool     // whether somebody without an account gets one
	AllowedGroups    []string // the claim "groups" must name one of them; none: everybody whom the provider lets in
}

// Defaults of OIDC.
const (
	DefaultUsernameClaim = "preferred_username"
	scopeOpenID          = "openid" // without it the protocol is not OpenID Connect
)

func (r *reader) loginFields(l *Login) []field {
	var oidc OIDC
	fields := r.oidcFields(&oidc)
	return []field{{key: "oidc", doc: "An OpenID Connect provider, beside passwords.", inner: fields, read: func(n *yaml.Node) {
		r.lines["login oidc"] = n.Line
		l.OIDC = &oidc
		r.mapping(n, "oidc", fields)
	}}}
}

func (r *reader) oidcFields(o *OIDC) []field {
	o.UsernameClaim, o.Scopes = DefaultUsernameClaim, []string{scopeOpenID, "profile"}
	word := func(kind string) func(string) (string, error) {
		return func(s string) (string, error) { return s, checkWord(kind, s) }
	}
	check := func(kind string) func(string) error { return func(s string) error { return checkWord(kind, s) } }
	return []field{
		{key: "issuer", form: "https URL", doc: "The provider, as its own configuration writes it; http only on loopback.",
			read: scalar(r, &o.Issuer, "issuer of oidc", parseIssuer)},
		{key: "client_id", form: "text", doc: "What the provider calls the portal.", read: scalar(r, &o.ClientID, "client_id of oidc", word("client id"))},
		{key: "client_secret_file", form: "path", doc: "File that holds nothing but the secret; it belongs to root, and only root reads it.",
			read: func(n *yaml.Node) {
				r.lines["login client_secret_file"] = n.Line
				scalar(r, &o.ClientSecretFile, "client_secret_file of oidc", r.parsePath)(n)
			}},
		{key: "username_claim", form: "name of a claim", unless: DefaultUsernameClaim, doc: "Which claim is the user's name here. Choose one that people cannot change themselves.",
			read: scalar(r, &o.UsernameClaim, "username_claim of oidc", word("claim"))},
		{key: "scopes", form: "list of scopes", unless: "openid and profile", doc: "What the provider is asked for; openid always.",
			read: words(r, &o.Scopes, "scopes of oidc", check("scope"))},
		{key: "create_users", form: "true or false", unless: "false", doc: "Whether somebody without an account gets one at the first login.",
			read: scalar(r, &o.CreateUsers, "create_users of oidc", parseBool)},
		{key: "allowed_groups", form: "list of names", unless: "everybody", doc: "Who may log in: the provider's claim `groups` names one of them. Add the scope that it needs.",
			read: words(r, &o.AllowedGroups, "allowed_groups of oidc", check("group"))},
	}
}

func (c *Config) finishLogin(r *reader) {
	o := c.Login.OIDC
	if o == nil {
		return
	}
	at := nodeAt(r.lines["login oidc"])
	for _, need := range []struct {
		key   string
		value *string
		hint  string
	}{
		{"issuer", &o.Issuer, "for example issuer: https://login.example.org"},
		{"client_id", &o.ClientID, "the provider gives it when you register the portal"},
		{"client_secret_file", &o.ClientSecretFile, "the provider gives the secret when you register the portal"},
	} {
		if *need.value == "" && !r.refused[need.value] {
			r.problem(at, need.hint, "oidc has no %s", need.key)
		}
	}
	if !slices.Contains(o.Scopes, scopeOpenID) {
		o.Scopes = slices.Insert(o.Scopes, 0, scopeOpenID)
	}
	if o.ClientSecretFile != "" {
		if _, err := ReadSecret(o.ClientSecretFile); err != nil {
			r.refuse(nodeAt(r.lines["login client_secret_file"]), "client_secret_file of oidc", err)
		}
	}
}

// parseIssuer keeps the text as it is: a trailing slash makes another issuer.
func parseIssuer(s string) (string, error) {
	u, err := url.Parse(s)
	if err != nil || u.Opaque != "" || u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || !webScheme(u) || !goodPort(u) {
		return "", dspool.Errorf(dspool.Invalid, "%s is not an issuer", dspool.Quote(s)).
			WithHint("an https URL such as https://login.example.org/realms/team; http only for this host")
	}
	return s, nil
}

// checkWord accepts what RFC 6749 lets a scope be, which also suits claims, groups and client ids.
func checkWord(kind, s string) error {
	if s == "" || len(s) > 255 || strings.ContainsFunc(s, func(c rune) bool { return c <= 0x20 || c >= 0x7f || c == '"' || c == '\\' }) {
		return dspool.Errorf(dspool.Invalid, "%s is not a %s", dspool.Quote(s), kind).WithHint("1 to 255 printable characters without spaces, quotes and backslashes")
	}
	return nil
}

// loginPairs are for Diff.
func loginPairs(c *Config) []pair {
	o := c.Login.OIDC
	if o == nil {
		o = &OIDC{}
	}
	create := ""
	if c.Login.OIDC != nil {
		create = fmt.Sprint(o.CreateUsers)
	}
	return []pair{{"issuer", o.Issuer}, {"client_id", o.ClientID}, {"client_secret_file", o.ClientSecretFile}, {"username_claim", o.UsernameClaim},
		{"scopes", list(o.Scopes)}, {"create_users", create}, {"allowed_groups", list(o.AllowedGroups)}}
}
