package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"

	"github.com/spf13/cobra"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/client"
)

// loginRequest is what the flags of login say.
type loginRequest struct {
	url, user         string
	trust             trust
	save, file, stdin bool
	web               bool
	named             bool // the user was given
	output            string
	life              dspool.Duration
}

const loginLong = `A password buys two short-lived things: a token for the API, and an SSH certificate for the doors.

With --web no password is asked for: you confirm the login in a browser, where you log in as you
always do at the portal, on this computer or any other. You are then whoever confirmed. Pages
about a login that you did not start yourself are to be refused.

The certificate and its new key go into the running ssh-agent, which forgets them in time. Without
an agent, or with --file, they are ~/.ssh/dspool-ed25519 and ~/.ssh/dspool-ed25519-cert.pub.

The token is printed as lines for the shell, which keeps it in no file:
  eval "$(dspool login --url https://pool.example.org:8443)"
With --save it is kept for this user alone in ~/.config/dspool/credentials.json, for as long as
it is valid; "dspool logout" ends it before. With -o json stdout has one JSON value a line: with
--web first the page to open, last the login, whose token is left out where it was saved.

A server with an authority of its own is asked for its fingerprint the first time. Compare it with
what "dspool ca --fingerprint" prints on the server's host.`

func (a *app) login() *cobra.Command {
	var r loginRequest
	cmd := command("login", "Get a token and an SSH certificate for a password, or by browser", loginLong,
		"dspool login --url https://pool.example.org:8443 --save\ndspool login --web --save\neval \"$(dspool login --user ada)\"", positional(0, 0),
		func(cmd *cobra.Command, _ []string) error {
			r.named = cmd.Flags().Changed("user")
			return a.logIn(cmd.Context(), r)
		})
	text(cmd, &r.url, "url", "URL", "the server's address (default: DSPOOL_URL, then that of the saved login)")
	text(cmd, &r.user, "user", "USER", "who you are there (default: as on this computer)")
	text(cmd, &r.trust.file, "ca", "FILE", "trust this authority, as \"dspool ca\" prints it")
	text(cmd, &r.trust.fingerprint, "fingerprint", "SHA-256", "trust the server's own authority if it has this fingerprint")
	cmd.Flags().BoolVar(&r.save, "save", false, "keep the token in a file instead of printing it")
	cmd.Flags().BoolVar(&r.file, "file", false, "keep the SSH key and certificate in files, not in the agent")
	cmd.Flags().BoolVar(&r.stdin, "stdin", false, "read the password from stdin instead of asking")
	cmd.Flags().BoolVar(&r.web, "web", false, "confirm the login in a browser instead of giving a password")
	showOutput(cmd, &r.output)
	flag(cmd, &r.life, "for", "duration", "how long both are good (default 12h; a certificate at most 24h)", dspool.ParseDuration)
	_ = cmd.MarkFlagFilename("ca", "pem", "crt")
	cmd.MarkFlagsMutuallyExclusive("ca", "fingerprint")
	return cmd
}

