package cli

import (
	"context"
	"errors"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/client"
)

// trust is how login comes to believe that a server is the one that was meant.
type trust struct {
	file        string // --ca
	fingerprint string // --fingerprint
}

// authority is what vouches for a server: PEM and the file that holds it, or nothing where the system's
// authorities do.
type authority struct {
	pem  []byte
	path string
}

// establish finds out what to trust, before any credential is sent: the file or fingerprint that the
// user gives; what was trusted before; the system's authorities; and last the user's own eyes.
func (a *app) establish(ctx context.Context, address string, t trust, saved client.Credentials) (authority, error) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "https" {
		return authority{}, nil // client.New says what is wrong, and allows http on this host only
	}
	remembered := a.authorityFile(u)
	known, err := a.knownAuthority(address, t, saved, remembered)
	if err != nil {
		return known, err
	}
	if t.fingerprint != "" && known.pem == nil {
		return a.fetchAuthority(ctx, address, remembered, func(fp string) error {
			if client.SameFingerprint(fp, t.fingerprint) {
				return nil
			}
			return dspool.Errorf(dspool.Forbidden, "%s has an authority with another fingerprint: %s", address, fp).
				WithHint("compare with what `dspool ca --fingerprint` prints on the server's host; if that is right, somebody is between")
		})
	}
	c, err := client.New(client.Options{URL: address, CA: known.pem})
	if err != nil {
		return known, err
	}
	_, err = c.CA(ctx)
	switch {
	case err == nil:
		return known, nil
	case !client.Untrusted(err):
		return known, err
	case known.path != "" && known.path == remembered:
		return known, dspool.Errorf(dspool.Forbidden, "%s is no longer vouched for by the authority that it had before", address).
			WithHint("ask the administrator; if it was made anew, remove %s, or give --fingerprint", known.path)
	case known.pem != nil:
		return known, err
	}
	return a.fetchAuthority(ctx, address, remembered, func(fp string) error {
		if !a.StdinTTY {
			return dspool.Errorf(dspool.Forbidden, "nobody whom this computer trusts vouches for %s", address).
				WithHint("give --ca FILE with what `dspool ca` prints on the server's host, or --fingerprint with what `dspool ca --fingerprint` prints there")
		}
		a.say("%s is vouched for by an authority of its own, which this computer does not know yet.\nIts fingerprint (SHA-256), which \"dspool ca --fingerprint\" prints on the server's host:\n  %s", clean(address), fp)
		if ok, err := a.ask(ctx, "Is that the right one?"); err != nil || !ok {
			return errors.Join(err, dspool.Errorf(dspool.Forbidden, "%s is not trusted; no password was sent", address))
		}
		return nil
	})
}

// knownAuthority is what is known before the server is asked.
func (a *app) knownAuthority(address string, t trust, saved client.Credentials, remembered string) (authority, error) {
	read := func(path string) (authority, error) {
		text, err := os.ReadFile(path)
		if err != nil {
			return authority{}, dspool.Errorf(dspool.Invalid, "the authority to trust cannot be read: %w", err).WithHint("save there what `dspool ca` prints on the server's host")
		}
		if abs, err := filepath.Abs(path); err == nil {
			path = abs
		}
		return authority{text, path}, nil
	}
	if file := t.file; file != "" {
		return read(file)
	}
	if t.fingerprint != "" {
		return authority{}, nil
	}
	if file := a.getenv("DSPOOL_CA"); file != "" && a.getenv("DSPOOL_URL") == address {
		return read(file)
	}
	if remembered != "" {
		if k, err := read(remembered); !errors.Is(err, fs.ErrNotExist) {
			return k, err
		}
	}
	if saved.URL == address && saved.CA != "" {
		return authority{[]byte(saved.CA), ""}, nil
	}
	return authority{}, nil
}

// fetchAuthority asks the server for its authority, has it approved, sees that it does vouch for the
// server, and remembers it.
func (a *app) fetchAuthority(ctx context.Context, address, remembered string, approve func(fingerprint string) error) (authority, error) {
	pem, err := client.FetchCA(ctx, address)
	if err != nil {
		return authority{}, err
	}
	fp, err := client.Fingerprint(pem)
	if err != nil {
		return authority{}, err
	}
	if err := approve(fp); err != nil {
		return authority{}, err
	}
	c, err := client.New(client.Options{URL: address, CA: pem})
	if err != nil {
		return authority{}, err
	}
	if _, err := c.CA(ctx); err != nil {
		return authority{}, err
	}
	if remembered != "" {
		if err := client.WriteFile(remembered, pem, 0o644); err != nil {
			return authority{}, err
		}
	}
	return authority{pem, remembered}, nil
}

// authorityFile is where the authority of a server is remembered, or "".
func (a *app) authorityFile(u *url.URL) string {
	dir := client.ConfigDir(a.getenv)
	if dir == "" {
		return ""
	}
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '.' || r == '-' {
			return r
		}
		return '_'
	}, strings.ToLower(u.Host))
	return filepath.Join(dir, "authorities", name+".pem")
}

func (a *app) ca() *cobra.Command {
	var fingerprint bool
	cmd := command("ca", "Print the certificate of the server's own authority",
		"Elsewhere, save it to a file and name that in DSPOOL_CA, or give its fingerprint to `dspool login`.", "dspool ca > dspool-ca.pem\ndspool ca --fingerprint", positional(0, 0),
		a.with(func(ctx context.Context, c *client.Client, _ []string) error {
			pem, err := c.CA(ctx)
			if err != nil {
				return err
			}
			if fingerprint {
				fp, err := client.Fingerprint(pem)
				if err != nil {
					return err
				}
				pem = []byte(fp + "\n")
			}
			_, err = a.Stdout.Write(pem)
			return err
		}))
	cmd.Flags().BoolVar(&fingerprint, "fingerprint", false, "print its SHA-256 fingerprint instead")
	return cmd
}
