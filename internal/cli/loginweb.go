package cli

import (
	"context"
	"encoding/json"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/client"
)

// What RFC 8628, section 3.5, says of a client that asks: how long it waits unless told, and how much longer
// after each time that it was too quick. A server that is away is asked ever more seldom.
const (
	usualInterval = 5 * time.Second
	slowerBy      = 5 * time.Second
	seldomAsked   = 30 * time.Second
)

// webPrompt is what a program shows to a person.
type webPrompt struct {
	URI         string `json:"verification_uri"`
	URIComplete string `json:"verification_uri_complete"`
	UserCode    string `json:"user_code"`
	ExpiresIn   int    `json:"expires_in"`
}

// logInByBrowser has somebody confirm the login in a browser, on whatever computer.
func (a *app) logInByBrowser(ctx context.Context, c *client.Client, r loginRequest) (api.Login, error) {
	d, err := c.BeginDeviceLogin(ctx, api.DeviceRequest{Name: a.computer(), Expires: r.life})
	if err != nil {
		return api.Login{}, err
	}
	for _, s := range []string{d.URI, d.URIComplete} {
		if u, err := url.Parse(s); err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil {
			return api.Login{}, dspool.Errorf(dspool.Internal, "the server's page %s is none that a browser opens", dspool.Quote(s)).WithHint("compare `dspool version` here and there")
		}
	}
	if r.output == "json" {
		if err := a.jsonLine(webPrompt{d.URI, d.URIComplete, d.UserCode, d.ExpiresIn}); err != nil {
			return api.Login{}, err
		}
	} else {
		a.say("Open %s in a browser, on any computer, and enter the code\n\n    %s\n\nor open %s and see that it shows this code.", clean(d.URI), clean(d.UserCode), clean(d.URIComplete))
	}
	if a.StdoutTTY && (a.getenv("DISPLAY") != "" || a.getenv("WAYLAND_DISPLAY") != "") {
		if a.browse(d.URIComplete) == nil {
			a.say("A browser opens it here.")
		}
	}
	wait := a.progress()
	wait.Set("waiting for " + d.UserCode + " to be confirmed in a browser")
	defer wait.Stop()
	return a.confirmed(ctx, c, d)
}

// confirmed asks until the login is confirmed or comes to nothing.
func (a *app) confirmed(ctx context.Context, c *client.Client, d api.DeviceLogin) (api.Login, error) {
	end := a.Now().Add(time.Duration(d.ExpiresIn) * time.Second)
	interval := time.Duration(d.Interval) * time.Second
	if interval <= 0 {
		interval = usualInterval
	}
	for pause := interval; ; {
		if err := a.sleep(ctx, pause); err != nil {
			return api.Login{}, err
		}
		got, err := c.DeviceToken(ctx, d.DeviceCode)
		switch {
		case dspool.ErrorCode(err) == dspool.Unavailable && ctx.Err() == nil && a.Now().Before(end):
			pause = min(2*pause, max(seldomAsked, interval))
			continue
		case dspool.ErrorCode(err) == dspool.Unauthenticated:
			return api.Login{}, dspool.Errorf(dspool.Unauthenticated, "nobody has confirmed the login in time, or the server has restarted meanwhile").WithHint("begin anew: dspool login --web")
		case err != nil:
			return api.Login{}, err
		}
		switch {
		case got.State == api.DeviceGranted && got.Login != nil && dspool.CheckUserName(got.Login.NewToken.User) == nil:
			return *got.Login, nil
		case got.State == api.DeviceSlowDown:
			interval = max(interval+slowerBy, time.Duration(got.Interval)*time.Second)
		case got.State != api.DevicePending:
			return api.Login{}, dspool.Errorf(dspool.Internal, "the server's answer %s is not known here", dspool.Quote(got.State)).WithHint("compare `dspool version` here and there")
		}
		pause = interval
	}
}

// computer is what this computer calls itself to whoever confirms, in letters that the server takes.
func (a *app) computer() string {
	name, err := os.Hostname()
	if err != nil {
		name = "unknown"
	}
	if u := a.getenv("USER"); u != "" {
		name = u + "@" + name
	}
	name = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-._@", r) {
			return r
		}
		return '_'
	}, name)
	return name[:min(len(name), 64)]
}

// browse opens a page in the desktop's browser; the program that does so is not waited for.
func (a *app) browse(page string) error {
	if a.Browse != nil {
		return a.Browse(page)
	}
	cmd := exec.Command("xdg-open", page)
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() { _ = cmd.Wait() }()
	return nil
}

func (a *app) sleep(ctx context.Context, d time.Duration) error {
	if a.Sleep != nil {
		return a.Sleep(ctx, d)
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// jsonLine prints v in one line: a program reads what comes before the end.
func (a *app) jsonLine(v any) error { return json.NewEncoder(a.Stdout).Encode(v) }