// logIn does it. Whatever fails after the token came ends the token.
func (a *app) logIn(ctx context.Context, r loginRequest) error {
	if a.stateDir != "" {
		return dspool.Errorf(dspool.Invalid, "the server's socket needs no login").WithHint("give --url instead of --state-dir")
	}
	if r.web && r.stdin {
		return dspool.Errorf(dspool.Invalid, "--web and --stdin do not go together").WithHint("a login by browser needs no password")
	}
	saved := a.savedLogin()
	r.url = cmp.Or(r.url, a.getenv("DSPOOL_URL"), saved.URL)
	if r.url == "" {
		return dspool.Errorf(dspool.Invalid, "no server is named").WithHint("for example dspool login --url https://pool.example.org:8443")
	}
	if err := a.nameUser(&r, saved); err != nil {
		return err
	}
	// Refuse what cannot be before anybody is asked for anything.
	if _, err := client.New(client.Options{URL: r.url, Token: "secret"}); err != nil {
		return err
	}
	ca, err := a.establish(ctx, r.url, r.trust, saved)
	if err != nil {
		return err
	}
	o := client.Options{URL: r.url, CA: ca.pem, UserAgent: "dspool/" + a.Version}
	c, err := client.New(o)
	if err != nil {
		return err
	}
	prove := a.logInByPassword
	if r.web {
		prove = a.logInByBrowser
	}
	got, err := prove(ctx, c, r)
	if err != nil {
		return err
	}
	o.Token = got.Secret
	if c, err = client.New(o); err != nil {
		return err
	}
	err = a.settle(ctx, c, r, ca, got)
	if err != nil {
		_ = c.RevokeToken(context.WithoutCancel(ctx), got.ID)
		return err
	}
	if saved.TokenID != "" && r.save && saved.URL == r.url {
		_ = c.RevokeToken(ctx, saved.TokenID) // nobody has it any more
	}
	return nil
}

// nameUser finds out who logs in. With a browser that is whoever confirms, unless somebody is named.
func (a *app) nameUser(r *loginRequest, saved client.Credentials) error {
	if !r.web || r.named {
		if r.user == "" && saved.URL == r.url {
			r.user = saved.User
		}
		if r.user = cmp.Or(r.user, a.getenv("USER"), a.getenv("LOGNAME")); r.user == "" {
			return dspool.Errorf(dspool.Invalid, "nobody knows who you are").WithHint("give --user")
		}
		if err := dspool.CheckUserName(r.user); err != nil {
			return dspool.Errorf(dspool.Invalid, "%s is no user of a pool", dspool.Quote(r.user)).WithHint("give --user")
		}
	}
	return nil
}

func (a *app) logInByPassword(ctx context.Context, c *client.Client, r loginRequest) (got api.Login, err error) {
	var password string
	if r.stdin {
		password, err = a.line(ctx)
	} else {
		password, err = a.secret(ctx, fmt.Sprintf("password of %s at %s", r.user, c.Host()))
	}
	if err != nil {
		return got, err
	}
	got, err = c.Login(ctx, api.LoginRequest{User: r.user, Password: password, Expires: r.life})
	if dspool.ErrorCode(err) == dspool.Unauthenticated {
		return got, dspool.Errorf(dspool.Unauthenticated, "user or password is wrong").WithHint("after several wrong ones, wait some minutes; who has no password logs in with dspool login --web")
	}
	return got, err
}

// settle gets the certificate and puts everything where it belongs.
func (a *app) settle(ctx context.Context, c *client.Client, r loginRequest, ca authority, got api.Login) error {
	if r.web && r.named && got.NewToken.User != r.user {
		return dspool.Errorf(dspool.Forbidden, "user %s has confirmed the login, not %s", got.NewToken.User, r.user).WithHint("log in at the portal as %s, or leave out --user", r.user)
	} else if r.web {
		r.user = got.NewToken.User
	}
	where, err := a.certify(ctx, c, r)
	if err != nil {
		return err
	}
	a.say("user %s is logged in at %s until %s", clean(got.NewToken.User), clean(r.url), a.fullTime(got.Expires))
	a.say("%s", where)
	if r.save {
		path := client.CredentialsFile(a.getenv)
		if path == "" {
			return dspool.Errorf(dspool.Invalid, "there is no place to save the login").WithHint("set HOME")
		}
		keep := client.Credentials{URL: r.url, User: got.NewToken.User, Token: got.Secret, TokenID: got.ID, CA: string(ca.pem)}
		if got.Expires != nil {
			keep.Expires = *got.Expires
		}
		if err := keep.Save(path); err != nil {
			return err
		}
		a.say("the token is saved in %s", path)
		if u := a.getenv("DSPOOL_URL"); u != "" {
			a.say("DSPOOL_URL is set and comes before it: unset DSPOOL_URL DSPOOL_TOKEN DSPOOL_CA")
		}
		if r.output == "json" {
			return a.jsonLine(loggedIn{URL: r.url, User: got.NewToken.User, TokenID: got.ID, Expires: got.Expires})
		}
		return nil
	}
	if ca.pem != nil && ca.path == "" {
		u, err := url.Parse(r.url)
		if err != nil {
			return err
		}
		if ca.path = a.authorityFile(u); ca.path != "" {
			if err := client.WriteFile(ca.path, ca.pem, 0o644); err != nil {
				return err
			}
		}
	}
	if r.output == "json" {
		return a.jsonLine(loggedIn{URL: r.url, User: got.NewToken.User, TokenID: got.ID, Token: got.Secret, CA: ca.path, Expires: got.Expires})
	}
	a.printf("export DSPOOL_URL=%s\nexport DSPOOL_TOKEN=%s\n", shellLine([]string{r.url}), shellLine([]string{got.Secret}))
	if ca.path != "" {
		a.printf("export DSPOOL_CA=%s\n", shellLine([]string{ca.path}))
	}
	if a.StdoutTTY {
		a.say("These lines are for the shell: eval \"$(dspool login)\" reads them at once; --save keeps the token in a file.")
	}
	return nil
}

