package server

import (
	"context"
	"fmt"

	"github.com/dspool/dspool/internal/auth"
	"github.com/dspool/dspool/internal/config"
	"github.com/dspool/dspool/internal/control"
	"github.com/dspool/dspool/internal/httpapi"
	"github.com/dspool/dspool/internal/portal"
)

// newPortal makes the web pages, which also lead to the API.
func (s *Server) newPortal(o Options, ca *auth.Authority, rest *httpapi.Server) (*portal.Portal, error) {
	key, err := ca.Derive("portal")
	if err != nil {
		return nil, fmt.Errorf("derive the portal's key: %w", err)
	}
	secrets, err := s.Control.HubSecrets()
	if err != nil {
		return nil, fmt.Errorf("derive the secrets of JupyterHub: %w", err)
	}
	return portal.New(portal.Options{
		Control: s.Control, API: rest, Key: []byte(key), Log: o.Log,
		Settings: func(ctx context.Context) (portal.Settings, error) {
			web, err := s.Control.WebSettings(ctx)
			return portalSettings(web, secrets.OAuth), err
		},
	})
}

func portalSettings(web control.Web, hubSecret string) portal.Settings {
	s := portal.Settings{URL: web.Portal, Hub: web.Hub, Pool: web.Pool, ClientID: control.HubClient, ClientSecret: hubSecret}
	if c := web.Login.OIDC; c != nil {
		s.OIDC = &portal.OIDC{
			Issuer: c.Issuer, ClientID: c.ClientID, ClientSecret: func() (string, error) { return config.ReadSecret(c.ClientSecretFile) },
			UsernameClaim: c.UsernameClaim, Scopes: c.Scopes, CreateUsers: c.CreateUsers, AllowedGroups: c.AllowedGroups,
		}
	}
	return s
}
