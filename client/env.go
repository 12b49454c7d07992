package client

import (
	"os"
	"path/filepath"

	"github.com/dspool/dspool"
)

// DefaultStateDir is where a server keeps its state unless told otherwise.
const DefaultStateDir = "/var/lib/dspool"

// FromEnv says which server the environment names: the one of stateDir where that is
// given; else DSPOOL_URL, with DSPOOL_TOKEN and DSPOOL_CA (a PEM file; without it the
// system's authorities count); else the socket in DSPOOL_STATE_DIR or DefaultStateDir.
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
		dir = DefaultStateDir
	}
	o.Socket = filepath.Join(dir, "dspool.sock")
	return o, nil
}
