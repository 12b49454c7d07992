package client

import (
	"cmp"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/dspool/dspool"
)

// DefaultStateDir is where a server keeps its state unless told otherwise.
const DefaultStateDir = "/var/lib/dspool"

// FromEnv says which server to talk to, by the first of these that there is: the socket of
// stateDir; DSPOOL_URL, with DSPOOL_TOKEN and DSPOOL_CA (a PEM file; without it the
// system's authorities count); the socket in DSPOOL_STATE_DIR; the login that the user
// asked to keep (see Credentials); the socket in DefaultStateDir.
func FromEnv(getenv func(string) string, stateDir string) (Options, error) {
	o := Options{Token: getenv("DSPOOL_TOKEN")}
	if u := getenv("DSPOOL_URL"); u != "" && stateDir == "" {
		o.URL = u
		if file := getenv("DSPOOL_CA"); file != "" {
			pem, err := os.ReadFile(file)
			if err != nil {
				return o, dspool.Errorf(dspool.Invalid, "DSPOOL_CA cannot be read: %w", err).WithHint("it names a file with what `dspool ca` prints")
			}
			o.CA = pem
		}
		return o, nil
	}
	dir := stateDir
	if dir == "" {
		dir = getenv("DSPOOL_STATE_DIR")
	}
	if dir == "" {
		saved, err := savedLogin(getenv, o.Token)
		if saved.URL != "" || err != nil {
			return saved, err
		}
		dir = DefaultStateDir
	}
	o.Socket = filepath.Join(dir, "dspool.sock")
	return o, nil
}

// savedLogin is the login that the user asked to keep, or nothing; another token comes before its own.
func savedLogin(getenv func(string) string, token string) (o Options, err error) {
	path := CredentialsFile(getenv)
	if path == "" {
		return o, nil
	}
	c, err := ReadCredentials(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return o, nil
	case err != nil:
		return o, err
	case token == "" && !c.Expires.IsZero() && !time.Now().Before(c.Expires):
		return o, dspool.Errorf(dspool.Unauthenticated, "the saved login of %s at %s has expired", dspool.Quote(c.User), dspool.Quote(c.URL)).
			WithHint("log in again with `dspool login --save`, or forget it with `dspool logout`")
	}
	o.URL, o.Token = c.URL, cmp.Or(token, c.Token)
	if c.CA != "" {
		o.CA = []byte(c.CA)
	}
	return o, nil
}
