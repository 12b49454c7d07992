package client

import (
	"context"
	"net/http"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
)

// User returns one account with its keys and open sessions.
func (c *Client) User(ctx context.Context, name string) (api.UserDetail, error) {
	return get[api.UserDetail](ctx, c, nil, "users", name)
}

// ChangeUser changes an account; what req leaves out stays.
func (c *Client) ChangeUser(ctx context.Context, name string, req api.ChangeUserRequest) (api.ChangedUser, error) {
	var u api.ChangedUser
	return u, c.do(ctx, call{method: http.MethodPatch, path: []string{"users", name}, in: req, repeat: true}, &u)
}

// SetPassword sets or removes an account's password.
func (c *Client) SetPassword(ctx context.Context, name string, req api.PasswordRequest) error {
	return c.do(ctx, call{method: http.MethodPut, path: []string{"users", name, "password"}, in: req}, nil)
}

// LinkUser says who somebody is to an OpenID provider.
func (c *Client) LinkUser(ctx context.Context, name string, req api.LinkRequest) error {
	return c.do(ctx, call{method: http.MethodPut, path: []string{"users", name, "oidc"}, in: req}, nil)
}

// UserKeys lists the public keys with which a user comes in.
func (c *Client) UserKeys(ctx context.Context, user string) (api.List[dspool.UserKey], error) {
	return get[api.List[dspool.UserKey]](ctx, c, nil, "users", user, "keys")
}

// AddUserKey adds a public key, a line of a .pub file, to an account.
func (c *Client) AddUserKey(ctx context.Context, user, key string) (dspool.UserKey, error) {
	return post[dspool.UserKey](ctx, c, false, api.AddKeyRequest{Key: key}, "users", user, "keys")
}

// RemoveUserKey removes the key with that fingerprint (SHA256:…) from an account.
func (c *Client) RemoveUserKey(ctx context.Context, user, fingerprint string) error {
	return c.do(ctx, call{method: http.MethodDelete, path: []string{"users", user, "keys"}, query: query("fingerprint", fingerprint)}, nil)
}

// Groups lists groups.
func (c *Client) Groups(ctx context.Context) (api.List[dspool.Group], error) {
	return get[api.List[dspool.Group]](ctx, c, nil, "groups")
}

// Login trades a password for a token. It needs no other credential.
func (c *Client) Login(ctx context.Context, req api.LoginRequest) (api.Login, error) {
	return post[api.Login](ctx, c, false, req, "login")
}

// BeginDeviceLogin asks for a login that somebody confirms in a browser. It needs no credential.
func (c *Client) BeginDeviceLogin(ctx context.Context, req api.DeviceRequest) (api.DeviceLogin, error) {
	return post[api.DeviceLogin](ctx, c, false, req, "login", "device")
}

// DeviceToken asks once how such a login stands, and takes the token when it is granted.
func (c *Client) DeviceToken(ctx context.Context, code string) (api.DeviceToken, error) {
	return post[api.DeviceToken](ctx, c, false, api.DeviceTokenRequest{DeviceCode: code}, "login", "device", "token")
}

// SignCertificate gets a short-lived SSH certificate, good at the doors, for a public key of the caller's.
func (c *Client) SignCertificate(ctx context.Context, req api.CertificateRequest) (api.Certificate, error) {
	return post[api.Certificate](ctx, c, false, req, "ssh", "certificate")
}

// Revoke ends a certificate or a key at every door at once.
func (c *Client) Revoke(ctx context.Context, req api.RevocationRequest) error {
	return c.do(ctx, call{method: http.MethodPost, path: []string{"ssh", "revocations"}, in: req, repeat: true}, nil)
}

// KnownHosts returns the lines for known_hosts that make an SSH client trust the doors.
func (c *Client) KnownHosts(ctx context.Context) ([]byte, error) {
	var text []byte
	return text, c.do(ctx, call{method: http.MethodGet, path: []string{"ssh", "known_hosts"}, repeat: true}, &text)
}
