package cli_test

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
)

// confirms has the office let computers in by browser, after the answers named.
func (o *office) confirms(answers ...http.HandlerFunc) {
	o.device = api.DeviceLogin{
		DeviceCode: "dsp_thelongone", UserCode: "WDJB-MJHT", URI: "https://pool.example.org/device",
		URIComplete: "https://pool.example.org/device?code=WDJB-MJHT", ExpiresIn: 600, Interval: 3,
	}
	o.polls = append(answers, o.grants("ada"))
}

func (o *office) grants(user string) http.HandlerFunc {
	return says(api.DeviceToken{State: api.DeviceGranted, Login: &api.Login{
		NewToken: api.NewToken{Token: dspool.Token{ID: "t9", User: user, Expires: &o.expires}, Secret: o.secret}, User: dspool.User{Name: user},
	}})
}

func says(t api.DeviceToken) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { reply(w, t) }
}

func denies(status int, code dspool.Code, text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(api.Problem{Detail: text, Code: code})
	}
}

// browses is a program that waits on no clock; it says for how long it would have, and what it opened.
func (o *office) browses(t *testing.T, home string) (p *program, waited *[]time.Duration, opened *[]string) {
	t.Helper()
	p, waited, opened = o.at(t, home), new([]time.Duration), new([]string)
	p.Sleep = func(ctx context.Context, d time.Duration) error {
		*waited = append(*waited, d)
		return context.Cause(ctx)
	}
	p.Browse = func(page string) error {
		*opened = append(*opened, page)
		return nil
	}
	return p, waited, opened
}

func TestLoginByBrowser(t *testing.T) {
	t.Parallel()
	pending := says(api.DeviceToken{State: api.DevicePending, Interval: 3})
	t.Run("shows page and code, asks as told, and ends as with a password", func(t *testing.T) {
		t.Parallel()
		o, home := openOffice(t), t.TempDir()
		o.confirms(pending, says(api.DeviceToken{State: api.DeviceSlowDown}), pending, denies(503, dspool.Unavailable, "it restarts"), denies(502, "", ""), pending)
		p, waited, opened := o.browses(t, home)
		p.env["DISPLAY"] = ":0"
		p.must(t, "login", "--web", "--url", o.URL, "--fingerprint", o.fingerprint, "--save")
		s := time.Second
		if want := []time.Duration{3 * s, 3 * s, 8 * s, 8 * s, 16 * s, 30 * s, 8 * s}; !slices.Equal(*waited, want) {
			t.Errorf("waited %v, want %v", *waited, want)
		}
		for _, text := range []string{o.device.URI + " in a browser", "\n    WDJB-MJHT\n", "open " + o.device.URIComplete, "user ada is logged in at", ".ssh/dspool-ed25519"} {
			if !strings.Contains(p.err.String(), text) {
				t.Errorf("no %q in %s", text, p.err.String())
			}
		}
		if all := p.out.String() + p.err.String(); strings.Contains(all, "SECRET") || strings.Contains(all, "thelongone") || p.out.Len() > 0 {
			t.Error(all)
		}
		if len(*opened) > 0 {
			t.Errorf("a browser opened without a terminal: %v", *opened)
		}
		if !strings.HasPrefix(o.name, "ada@") || o.wasAsked("POST /login") {
			t.Errorf("%q, %v", o.name, o.asked)
		}
		p = o.at(t, home)
		p.must(t, "door", "list")
	})
	t.Run("opens a browser where there is a desktop and a terminal", func(t *testing.T) {
		t.Parallel()
		for display, want := range map[string]int{"DISPLAY": 1, "WAYLAND_DISPLAY": 1, "TERM": 0} {
			o := openOffice(t)
			o.confirms()
			p, _, opened := o.browses(t, t.TempDir())
			p.StdoutTTY, p.env[display] = true, "x"
			p.must(t, "login", "--web", "--url", o.URL, "--fingerprint", o.fingerprint)
			if len(*opened) != want || want == 1 && (*opened)[0] != o.device.URIComplete {
				t.Errorf("%s: %v", display, *opened)
			}
		}
	})
	t.Run("logs in as whoever confirmed", func(t *testing.T) {
		t.Parallel()
		o := openOffice(t)
		o.confirms()
		p, _, _ := o.browses(t, t.TempDir())
		p.env["USER"] = "Somebody Else"
		p.must(t, "login", "--web", "--url", o.URL, "--fingerprint", o.fingerprint)
		if !strings.Contains(p.err.String(), "user ada is logged in at") || !strings.Contains(p.out.String(), "export DSPOOL_TOKEN=dspool_SECRET\n") || o.name != "Somebody_Else@"+strings.SplitN(o.name, "@", 2)[1] {
			t.Errorf("%q %s %s", o.name, p.out.String(), p.err.String())
		}
	})
	t.Run("programs get JSON: first the page, then the login", func(t *testing.T) {
		t.Parallel()
		for _, save := range []bool{false, true} {
			o := openOffice(t)
			o.confirms(pending)
			p, _, _ := o.browses(t, t.TempDir())
			args := []string{"login", "--web", "-o", "json", "--url", o.URL, "--fingerprint", o.fingerprint}
			if save {
				args = append(args, "--save")
			}
			p.must(t, args...)
			var page, login map[string]any
			d := json.NewDecoder(&p.out)
			if err := d.Decode(&page); err != nil {
				t.Fatal(err)
			}
			if err := d.Decode(&login); err != nil || d.More() {
				t.Fatal(err)
			}
			if page["user_code"] != "WDJB-MJHT" || page["verification_uri"] != o.device.URI || page["device_code"] != nil {
				t.Errorf("%v", page)
			}
			if token, ok := login["token"]; login["user"] != "ada" || login["url"] != o.URL || login["token_id"] != "t9" || ok == save || !save && token != o.secret {
				t.Errorf("%v", login)
			}
		}
	})
}