// loggedIn is a login for programs.
type loggedIn struct {
	URL     string       `json:"url"`
	User    string       `json:"user"`
	TokenID string       `json:"token_id"`
	Token   string       `json:"token,omitempty"`
	CA      string       `json:"ca,omitempty"` // file
	Expires *dspool.Time `json:"expires,omitempty"`
}

// savedLogin is the login that was kept, also when it has expired; a file that is refused counts as none.
func (a *app) savedLogin() client.Credentials {
	if path := client.CredentialsFile(a.getenv); path != "" {
		c, _ := client.ReadCredentials(path)
		return c
	}
	return client.Credentials{}
}

func (a *app) logout() *cobra.Command {
	return command("logout", "Forget what dspool login got",
		"It ends the saved token, removes its file, and removes dspool's SSH certificates from the agent and from ~/.ssh.\nA token that only a shell has goes with `dspool token revoke`.", "dspool logout", positional(0, 0),
		func(cmd *cobra.Command, _ []string) error {
			var errs []error
			if path := client.CredentialsFile(a.getenv); path != "" {
				errs = append(errs, a.forget(cmd.Context(), path))
			}
			n, err := a.forgetCertificates()
			if n > 0 {
				a.say("%s removed", plural(int64(n), "SSH certificate"))
			}
			errs = append(errs, err)
			if a.getenv("DSPOOL_TOKEN") != "" {
				a.say("this shell still has a token: unset DSPOOL_TOKEN")
			}
			return errors.Join(errs...)
		})
}

// forget ends the saved token and removes its file; a server that cannot be asked does not keep the file.
func (a *app) forget(ctx context.Context, path string) error {
	saved, err := client.ReadCredentials(path)
	if errors.Is(err, fs.ErrNotExist) {
		a.say("no login is saved")
		return nil
	}
	if err == nil && saved.TokenID != "" {
		o := client.Options{URL: saved.URL, Token: saved.Token}
		if saved.CA != "" {
			o.CA = []byte(saved.CA)
		}
		c, err := client.New(o)
		if err == nil {
			err = c.RevokeToken(ctx, saved.TokenID)
		}
		switch code := dspool.ErrorCode(err); {
		case err == nil || code == dspool.NotFound || code == dspool.Unauthenticated:
		case saved.Expires.IsZero():
			a.say("the token was not ended at the server: %s", clean(err.Error()))
		default:
			a.say("the token was not ended at the server, where it is good until %s: %s", a.fullTime(&saved.Expires), clean(err.Error()))
		}
	}
	if err := os.Remove(path); err != nil {
		return dspool.Errorf(dspool.Invalid, "the saved login stays: %w", err)
	}
	a.say("the saved login is removed")
	return nil
}
