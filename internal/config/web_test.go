package config_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/config"
)

const hubbed = `
sizes: {small: {cpus: 1, memory: 1GiB}}
shares: {home: {mount: /home}, team: {}, services: {mount: /home}}
pools:
  hub: {kind: service, runs: jupyterhub, image: JupyterHub, sizes: [small], shares: [services]}
  lab: {kind: interactive, sizes: [small], shares: [home, team]}
doors:
  - {listen: "127.0.0.1:8000", protocol: web, pool: lab}
`

func parse(t *testing.T, text, dir string) *config.Config {
	t.Helper()
	c, problems := config.Parse("team.yaml", []byte(text), dir)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	return c
}

func TestAPoolThatRunsJupyterHubNeedsFewWords(t *testing.T) {
	t.Parallel()
	for _, text := range []string{hubbed, strings.Replace(hubbed, "kind: service, runs: jupyterhub, image: JupyterHub,", "runs: jupyterhub,", 1)} {
		c := parse(t, text, "")
		hub, _ := c.Pool("hub")
		want := dspool.Pool{Name: "hub", Kind: dspool.Service, Runs: dspool.RunsJupyterHub, Image: "JupyterHub", Sizes: []string{"small"}, Min: 1, Max: 1,
			Shares: []string{"services"}, Internet: true, Policy: dspool.PoolPolicy{IdleAfter: config.DefaultIdleAfter(dspool.Service),
				StartTimeout: config.DefaultStartTimeout, SessionsPerMachine: 1, SessionIdle: config.DefaultSessionIdle, KeepMost: config.DefaultKeepMost}}
		if diff := cmp.Diff(want, hub); diff != "" {
			t.Error(diff)
		}
		if c.Defaults.Pool != "lab" {
			t.Errorf("jobs and people come by default to %q", c.Defaults.Pool)
		}
		if diff := cmp.Diff([]dspool.Door{{Listen: "127.0.0.1:8000", Protocol: dspool.ProtocolWeb, Pool: "lab"}}, c.Doors); diff != "" {
			t.Error(diff)
		}
		var images []string
		for _, i := range c.Images {
			images = append(images, i.Name)
		}
		if diff := cmp.Diff([]string{"UbuntuDSVM", "JupyterHub"}, images); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff(config.Web{Domain: "localhost"}, c.Web); diff != "" {
			t.Error(diff)
		}
		if c.Login.OIDC != nil {
			t.Errorf("%+v", c.Login.OIDC)
		}
	}
}

func TestTheHubAloneNeedsNoShareForJobs(t *testing.T) {
	t.Parallel()
	c := parse(t, "sizes: {s: {cpus: 1, memory: 1GiB}}\nshares: {services: {mount: /home}}\npools: {hub: {runs: jupyterhub, sizes: [s], shares: [services]}}", "")
	if c.Defaults.Pool != "" || c.Defaults.JobsShare != "" {
		t.Errorf("%+v", c.Defaults)
	}
}

func TestWhatAHubsPoolCannotBe(t *testing.T) {
	t.Parallel()
	for claim, tt := range map[string]struct{ old, new, want string }{
		"for people":          {"kind: service", "kind: interactive", "team.yaml:5: pool hub runs jupyterhub, so it is not of kind interactive (say kind: service)"},
		"empty":               {"kind: service", "kind: service, min: 0", "pool hub runs jupyterhub, so it has one machine, not 0 to 1 (leave min and max out)"},
		"many":                {"kind: service", "kind: service, max: 3", "so it has one machine, not 0 to 3"},
		"spare":               {"kind: service", "kind: service, spare: 1", "so it has one machine, and no spare"},
		"sudo":                {"kind: service", "kind: service, policy: {sudo: true}", "so it gives nobody sudo (leave sudo out)"},
		"shared":              {"kind: service", "kind: service, policy: {sessions_per_machine: 2}", "so it has all of its machine"},
		"running otherwise":   {"runs: jupyterhub", "runs: jupyter", `"jupyter" is not possible (use jupyterhub)`},
		"without a home":      {"shares: [services]", "shares: [team]", "pool hub runs jupyterhub but mounts no share at /home, where its database lies"},
		"in people's homes":   {"shares: [services]", "shares: [home]", "share home holds the database of jupyterhub, but pool lab mounts it too"},
		"with an unknown one": {"shares: [services]", "shares: [service]", "team.yaml:5: pool hub names share \"service\", which does not exist (did you mean services?)]"},
		"twice":               {"  lab:", "  hub2: {runs: jupyterhub, sizes: [small], shares: [services]}\n  lab:", "pools hub and hub2 both run jupyterhub"},
		"behind a door":       {"pool: lab}", "pool: hub}", "team.yaml:8: door 127.0.0.1:8000 leads to pool hub, which runs jupyterhub and takes nobody"},
		"the default":         {"doors:", "defaults: {pool: hub}\ndoors:", "the default pool is hub, which runs jupyterhub and takes no jobs"},
		"somebody's":          {"doors:", "users: {list: [{name: ada, pool: hub}]}\ndoors:", "user ada's pool is hub, which runs jupyterhub and takes nobody"},
	} {
		t.Run(claim, func(t *testing.T) {
			t.Parallel()
			if !strings.Contains(hubbed, tt.old) {
				t.Fatal(tt.old)
			}
			_, problems := config.Parse("team.yaml", []byte(strings.Replace(hubbed, tt.old, tt.new, 1)), "")
			if got := fmt.Sprint(problems); !strings.Contains(got, tt.want) {
				t.Errorf("got %s\nwant %s", got, tt.want)
			}
		})
	}
}