func TestALoginByBrowserThatFailsLeavesNothing(t *testing.T) {
	t.Parallel()
	for claim, tt := range map[string]struct {
		prepare func(*office)
		args    string
		text    string
		code    int
		revoked bool
	}{
		"refused": {func(o *office) {
			o.polls = []http.HandlerFunc{denies(403, dspool.Forbidden, "the login was refused in the browser")}
		}, "", "dspool: the login was refused in the browser", 4, false},
		"expired, or after a restart": {func(o *office) { o.polls = nil }, "", "nobody has confirmed the login in time, or the server has restarted meanwhile\nhint: begin anew: dspool login --web", 4, false},
		"a fault":                     {func(o *office) { o.polls = []http.HandlerFunc{denies(500, dspool.Internal, "it failed")} }, "", "it failed", 1, false},
		"confirmed by another":        {func(o *office) { o.polls = []http.HandlerFunc{o.grants("bob")} }, "--user ada", "user bob has confirmed the login, not ada\nhint: log in at the portal as ada", 4, true},
		"a user who can be none":      {func(o *office) { o.polls = []http.HandlerFunc{o.grants("-oProxyCommand=x")} }, "", "is not known here", 1, false},
		"an unknown answer":           {func(o *office) { o.polls = []http.HandlerFunc{says(api.DeviceToken{State: "maybe"})} }, "", "the server's answer \"maybe\" is not known here", 1, false},
		"a forged certificate":        {func(o *office) { o.forged = true }, "", "did not answer with a certificate", 1, true},
		"a page that is a command":    {func(o *office) { o.device.URIComplete = "--version" }, "", "is none that a browser opens", 1, false},
		"a page that is a file":       {func(o *office) { o.device.URIComplete = "file:///etc/passwd" }, "", "is none that a browser opens", 1, false},
		"a name that cannot be":       {func(*office) {}, "--user root", "\"root\" is no user of a pool", 2, false},
		"and a password":              {func(*office) {}, "--stdin", "--web and --stdin do not go together", 2, false},
		"at the socket":               {func(*office) {}, "--state-dir /x", "the server's socket needs no login", 2, false},
	} {
		t.Run(claim, func(t *testing.T) {
			t.Parallel()
			o, home := openOffice(t), t.TempDir()
			o.confirms()
			tt.prepare(o)
			p, _, opened := o.browses(t, home)
			p.StdoutTTY = false
			code := p.run(t, append([]string{"login", "--web", "--save", "--url", o.URL, "--fingerprint", o.fingerprint}, strings.Fields(tt.args)...)...)
			if code != tt.code || !strings.Contains(p.err.String(), tt.text) || p.out.Len() > 0 || len(*opened) > 0 {
				t.Errorf("code %d, want %d and %q: %s%s", code, tt.code, tt.text, p.out.String(), p.err.String())
			}
			if o.wasAsked("DELETE /tokens/t9") != tt.revoked {
				t.Errorf("the token's end: %v", o.asked)
			}
			if _, err := os.Stat(filepath.Join(home, ".config/dspool/credentials.json")); err == nil {
				t.Error("the login was saved")
			}
		})
	}
	t.Run("interrupted", func(t *testing.T) {
		t.Parallel()
		o := openOffice(t)
		o.confirms()
		p, _, _ := o.browses(t, t.TempDir())
		signals := make(chan os.Signal, 1)
		p.Signals = signals
		p.Sleep = func(ctx context.Context, _ time.Duration) error {
			signals <- os.Interrupt
			<-ctx.Done()
			return context.Cause(ctx)
		}
		if code := p.run(t, "login", "--web", "--url", o.URL, "--fingerprint", o.fingerprint); code != 130 || o.wasAsked("POST /login/device/token") {
			t.Errorf("code %d: %v %s", code, o.asked, p.err.String())
		}
	})
}
