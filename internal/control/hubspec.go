package control

import (
	"fmt"
	"maps"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/auth"
	"github.com/dspool/dspool/internal/store"
)

// HubSecrets are those that the server and its JupyterHub share. They follow from the authority's key, and
// lie nowhere but in what runs.
type HubSecrets struct {
	Token string // with which the hub asks the API
	Proxy string // with which it drives the web door
	OAuth string // with which it trades a login's code at the portal
	Crypt string // with which it keeps what it knows of logins: 32 bytes in hexadecimal
}

// HubSecrets returns what the server and its JupyterHub share.
func (c *Control) HubSecrets() (HubSecrets, error) { return hubSecrets(c.Authority) }

func hubSecrets(ca *auth.Authority) (s HubSecrets, err error) {
	for purpose, into := range map[string]*string{"hub token": &s.Token, "proxy token": &s.Proxy, "hub oauth client": &s.OAuth, "hub crypt key": &s.Crypt} {
		if *into, err = ca.Derive(purpose); err != nil {
			return HubSecrets{}, fmt.Errorf("derive the secrets of JupyterHub: %w", err)
		}
	}
	return s, nil
}

// hubSpec is the program and its environment, as it is kept: without secrets (see withSecrets).
func (c *Control) hubSpec(tx *store.Tx) (spec store.AppSpec, err error) {
	web, err := webOf(tx)
	if err != nil {
		return spec, err
	}
	if web.Portal == "" {
		return spec, dspool.Errorf(dspool.Conflict, "there is no web door by which people would reach it").WithHint("add one: doors: [{listen: \"127.0.0.1:8000\", protocol: web, pool: NAME}]")
	}
	if c.doorURL("api") == "" {
		return spec, dspool.Errorf(dspool.Unavailable, "the provider gives machines no way to the server")
	}
	return store.AppSpec{
		Command: []string{"/opt/jupyterhub/bin/python3", "-m", "dspool.jupyterhub", "--port", "{port}"},
		Env: map[string]string{
			"DSPOOL_API_URL":         c.doorURL("api"),
			"DSPOOL_PROXY_API":       c.doorURL("proxy"),
			"DSPOOL_HUB_URL":         web.Hub,
			"DSPOOL_PORTAL_URL":      web.Portal,
			"DSPOOL_POOL":            web.Pool,
			"DSPOOL_OAUTH_CLIENT_ID": HubClient,
		},
	}, nil
}

// withSecrets is the hub's environment as its machine is told it.
func (c *Control) withSecrets(env map[string]string) (map[string]string, error) {
	secrets, err := c.HubSecrets()
	if err != nil {
		return nil, err
	}
	out := maps.Clone(env)
	out["DSPOOL_TOKEN"] = secrets.Token
	out["CONFIGPROXY_AUTH_TOKEN"] = secrets.Proxy
	out["DSPOOL_OAUTH_CLIENT_SECRET"] = secrets.OAuth
	out["JUPYTERHUB_CRYPT_KEY"] = secrets.Crypt
	return out, nil
}