func TestWebIsRead(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	writePair(t, dir, "pool")
	for name, tt := range map[string]struct {
		text string
		want config.Web
	}{
		"a domain in lower case": {"domain: Pool.Example.org", config.Web{Domain: "pool.example.org"}},
		"a domain from the URL":  {"url: https://Pool.example.org:443/", config.Web{Domain: "pool.example.org", URL: "https://pool.example.org"}},
		"a port":                 {"url: https://pool:8443", config.Web{Domain: "pool", URL: "https://pool:8443"}},
		"http at home":           {"url: http://localhost:9000", config.Web{Domain: "localhost", URL: "http://localhost:9000"}},
		"proxies": {"trusted_proxies: [10.1.0.0/16, 192.0.2.7, '2001:DB8::/32']",
			config.Web{Domain: "localhost", TrustedProxies: []string{"10.1.0.0/16", "192.0.2.7/32", "2001:db8::/32"}}},
		"a hub elsewhere": {"hub: 10.1.2.3:8081", config.Web{Domain: "localhost", Hub: "10.1.2.3:8081"}},
		"files beside the file": {"tls: {certificate: pool.pem, key: pool.key}",
			config.Web{Domain: "localhost", TLS: api.WebTLS{Certificate: filepath.Join(dir, "pool.pem"), Key: filepath.Join(dir, "pool.key")}}},
		"acme without a word": {"domain: pool.example.org\n  tls: {acme: }", config.Web{Domain: "pool.example.org", TLS: api.WebTLS{ACME: true}}},
		"acme of the house": {"domain: pool\n  tls: {acme: {email: ops@example.org, directory: 'https://ca:14000/dir', ca: pool.pem}}",
			config.Web{Domain: "pool", TLS: api.WebTLS{ACME: true, Email: "ops@example.org", Directory: "https://ca:14000/dir", CA: filepath.Join(dir, "pool.pem")}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tt.want, parse(t, "web:\n  "+tt.text+"\n", dir).Web); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestOneLineOfBadWebOrLogin(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	writePair(t, dir, "a")
	writePair(t, dir, "b")
	secret(t, dir, "good", "s3cret\n", 0o600)
	secret(t, dir, "open", "s3cret\n", 0o640)
	secret(t, dir, "empty", "\n", 0o600)
	secret(t, dir, "two", "s3cret\nand more\n", 0o600)
	secret(t, dir, "long", strings.Repeat("x", 600), 0o600)
	oidc := func(key, value string) string {
		text := map[string]string{"issuer": "https://id.example.org", "client_id": "pool", "client_secret_file": "good"}
		text[key] = value
		all := ""
		for k, v := range text {
			if v != "" {
				all += k + ": " + v + ", "
			}
		}
		return "login: {oidc: {" + all + "}}"
	}
	for claim, tt := range map[string]struct{ text, want string }{
		"domain with a port":     {"web: {domain: 'pool.example.org:8000'}", "it is not a host name"},
		"domain with a dot":      {"web: {domain: pool.example.org.}", "it is not a host name"},
		"domain with a user":     {"web: {domain: a@b}", "it is not a host name"},
		"domain that is none":    {"web: {domain: 127.0.0.1}", "browsers take it for an address"},
		"domain in hex":          {"web: {domain: pool.0x7}", "browsers take it for an address"},
		"domain of IPv6":         {"web: {domain: '::1'}", "it is not a host name"},
		"domain of machines":     {"web: {domain: api.dspool.internal}", "machines have their names there"},
		"domain too long":        {"web: {domain: " + strings.Repeat("abc.", 60) + "org}", "so that names fit before it"},
		"domain in other script": {"web: {domain: bücher.example}", "it is not a host name"},
		"url with a path":        {"web: {url: https://pool.example.org/portal}", "is not the address of a portal"},
		"url with a user":        {"web: {url: https://a:b@pool.example.org}", "is not the address of a portal"},
		"url in the clear":       {"web: {url: http://pool.example.org}", "is not the address of a portal (https://NAME or https://NAME:PORT, without a path; http only for localhost)"},
		"url of an address":      {"web: {url: http://127.0.0.1:8000}", "browsers take it for an address"},
		"url with port 0":        {"web: {url: https://pool:0}", "is not the address of a portal"},
		"url with an empty port": {"web: {url: 'https://pool:'}", "is not the address of a portal"},
		"url that is javascript": {"web: {url: 'javascript:alert(1)'}", "is not the address of a portal"},
		"url elsewhere":          {"web: {domain: a.example.org, url: 'https://b.example.org'}", "web has the domain a.example.org, but its url is at b.example.org"},
		"all proxies":            {"web: {trusted_proxies: [0.0.0.0/0]}", "would trust everybody's word"},
		"proxy by name":          {"web: {trusted_proxies: [proxy]}", `"proxy" is neither a network nor an address`},
		"proxies unmasked":       {"web: {trusted_proxies: [10.1.2.3/16]}", "the network is 10.1.0.0/16"},
		"a hub that is a URL":    {"web: {hub: 'http://127.0.0.1:8081'}", "is not where a JupyterHub answers (HOST:PORT, for example 127.0.0.1:8081)"},
		"two hubs":               {"web: {hub: '127.0.0.1:8081'}\npools: {hub: {runs: jupyterhub, sizes: [small], shares: [s]}}", "web has a hub elsewhere, but pool hub runs one"},
		"key alone":              {"web: {tls: {key: a.key}}", "tls of web has only one of certificate and key"},
		"files and acme":         {"web: {domain: a.org, tls: {certificate: a.pem, key: a.key, acme: {}}}", "tls of web has both files and acme"},
		"no file":                {"web: {tls: {certificate: c.pem, key: c.key}}", "/c.pem cannot be read: no such file or directory"},
		"a directory":            {"web: {tls: {certificate: ., key: a.key}}", "cannot be read: it is no plain file"},
		"a device":               {"web: {tls: {certificate: /dev/zero, key: a.key}}", "/dev/zero cannot be read: it is no plain file"},
		"another's key":          {"web: {tls: {certificate: a.pem, key: b.key}}", "do not fit together: tls: private key does not match public key"},
		"key for certificate":    {"web: {tls: {certificate: a.key, key: a.key}}", "do not fit together"},
		"acme at home":           {"web: {tls: {acme: {}}}", "Let's Encrypt gives no certificate for localhost"},
		"acme as a word":         {"web: {domain: a.org, tls: {acme: true}}", "acme must hold keys and values"},
		"acme in the clear":      {"web: {domain: a.org, tls: {acme: {directory: 'http://ca/dir'}}}", "is not the directory of an ACME authority"},
		"acme mail":              {"web: {domain: a.org, tls: {acme: {email: 'Ops <ops@a.org>'}}}", "is not an e-mail address"},
		"acme trust":             {"web: {domain: a.org, tls: {acme: {ca: a.key}}}", "holds no certificate"},

		"no issuer":           {oidc("issuer", ""), "team.yaml:1: oidc has no issuer"},
		"no secret":           {oidc("client_secret_file", ""), "oidc has no client_secret_file"},
		"issuer in the clear": {oidc("issuer", "http://id.example.org"), `"http://id.example.org" is not an issuer`},
		"issuer with a query": {oidc("issuer", "'https://id.example.org?a=b'"), "is not an issuer"},
		"open secret":         {oidc("client_secret_file", "open"), "/open has mode 0640, so others than root may read or write it (chmod 600 "},
		"empty secret":        {oidc("client_secret_file", "empty"), "/empty does not hold a secret alone"},
		"secret of two words": {oidc("client_secret_file", "two"), "/two does not hold a secret alone"},
		"key for a secret":    {oidc("client_secret_file", "a.key"), "/a.key does not hold a secret alone"},
		"long secret":         {oidc("client_secret_file", "long"), "/long cannot be read: it is too long"},
		"secret that is gone": {oidc("client_secret_file", "gone"), "/gone cannot be read: no such file or directory"},
		"secret in the file":  {oidc("client_secret", "s3cret"), `unknown key "client_secret" of oidc (known here: issuer, client_id, client_secret_file`},
		"scope of two words":  {oidc("scopes", "['a b']"), `"a b" is not a scope`},
		"claim with a quote":  {oidc("username_claim", `'a"b'`), "is not a claim"},

		"a third protocol":  {tiny + "doors: [{listen: ':80', protocol: http, pool: p}]", `"http" is not possible (use ssh, web)`},
		"the server's port": {tiny + "doors: [{listen: '127.0.0.1:8443', protocol: web, pool: p}]", "a door listens at 127.0.0.1:8443, where the server does"},
		"a user's name":     {"users: {list: [jupyterhub]}", "user name jupyterhub is a system account's"},
	} {
		t.Run(claim, func(t *testing.T) {
			t.Parallel()
			_, problems := config.Parse("team.yaml", []byte(tt.text), dir)
			got := fmt.Sprint(problems)
			if !strings.Contains(got, tt.want) {
				t.Errorf("got %s\nwant %s", got, tt.want)
			}
			if strings.Contains(got, "s3cret\n") || strings.Contains(got, "BEGIN") {
				t.Errorf("shows what a file holds: %s", got)
			}
		})
	}
}

func TestLoginIsRead(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	secret(t, dir, "s", "s3cret\n", 0o400)
	login := func(more string) *config.OIDC {
		return parse(t, "login: {oidc: {issuer: 'https://id.example.org/', client_id: pool, client_secret_file: s"+more+"}}", dir).Login.OIDC
	}
	want := config.OIDC{Issuer: "https://id.example.org/", ClientID: "pool", ClientSecretFile: filepath.Join(dir, "s"),
		UsernameClaim: "preferred_username", Scopes: []string{"openid", "profile"}}
	if diff := cmp.Diff(&want, login("")); diff != "" {
		t.Error(diff)
	}
	want.UsernameClaim, want.Scopes, want.CreateUsers, want.AllowedGroups = "uid", []string{"openid", "groups"}, true, []string{"data"}
	if diff := cmp.Diff(&want, login(", username_claim: uid, scopes: [groups], create_users: yes, allowed_groups: [data]")); diff != "" {
		t.Error(diff)
	}
	if s, err := config.ReadSecret(want.ClientSecretFile); s != "s3cret" || err != nil {
		t.Errorf("%q, %v", s, err)
	}
}

func TestASecretOfSomebodyElseIsRefused(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED, NOT TESTED: only root gives files away")
	}
	file := filepath.Join(t.TempDir(), "s")
	secret(t, filepath.Dir(file), "s", "s3cret", 0o600)
	if err := os.Chown(file, 20000, 20000); err != nil {
		t.Fatal(err)
	}
	if _, err := config.ReadSecret(file); err == nil || !strings.Contains(err.Error(), "does not belong to root") {
		t.Error(err)
	}
}

func TestDiffOfWebAndLogin(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	secret(t, dir, "s", "s3cret", 0o600)
	before := parse(t, "web: {domain: a.example.org}\n", dir)
	after := parse(t, "web: {domain: b.example.org, tls: {acme: {email: x@example.org}}}\nlogin: {oidc: {issuer: 'https://id', client_id: p, client_secret_file: s}}\n", dir)
	after.Login.OIDC.ClientSecretFile = "s"
	want := []api.Change{
		{Action: "change", Kind: "web", Name: "web", Detail: "domain: a.example.org → b.example.org, acme: (none) → Let's Encrypt x@example.org"},
		{Action: "change", Kind: "login", Name: "login", Detail: "issuer: (none) → https://id, client_id: (none) → p, client_secret_file: (none) → s, " +
			"username_claim: (none) → preferred_username, scopes: (none) → openid profile, create_users: (none) → false"},
	}
	if diff := cmp.Diff(want, config.Diff(before, after)); diff != "" {
		t.Error(diff)
	}
	if d := config.Diff(after, after); len(d) != 0 {
		t.Error(d)
	}
	if d := config.Diff(&config.Config{UIDs: after.UIDs, Images: after.Images, Retention: after.Retention}, after); len(d) != 0 {
		t.Errorf("an installation that does not know its web differs: %v", d)
	}
}

func secret(t *testing.T, dir, name, text string, mode os.FileMode) {
	t.Helper()
	file := filepath.Join(dir, name)
	if err := os.WriteFile(file, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(file, mode); err != nil {
		t.Fatal(err)
	}
}

// writePair writes NAME.pem and NAME.key.
func writePair(t *testing.T, dir, name string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	secret(t, dir, name+".pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})), 0o644)
	secret(t, dir, name+".key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), 0o600)
}
