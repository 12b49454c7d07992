package control

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/auth"
	"github.com/dspool/dspool/internal/config"
	"github.com/dspool/dspool/internal/store"
)

const (
	settingWeb   = "web"
	settingLogin = "login"
)

// Web is how browsers reach the portal and JupyterHub, as applied.
type Web struct {
	config.Web
	Login  config.Login
	Portal string // the portal's URL for people, such as http://localhost:8000; "" without a web door
	Hub    string // JupyterHub's; "" if there is none
	Pool   string // where notebooks run that name no pool: the first web door's
}

// WebSettings returns how browsers reach the portal and JupyterHub.
func (c *Control) WebSettings(ctx context.Context) (w Web, err error) {
	err = c.Store.Read(ctx, func(tx *store.Tx) error {
		w, err = webOf(tx)
		return err
	})
	return w, err
}

func webOf(tx *store.Tx) (w Web, err error) {
	if err := readSetting(tx, settingWeb, &w.Web); err != nil {
		return w, err
	}
	if err := readSetting(tx, settingLogin, &w.Login); err != nil {
		return w, err
	}
	w.Domain = cmp.Or(w.Domain, config.DefaultDomain)
	doors, err := doorsOf(tx)
	if err != nil {
		return w, err
	}
	i := slices.IndexFunc(doors, func(d dspool.Door) bool { return d.Protocol == dspool.ProtocolWeb })
	if i < 0 {
		return w, nil
	}
	w.Pool = doors[i].Pool
	pools, err := tx.Pools()
	if err != nil {
		return w, err
	}
	w.Portal = w.origin("", doors[i].Listen)
	if slices.ContainsFunc(pools, func(p dspool.Pool) bool { return p.Runs == dspool.RunsJupyterHub }) {
		w.Hub = w.origin("hub.", doors[i].Listen)
	}
	return w, nil
}

// origin is the URL of the portal, or of what has a name before its own, behind a web door that listens
// there.
func (w Web) origin(before, listen string) string {
	if u, err := url.Parse(w.URL); err == nil && w.URL != "" {
		return u.Scheme + "://" + before + u.Host
	}
	scheme, usual := "https", "443"
	if (api.Web{TLS: w.TLS}).Plain(listen) {
		scheme, usual = "http", "80"
	}
	host := before + w.Domain
	if _, port, err := net.SplitHostPort(listen); err == nil && port != usual {
		host = net.JoinHostPort(host, port)
	}
	return scheme + "://" + host
}

func readSetting(tx *store.Tx, name string, into any) error {
	text, err := tx.Setting(name)
	if err != nil || text == "" {
		return err
	}
	if err := json.Unmarshal([]byte(text), into); err != nil {
		return fmt.Errorf("read setting %s: %w", name, err)
	}
	return nil
}

func (w *work) setWeb(web config.Web, login config.Login) error {
	for name, value := range map[string]any{settingWeb: web, settingLogin: login} {
		text, err := json.Marshal(value)
		if err != nil {
			return err
		}
		if err := w.SetSetting(name, string(text)); err != nil {
			return err
		}
	}
	w.wake(topicGateway)
	return nil
}

// internalZone is where machines find what the machine door serves.
const internalZone = ".dspool.internal"

// doorURL is where machines reach a thing behind the machine door; "" if there is none.
func (c *Control) doorURL(name string) string {
	_, port, err := net.SplitHostPort(c.DoorListen)
	if err != nil {
		return ""
	}
	return "http://" + net.JoinHostPort(name+internalZone, port)
}

