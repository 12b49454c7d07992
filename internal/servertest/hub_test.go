package servertest_test

import (
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/client"
	"github.com/dspool/dspool/internal/control"
	"github.com/dspool/dspool/internal/servertest"
	"github.com/dspool/dspool/internal/testkit"
)

// webConfig is Config with a web door and JupyterHub.
var webConfig = strings.NewReplacer(
	"shares:\n", "doors: [{listen: \"127.0.0.1:8000\", protocol: web, pool: batch}]\nshares:\n  services: {mount: /home}\n",
	"pools:\n", "pools:\n  hub: {runs: jupyterhub, sizes: [small], shares: [services]}\n",
).Replace(servertest.Config)

// hub waits until JupyterHub is wanted of a machine, and opens its session.
func (s *rogues) hub(machine string) (*hand, api.SessionDirective) {
	s.t.Helper()
	h := s.hand(machine)
	d := h.opens(dspool.HubUser)
	return h, h.session(dspool.HubUser, "runs the hub", func(x api.SessionDirective) bool { return x.ID == d.ID && len(x.Apps) == 1 })
}

func (s *rogues) web() api.Web {
	s.t.Helper()
	d, err := s.Server.Control.GatewayDirectives(s.t.Context(), 0, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	return d.Web
}

func secrets(t *testing.T, s *rogues) control.HubSecrets {
	t.Helper()
	out, err := s.Server.Control.HubSecrets()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestJupyterHubIsKeptRunning(t *testing.T) {
	s := newRogues(t, webConfig)
	ctx := t.Context()
	h, d := s.hub("hub-1")
	m, err := s.Machine(ctx, "hub-1")
	if err != nil {
		t.Fatal(err)
	}
	t.Run("it has an account of its own, whose home is on the pool's share alone", func(t *testing.T) {
		if d.UID < 20000 || d.Home != "/home/jupyterhub" || m.Claims != 1 {
			t.Errorf("%+v on %+v", d, m)
		}
		if info, err := os.Stat(filepath.Join(s.Dir, "shares/services/jupyterhub")); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("its home: %v, %v", info, err)
		}
		for _, path := range []string{"shares/home/jupyterhub", "shares/services/ada"} {
			if _, err := os.Stat(filepath.Join(s.Dir, path)); !os.IsNotExist(err) {
				t.Errorf("%s: %v", path, err)
			}
		}
	})
	t.Run("it is told its URLs and secrets", func(t *testing.T) {
		a, k := d.Apps[0], secrets(t, s)
		want := api.AppDirective{
			ID: a.ID, Name: "hub", Restart: true, Command: []string{"/opt/jupyterhub/bin/python3", "-m", "dspool.jupyterhub", "--port", "{port}"},
			Env: map[string]string{
				"DSPOOL_API_URL": "http://api.dspool.internal:8445", "DSPOOL_PROXY_API": "http://proxy.dspool.internal:8445",
				"DSPOOL_HUB_URL": "http://hub.localhost:8000", "DSPOOL_PORTAL_URL": "http://localhost:8000", "DSPOOL_POOL": "batch",
				"DSPOOL_TOKEN": k.Token, "CONFIGPROXY_AUTH_TOKEN": k.Proxy,
				"DSPOOL_OAUTH_CLIENT_ID": "jupyterhub", "DSPOOL_OAUTH_CLIENT_SECRET": k.OAuth, "JUPYTERHUB_CRYPT_KEY": k.Crypt,
			},
		}
		if mustJSON(t, a) != mustJSON(t, want) {
			t.Errorf("told %+v", a)
		}
		all := []string{k.Token, k.Proxy, k.OAuth, k.Crypt}
		slices.Sort(all)
		if len(slices.Compact(all)) != 4 || len(k.Crypt) != 64 {
			t.Error("the secrets are not four")
		}
	})
	hub := d.Apps[0].ID
	t.Run("the gateway lets its machine use the proxy before it listens", func(t *testing.T) {
		web := s.web()
		if web.HubMachine != m.Address || web.Hub != "" || web.ProxyToken != secrets(t, s).Proxy || web.MachineDoor != servertest.MachineDoor ||
			web.Portal != "http://localhost:8000" || web.Hubs != "http://hub.localhost:8000" || web.Domain != "localhost" {
			t.Errorf("%+v", web)
		}
		h.says(d.ID, running(hub, 41000))
		if web := s.web(); web.Hub != m.Address+":41000" || len(web.Apps) != 0 {
			t.Errorf("%+v", web)
		}
		h.says(d.ID, api.AppReport{ID: hub, State: dspool.AppStarting, Reason: testkit.Stated("exit code 1")})
		if web := s.web(); web.Hub != "" || web.HubMachine != m.Address {
			t.Errorf("while it begins anew: %+v", web)
		}
		h.says(d.ID, running(hub, 41001))
	})
	t.Run("what it shares with the server lies nowhere, and is not what it says last", func(t *testing.T) {
		k := secrets(t, s)
		h.says(d.ID, api.AppReport{ID: hub, State: dspool.AppStarting, Reason: testkit.Stated("no route for " + k.Proxy)})
		if got := h.app(hub).Reason.Text; got != "no route for …" {
			t.Errorf("it says %q", got)
		}
		h.says(d.ID, running(hub, 41001))
		err := filepath.WalkDir(s.Dir, func(path string, e os.DirEntry, err error) error {
			if err != nil || !e.Type().IsRegular() {
				return err
			}
			text, err := os.ReadFile(path)
			for _, secret := range []string{k.Token, k.Proxy, k.OAuth, k.Crypt} {
				if strings.Contains(string(text), secret) {
					t.Errorf("%s holds a secret", path)
				}
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	})
	t.Run("people neither see it nor get onto its machine", func(t *testing.T) {
		ada := s.As("ada")
		for what, err := range map[string]error{
			"show app":     errOf(ada.App(ctx, hub)),
			"stop app":     errOf(ada.StopApp(ctx, hub)),
			"show session": errOf(ada.Session(ctx, d.ID)),
		} {
			if dspool.ErrorCode(err) != dspool.NotFound {
				t.Errorf("%s: %v", what, err)
			}
		}
		apps, err := ada.Apps(ctx, client.AppFilter{All: true})
		sessions, err2 := ada.Sessions(ctx, client.SessionFilter{All: true})
		users, err3 := ada.Users(ctx)
		if err != nil || err2 != nil || err3 != nil || len(apps.Items)+len(sessions.Items) != 0 || len(users.Items) != 1 {
			t.Errorf("ada sees %+v %+v %+v", apps, sessions, users)
		}
		for what, err := range map[string]error{
			"an app":         errOf(s.WantApp(ctx, api.AppRequest{User: "ada", Pool: "hub", Name: "x", Command: []string{"true"}})),
			"a job":          errOf(ada.Submit(ctx, api.SubmitRequest{JobSpec: dspool.JobSpec{Pool: "hub", Command: []string{"true"}}})),
			"a default pool": errOf(s.ChangeUser(ctx, "ada", api.ChangeUserRequest{DefaultPool: ptr("hub")})),
		} {
			if dspool.ErrorCode(err) != dspool.Invalid || !strings.Contains(err.Error(), "takes nothing else") {
				t.Errorf("%s in its pool: %v", what, err)
			}
		}
		login := api.OpenSession{Connection: "c1", User: "ada", Pool: "hub", Protocol: dspool.ProtocolSSH, From: "192.0.2.1:1", Auth: "key"}
		if err := s.Server.Control.OpenSession(ctx, login, func(api.SessionStep) error { return nil }); dspool.ErrorCode(err) != dspool.Invalid {
			t.Errorf("a login: %v", err)
		}
		apps, err = s.Apps(ctx, client.AppFilter{})
		if err != nil || len(apps.Items) != 1 || apps.Items[0].User != dspool.HubUser {
			t.Errorf("an administrator sees %+v, %v", apps, err)
		}
	})
	t.Run("its account is nobody's", func(t *testing.T) {
		key := publicKey(t)
		for what, err := range map[string]error{
			"made":      errOf(s.AddUser(ctx, api.AddUserRequest{Name: dspool.HubUser})),
			"removed":   s.RemoveUser(ctx, dspool.HubUser),
			"changed":   errOf(s.ChangeUser(ctx, dspool.HubUser, api.ChangeUserRequest{Admin: ptr(true)})),
			"password":  s.SetPassword(ctx, dspool.HubUser, api.PasswordRequest{New: "correct horse battery staple"}),
			"key":       errOf(s.AddUserKey(ctx, dspool.HubUser, key)),
			"token":     errOf(s.AddToken(ctx, api.AddTokenRequest{User: dspool.HubUser})),
			"app as it": errOf(s.WantApp(ctx, api.AppRequest{User: dspool.HubUser, Name: "x", Command: []string{"true"}})),
		} {
			if dspool.ErrorCode(err) != dspool.Invalid {
				t.Errorf("%s: %v", what, err)
			}
		}
	})
	t.Run("it is not made twice, nor by another server", func(t *testing.T) {
		for range 3 {
			if err := s.Server.Control.EnsureHub(ctx); err != nil {
				t.Error(err)
			}
		}
		s.Kill()
		s.Start()
		if got := h.told(dspool.HubUser, hub); got.ID != d.ID || h.app(hub).State != dspool.AppRunning {
			t.Errorf("%+v", got)
		}
	})
	t.Run("new URLs begin it anew", func(t *testing.T) {
		text := strings.Replace(webConfig, "doors: ", "web: {url: \"https://pool.example.org\"}\ndoors: ", 1)
		if _, err := s.Apply(ctx, s.ConfigRequest(text)); err != nil {
			t.Fatal(err)
		}
		h.told(dspool.HubUser)
		h.says(d.ID, ended(hub, 143, ""))
		now := h.session(dspool.HubUser, "runs the next hub", func(x api.SessionDirective) bool { return len(x.Apps) == 1 })
		if env := now.Apps[0].Env; env["DSPOOL_HUB_URL"] != "https://hub.pool.example.org" || env["DSPOOL_PORTAL_URL"] != "https://pool.example.org" || now.Apps[0].ID == hub {
			t.Errorf("%+v", now.Apps[0])
		}
		hub = now.Apps[0].ID
		h.says(d.ID, running(hub, 41002))
	})
	t.Run("one that its machine gives up is made once more", func(t *testing.T) {
		h.says(d.ID, ended(hub, 127, "no such program"))
		now := h.session(dspool.HubUser, "runs the next hub", func(x api.SessionDirective) bool { return len(x.Apps) == 1 && x.Apps[0].ID != hub })
		hub = now.Apps[0].ID
		h.says(d.ID, running(hub, 41003))
	})
	t.Run("drained, it begins anew on the next machine", func(t *testing.T) {
		if _, err := s.DrainMachine(ctx, "hub-1", 0); err != nil {
			t.Fatal(err)
		}
		h.session(dspool.HubUser, "is to end", func(x api.SessionDirective) bool { return x.Close })
		r := api.Report{Health: dspool.Healthy, Sessions: []api.SessionReport{{ID: d.ID, State: dspool.SessionClosed}}}
		if status := h.call("POST", "/agent/v1/reports", r, nil); status != 204 {
			t.Errorf("report: %d", status)
		}
		h, d = s.hub("hub-2")
		hub = d.Apps[0].ID
		h.says(d.ID, running(hub, 41004))
		if web := s.web(); !strings.HasSuffix(web.Hub, ":41004") {
			t.Errorf("%+v", web)
		}
	})
	t.Run("without its pool it ends", func(t *testing.T) {
		if _, err := s.Apply(ctx, s.ConfigRequest(servertest.Config)); dspool.ErrorCode(err) != dspool.Conflict || !strings.Contains(err.Error(), "share services cannot be removed") {
			t.Errorf("with its share: %v", err)
		}
		text := strings.Replace(servertest.Config, "shares:\n", "shares:\n  services: {mount: /home}\n", 1)
		if _, err := s.Apply(ctx, s.ConfigRequest(text)); err != nil {
			t.Fatal(err)
		}
		h.session(dspool.HubUser, "is to end", func(x api.SessionDirective) bool {
			return x.Close && x.Reason.Text == "pool hub runs no JupyterHub any more"
		})
		r := api.Report{Health: dspool.Healthy, Sessions: []api.SessionReport{{ID: d.ID, State: dspool.SessionClosed}}}
		if status := h.call("POST", "/agent/v1/reports", r, nil); status != 204 {
			t.Errorf("report: %d", status)
		}
		s.AtRest()
		if web := s.web(); web.Hub+web.HubMachine+web.ProxyToken+web.Hubs != "" {
			t.Errorf("%+v", web)
		}
		if _, err := s.WithToken(secrets(t, s).Token).Whoami(ctx); dspool.ErrorCode(err) != dspool.Unauthenticated {
			t.Errorf("its token still counts: %v", err)
		}
	})
}

func ptr[T any](v T) *T { return &v }

func TestWhatASpawnerMay(t *testing.T) {
	s := newRogues(t, webConfig)
	ctx := t.Context()
	job, err := s.As("bob").Submit(ctx, api.SubmitRequest{JobSpec: dspool.JobSpec{Command: []string{"true"}}})
	if err != nil {
		t.Fatal(err)
	}
	h, d := s.hub("hub-1")
	token, err := s.As("grace").AddToken(ctx, api.AddTokenRequest{Spawner: true, Name: "hub"})
	if err != nil {
		t.Fatal(err)
	}
	hub := s.WithToken(secrets(t, s).Token)
	for who, c := range map[string]*client.Client{"the hub": hub, "a spawner of an administrator": s.WithToken(token.Secret)} {
		t.Run(who+" runs apps as anybody", func(t *testing.T) {
			a := wants(t, c, api.AppRequest{User: "ada", Name: "jupyter", Command: []string{"x"}})
			if a.User != "ada" || a.Pool != "batch" {
				t.Errorf("%+v", a)
			}
			for range c.AppSteps(ctx, a.ID) {
				break
			}
			if list, err := c.Apps(ctx, client.AppFilter{User: "ada"}); err != nil || len(list.Items) != 1 || list.Items[0].ID != a.ID {
				t.Errorf("%+v, %v", list, err)
			}
			if got, err := c.StopApp(ctx, a.ID); err != nil || got.State != dspool.AppEnded {
				t.Errorf("%+v, %v", got, err)
			}
			for user, code := range map[string]dspool.Code{"": dspool.Invalid, "nobody": dspool.Invalid, "no-such-user": dspool.Invalid, "jupyterhub": dspool.Invalid} {
				if _, err := c.WantApp(ctx, api.AppRequest{User: user, Name: "jupyter", Command: []string{"x"}}); dspool.ErrorCode(err) != code {
					t.Errorf("as %q: %v", user, err)
				}
			}
		})
		t.Run(who+" sees names and pools", func(t *testing.T) {
			users, err := c.Users(ctx)
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, u := range users.Items {
				names = append(names, u.Name)
				if u.Admin || u.HasPassword || u.DefaultPool != "" || len(u.Groups) > 0 {
					t.Errorf("it sees %+v", u)
				}
			}
			if names = slices.DeleteFunc(names, func(n string) bool { return n == dspool.HubUser }); strings.Join(names, " ") != "ada bob grace" {
				t.Errorf("users %v", names)
			}
			if pools, err := c.Pools(ctx); err != nil || len(pools.Items) != 2 {
				t.Errorf("%+v, %v", pools, err)
			}
		})
		t.Run(who+" may nothing else", func(t *testing.T) {
			for what, err := range map[string]error{
				"a job":          errOf(c.Job(ctx, job.ID)),
				"cancel":         errOf(c.CancelJob(ctx, job.ID)),
				"submit":         errOf(c.Submit(ctx, api.SubmitRequest{As: "ada", JobSpec: dspool.JobSpec{Command: []string{"true"}}})),
				"an account":     errOf(c.User(ctx, "ada")),
				"a token":        errOf(c.AddToken(ctx, api.AddTokenRequest{})),
				"ada's token":    errOf(c.AddToken(ctx, api.AddTokenRequest{User: "ada"})),
				"a spawner":      errOf(c.AddToken(ctx, api.AddTokenRequest{Spawner: true})),
				"revoke":         c.RevokeToken(ctx, token.ID),
				"a password":     c.SetPassword(ctx, "ada", api.PasswordRequest{New: "correct horse battery staple"}),
				"a certificate":  errOf(c.SignCertificate(ctx, api.CertificateRequest{PublicKey: publicKey(t)})),
				"ada's keys":     errOf(c.UserKeys(ctx, "ada")),
				"apply":          errOf(c.Apply(ctx, api.ApplyRequest{Name: "x", Text: webConfig, DryRun: true})),
				"remove":         errOf(c.RemoveMachine(ctx, "hub-1", true)),
				"close sessions": errOf(c.CloseSession(ctx, 1000)),
			} {
				if err == nil {
					t.Errorf("%s is allowed", what)
				}
			}
			text := ""
			see := func(v any, err error) {
				t.Helper()
				if err != nil {
					t.Error(err)
				}
				text += mustJSON(t, v)
			}
			see(c.Jobs(ctx, client.JobFilter{}))
			see(c.Jobs(ctx, client.JobFilter{User: "bob"}))
			see(c.Sessions(ctx, client.SessionFilter{User: "bob"}))
			see(c.Tokens(ctx, ""))
			see(c.Tokens(ctx, "grace"))
			see(c.Groups(ctx))
			see(c.Usage(ctx, "user", time.Time{}, time.Time{}))
			see(c.Machine(ctx, "batch-1"))
			if strings.Contains(text, "bob") || strings.Contains(text, "grace") {
				t.Errorf("it sees %s", text)
			}
		})
	}
	t.Run("nobody else's spawner touches the hub", func(t *testing.T) {
		c := s.WithToken(token.Secret)
		if _, err := c.StopApp(ctx, d.Apps[0].ID); dspool.ErrorCode(err) != dspool.NotFound {
			t.Error(err)
		}
		if list, err := c.Apps(ctx, client.AppFilter{}); err != nil || len(list.Items) != 0 {
			t.Errorf("%+v, %v", list, err)
		}
		h.told(dspool.HubUser, d.Apps[0].ID)
	})
	t.Run("only administrators make one, and it ends like any token", func(t *testing.T) {
		if _, err := s.As("ada").AddToken(ctx, api.AddTokenRequest{Spawner: true}); dspool.ErrorCode(err) != dspool.Forbidden {
			t.Error(err)
		}
		if err := s.RevokeToken(ctx, token.ID); err != nil {
			t.Fatal(err)
		}
		if _, err := s.WithToken(token.Secret).Whoami(ctx); dspool.ErrorCode(err) != dspool.Unauthenticated {
			t.Error(err)
		}
	})
	t.Run("a user runs apps as nobody else", func(t *testing.T) {
		bob := s.As("bob")
		a := wants(t, s.As("ada"), notebook)
		for what, err := range map[string]error{
			"show": errOf(bob.App(ctx, a.ID)), "stop": errOf(bob.StopApp(ctx, a.ID)), "missing": errOf(bob.App(ctx, 999)),
		} {
			if dspool.ErrorCode(err) != dspool.NotFound || !strings.HasPrefix(err.Error(), "there is no app ") {
				t.Errorf("%s: %v", what, err)
			}
		}
		for _, err := range bob.AppSteps(ctx, a.ID) {
			if dspool.ErrorCode(err) != dspool.NotFound {
				t.Errorf("steps: %v", err)
			}
		}
		for _, user := range []string{"ada", "jupyterhub", "nobody"} {
			if _, err := bob.WantApp(ctx, api.AppRequest{User: user, Name: "x", Command: []string{"x"}}); dspool.ErrorCode(err) != dspool.Forbidden {
				t.Errorf("as %s: %v", user, err)
			}
		}
		if list, err := bob.Apps(ctx, client.AppFilter{User: "ada", All: true}); err != nil || len(list.Items) != 0 {
			t.Errorf("%+v, %v", list, err)
		}
	})
}

func TestAppsThatCouldNeverBeRight(t *testing.T) {
	s := newRogues(t, "")
	for what, change := range map[string]func(*api.AppRequest){
		"no name":               func(r *api.AppRequest) { r.Name = "" },
		"a path for a name":     func(r *api.AppRequest) { r.Name = "../x" },
		"no command":            func(r *api.AppRequest) { r.Command = nil },
		"an empty command":      func(r *api.AppRequest) { r.Command = []string{""} },
		"a NUL":                 func(r *api.AppRequest) { r.Command = []string{"a\x00b"} },
		"an endless command":    func(r *api.AppRequest) { r.Command = []string{strings.Repeat("x", 200<<10)} },
		"a wrong variable":      func(r *api.AppRequest) { r.Env = map[string]string{"A B": ""} },
		"dspool's own variable": func(r *api.AppRequest) { r.Env = map[string]string{"DSPOOL_TOKEN": "x"} },
		"a directory outside":   func(r *api.AppRequest) { r.Dir = "../bob" },
		"a hidden way outside":  func(r *api.AppRequest) { r.Dir = "a/../../bob" },
		"an absolute one":       func(r *api.AppRequest) { r.Dir = "/etc" },
		"kernels elsewhere":     func(r *api.AppRequest) { r.Kernels = "http://x/api" },
		"kernels with a break":  func(r *api.AppRequest) { r.Kernels = "/api HTTP/1.1\r\nX: y" },
		"a token with a break":  func(r *api.AppRequest) { r.Token = "a\r\nb" },
		"no such pool":          func(r *api.AppRequest) { r.Pool = "nope" },
	} {
		req := notebook
		change(&req)
		if _, err := s.As("ada").WantApp(t.Context(), req); dspool.ErrorCode(err) != dspool.Invalid {
			t.Errorf("%s: %v", what, err)
		}
	}
	if list, err := s.Sessions(t.Context(), client.SessionFilter{All: true}); err != nil || len(list.Items) != 0 {
		t.Errorf("%+v, %v", list, err)
	}
	if _, err := s.WantApp(t.Context(), api.AppRequest{Name: "x", Command: []string{"x"}}); dspool.ErrorCode(err) != dspool.Invalid {
		t.Errorf("as the host's root: %v", err)
	}
}

func TestTheGatewayAndTheWeb(t *testing.T) {
	s := newRogues(t, webConfig)
	ctx := t.Context()
	post := func(path string, in, out any) int {
		t.Helper()
		return atGateway(ctx, t, s.System, path, in, out)
	}
	a := wants(t, s.As("ada"), notebook)
	h := s.hand("batch-1")
	d := h.opens("ada")
	h.told("ada", a.ID)
	t.Run("a browser at an app that runs is a connection of its session", func(t *testing.T) {
		conns := []api.WebConnection{{ID: "w1", App: a.ID, From: "192.0.2.7:50000"}, {ID: "w2", App: 999, From: "192.0.2.7:50001"}}
		if status := post("web/connections", conns, nil); status != http.StatusNoContent {
			t.Errorf("before it runs: %d", status)
		}
		h.says(d.ID, running(a.ID, 40001))
		for range 2 {
			if status := post("web/connections", conns, nil); status != http.StatusNoContent {
				t.Errorf("status %d", status)
			}
		}
		ses, err := s.Session(ctx, d.ID)
		if err != nil || len(ses.Open) != 1 || ses.Open[0].ID != "w1" || ses.Open[0].Protocol != dspool.ProtocolWeb || ses.Open[0].User != "ada" {
			t.Errorf("%+v, %v", ses.Open, err)
		}
		logins := s.EventsOf("session.login")
		if len(logins) != 1 || logins[0].Message != "ada came in by web from 192.0.2.7:50000 with web login to jupyter" {
			t.Errorf("%+v", logins)
		}
		if status := post("connections", []api.ConnectionReport{{ID: "w1", Session: d.ID, BytesIn: 10, Ended: true, Why: testkit.Stated("closed")}}, nil); status != http.StatusNoContent {
			t.Errorf("status %d", status)
		}
		if n := len(s.EventsOf("session.logout")); n != 1 {
			t.Errorf("%d logouts", n)
		}
	})
	t.Run("certificates are for the door's names and users' only", func(t *testing.T) {
		r := &rogue{t: t, key: newKey(t)}
		names := []string{"localhost", "hub.localhost", "ada.hub.localhost", "127.0.0.1"}
		var res api.EnrolResponse
		if status := post("web/certificate", api.WebCertificate{Names: names, CSR: r.csr()}, &res); status != 200 {
			t.Fatalf("status %d", status)
		}
		block, rest := pem.Decode([]byte(res.Certificate))
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil || !slices.Equal(cert.DNSNames, names[:3]) || len(cert.IPAddresses) != 1 || cert.IsCA {
			t.Errorf("%+v, %v", cert, err)
		}
		pool := x509.NewCertPool()
		if ca, _ := pem.Decode(rest); ca == nil || !pool.AppendCertsFromPEM(rest) {
			t.Error("the authority's own does not follow")
		}
		if _, err := cert.Verify(x509.VerifyOptions{DNSName: "ada.hub.localhost", Roots: pool}); err != nil {
			t.Error(err)
		}
		for _, name := range []string{"*.hub.localhost", "*.localhost", "nobody.hub.localhost", "ada.localhost", "x.ada.hub.localhost", "jupyterhub.hub.localhost", "example.org", "10.0.0.1", "", "agent-link.dspool.internal"} {
			if status := post("web/certificate", api.WebCertificate{Names: []string{"localhost", name}, CSR: r.csr()}, nil); status != 403 {
				t.Errorf("%q: %d", name, status)
			}
		}
		for what, req := range map[string]api.WebCertificate{"no names": {CSR: r.csr()}, "no request": {Names: names}, "many": {Names: slices.Repeat(names, 100), CSR: r.csr()}} {
			if status := post("web/certificate", req, nil); status/100 != 4 {
				t.Errorf("%s: %d", what, status)
			}
		}
	})
	t.Run("a portal cookie is good at the gateway and nowhere else", func(t *testing.T) {
		secret, _, err := s.Server.Control.BeginWebLogin(ctx, "ada", "password", "192.0.2.7:50000")
		if err != nil {
			t.Fatal(err)
		}
		var id api.Identity
		if status := post("web/login", api.WebLogin{Secret: secret, From: "192.0.2.7:1"}, &id); status != 200 || id.User != "ada" {
			t.Errorf("%d, %+v", status, id)
		}
		if _, err := s.WithToken(secret).Whoami(ctx); dspool.ErrorCode(err) != dspool.Unauthenticated {
			t.Error(err)
		}
		token, err := s.AddToken(ctx, api.AddTokenRequest{User: "ada"})
		if err != nil {
			t.Fatal(err)
		}
		for _, wrong := range []string{"", "x", token.Secret, secrets(t, s).Token} {
			if status := post("web/login", api.WebLogin{Secret: wrong}, nil); status != 401 {
				t.Errorf("%q: %d", wrong, status)
			}
		}
	})
}

func TestALoginThatIsEndedEndsItsTerminals(t *testing.T) {
	s := newRogues(t, webConfig)
	ctx, c := t.Context(), s.Server.Control
	// begin logs ada in at the portal, and opens a terminal from there as the gateway does.
	begin := func(connection string) (secret string) {
		t.Helper()
		secret, _, err := c.BeginWebLogin(ctx, "ada", "password", "192.0.2.7:50000")
		if err != nil {
			t.Fatal(err)
		}
		id, err := c.GatewayWebLogin(ctx, api.WebLogin{Secret: secret})
		if err != nil {
			t.Fatal(err)
		}
		open := api.OpenSession{Connection: connection, User: "ada", Protocol: dspool.ProtocolWeb, From: "192.0.2.7:1", Auth: id.Auth, Login: id.Login}
		connected := make(chan struct{})
		var once sync.Once
		go c.OpenSession(ctx, open, func(api.SessionStep) error { // which waits for a machine
			once.Do(func() { close(connected) })
			return nil
		})
		select {
		case <-connected:
		case <-time.After(servertest.Patience):
			t.Fatal("it is not connected")
		}
		return secret
	}
	login := func(secret string) control.Browser {
		t.Helper()
		b, err := c.WebLogin(ctx, secret)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	toEnd := func() (list []string) {
		t.Helper()
		d, err := c.GatewayDirectives(ctx, 0, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range d.End {
			list = append(list, n.Connection+": "+n.Reason.Text)
		}
		slices.Sort(list)
		return list
	}
	one, two, three := begin("c1"), begin("c2"), begin("c3")
	if got := toEnd(); len(got) > 0 {
		t.Errorf("while all are logged in: %q", got)
	}
	b := login(one)
	if err := c.EndWebLogin(ctx, b.Who, b.ID, dspool.Reason{Code: dspool.WhyEndedElsewhere}); err != nil {
		t.Fatal(err)
	}
	want := []string{"c1: this browser's login at the portal has ended"}
	if got := toEnd(); !slices.Equal(got, want) {
		t.Errorf("of one browser: %q", got)
	}
	if err := c.SetOwnPassword(ctx, login(two), api.PasswordRequest{New: "another-password-1"}); err != nil {
		t.Fatal(err)
	}
	want = append(want, "c3: this browser's login at the portal has ended")
	if got := toEnd(); !slices.Equal(got, want) {
		t.Errorf("by a new password: %q", got)
	}
	if err := s.SetPassword(ctx, "ada", api.PasswordRequest{New: "another-password-2"}); err != nil {
		t.Fatal(err)
	}
	want = slices.Insert(want, 1, "c2: this browser's login at the portal has ended")
	if got := toEnd(); !slices.Equal(got, want) {
		t.Errorf("by an administrator's password: %q", got)
	}
	for _, secret := range []string{one, two, three} {
		if _, err := c.WebLogin(ctx, secret); dspool.ErrorCode(err) != dspool.Unauthenticated {
			t.Error(err)
		}
	}
}