// gatewayWeb is what the web doors and the machine door need to know.
func (c *Control) gatewayWeb(tx *store.Tx) (d api.Web, err error) {
	web, err := webOf(tx)
	if err != nil {
		return d, err
	}
	d = api.Web{
		Domain: web.Domain, TLS: web.TLS, Hubs: web.Hub, Portal: web.Portal, TrustedProxies: web.TrustedProxies, MachineDoor: c.DoorListen,
	}
	secrets, err := c.HubSecrets()
	if err != nil {
		return d, err
	}
	if web.Hub != "" {
		d.ProxyToken = secrets.Proxy
	} else {
		d.Hub = web.Web.Hub // somebody's own, which sets no routes here
	}
	apps, err := tx.OpenApps()
	if err != nil || len(apps) == 0 {
		return d, err
	}
	machines, err := tx.LiveMachines()
	if err != nil {
		return d, err
	}
	address := map[string]string{}
	for _, m := range machines {
		if m.State == dspool.Ready {
			address[m.Name] = m.Address
		}
	}
	for _, a := range apps {
		host := address[a.Machine]
		if host == "" || a.State != dspool.AppRunning && a.User != dspool.HubUser {
			continue
		}
		at := net.JoinHostPort(host, strconv.Itoa(a.Port))
		if a.User != dspool.HubUser {
			d.Apps = append(d.Apps, api.AppTarget{ID: a.ID, User: a.User, UID: a.UID, Session: a.Session, Address: at})
			continue
		}
		// Before it listens it asks for its routes already.
		d.HubMachine = host
		if a.State == dspool.AppRunning {
			d.Hub = at
		}
	}
	return d, nil
}

// hubLabel is the name of a user's notebooks before the hub's: the user's own, but for what browsers would
// read as punycode. The Python package dspool.jupyterhub makes the same (names.py).
func hubLabel(user string) string {
	if !strings.HasPrefix(user, "xn--") {
		return user
	}
	sum := sha256.Sum256([]byte(user))
	return "0" + hex.EncodeToString(sum[:20])
}

// SignWebCertificate signs the key of a web door for names that lead to it: the domain, the hub's, those of
// users' notebooks and those by which people reach this server. Forbidden for every other.
func (c *Control) SignWebCertificate(ctx context.Context, req api.WebCertificate) (out api.EnrolResponse, err error) {
	const most = 100
	if len(req.Names) == 0 || len(req.Names) > most {
		return out, dspool.Errorf(dspool.Invalid, "a certificate for %d names is not possible", len(req.Names)).WithHint("1 to %d", most)
	}
	key, _, err := auth.ParseRequest(req.CSR)
	if err != nil {
		return out, err
	}
	err = c.Store.Read(ctx, func(tx *store.Tx) error {
		web, err := webOf(tx)
		if err != nil {
			return err
		}
		names := append([]string{web.Domain, "hub." + web.Domain}, c.HostNames...)
		users, err := tx.Users()
		for _, u := range users {
			if u.Name != dspool.HubUser {
				names = append(names, hubLabel(u.Name)+".hub."+web.Domain)
			}
		}
		for _, n := range req.Names {
			if !slices.Contains(names, n) {
				return dspool.Errorf(dspool.Forbidden, "%s leads to no web door", dspool.Quote(n))
			}
		}
		return err
	})
	if err != nil {
		return out, err
	}
	out.Certificate, err = c.Authority.SignServer(req.Names, key, c.Store.Now())
	return out, err
}

// OpenWebConnections takes the gateway's word on browsers that are connected to apps. What an app or its
// session has ended for meanwhile is passed over.
func (c *Control) OpenWebConnections(ctx context.Context, conns []api.WebConnection) error {
	return c.write(ctx, func(w *work) error {
		for _, conn := range conns {
			a, err := w.App(conn.App)
			if dspool.ErrorCode(err) == dspool.NotFound || err == nil && a.State != dspool.AppRunning {
				continue
			} else if err != nil {
				return err
			}
			s, err := w.Session(a.Session)
			if err != nil {
				return err
			}
			err = w.connect(c, api.OpenSession{Connection: conn.ID, Protocol: dspool.ProtocolWeb, From: conn.From, Auth: "web login to " + a.Name}, s)
			if err != nil {
				return err
			}
		}
		return nil
	})
}
