package config

import (
	"cmp"
	"net"
	"net/mail"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
)

// DefaultDomain is the portal's name unless the file gives one: a name that browsers take, with all names
// below it, for this computer.
const DefaultDomain = "localhost"

// Web is how browsers reach the portal and JupyterHub.
type Web struct {
	// Domain is the portal's host name, in lower case; JupyterHub is hub.DOMAIN, a user's notebooks USER.hub.DOMAIN.
	Domain string
	// URL is the portal's for browsers, scheme://DOMAIN[:port] without a path, where a proxy stands before
	// the doors; "" follows from the first web door.
	URL            string
	TrustedProxies []string   // CIDRs whose X-Forwarded headers count
	Hub            string     // address and port of a JupyterHub elsewhere, which machines reach through the machine door; "" for none
	TLS            api.WebTLS // paths are absolute
}

func (r *reader) webFields(w *Web) []field {
	at := func(key string, read func(*yaml.Node)) func(*yaml.Node) {
		return func(n *yaml.Node) {
			r.lines["web "+key] = n.Line
			read(n)
		}
	}
	acme := []field{
		{key: "email", form: "address", unless: "none", doc: "Whom the authority writes to.", read: scalar(r, &w.TLS.Email, "email of acme", parseEmail)},
		{key: "directory", form: "https URL", unless: "Let's Encrypt", doc: "Of another authority.", read: scalar(r, &w.TLS.Directory, "directory of acme", parseDirectory)},
		{key: "ca", form: "path", unless: "the host's", doc: "PEM file of the authorities that the directory's own certificate is trusted by.",
			read: at("ca", scalar(r, &w.TLS.CA, "ca of acme", r.parsePath))},
	}
	tls := []field{
		{key: "certificate", form: "path", unless: "made, signed by the server's own authority",
			doc:  "PEM file with the whole chain, for the domain, hub.DOMAIN and *.hub.DOMAIN; read again when it changes. With `key`.",
			read: at("certificate", scalar(r, &w.TLS.Certificate, "certificate of web", r.parsePath))},
		{key: "key", form: "path", doc: "PEM file; with `certificate`.", read: at("key", scalar(r, &w.TLS.Key, "key of web", r.parsePath))},
		{key: "acme", doc: "Certificates of a public authority, got and renewed by ACME; whoever writes it agrees to the authority's terms. It must reach a web door at port 443, or 80, of the domain. Every user's notebooks have a certificate of their own; Let's Encrypt gives a domain about 50 in a week, so a larger team gives files with *.hub.DOMAIN.", inner: acme,
			read: at("acme", func(n *yaml.Node) {
				w.TLS.ACME = true
				r.mapping(n, "acme", acme)
			})},
	}
	return []field{
		{key: "domain", form: "host name", unless: DefaultDomain,
			doc:  "The portal's. JupyterHub is hub.DOMAIN and a user's notebooks are USER.hub.DOMAIN: give all of them, by *.hub.DOMAIN, the host's address.",
			read: at("domain", scalar(r, &w.Domain, "domain of web", parseDomain))},
		{key: "url", form: "URL", unless: "that of the first web door", doc: "The portal's for browsers, when a proxy stands before the doors, such as https://pool.example.org. The proxy takes hub.HOST and *.hub.HOST too.",
			read: at("url", scalar(r, &w.URL, "url of web", parseOrigin))},
		{key: "trusted_proxies", form: "list of CIDRs and addresses", unless: "none", doc: "Only their X-Forwarded headers count.",
			read: at("trusted_proxies", prefixes(r, &w.TrustedProxies, "trusted_proxies of web"))},
		{key: "hub", form: "HOST:PORT", unless: "the pool's own", doc: "Where a JupyterHub that you have answers over http, for the notebook servers of people who log in there; docs/jupyterhub.md says how. Not beside a pool that runs one.",
			read: at("hub", scalar(r, &w.Hub, "hub of web", parseHub))},
		{key: "tls", doc: "Certificates of web doors. Without files and acme a door on a loopback address speaks plain HTTP.", inner: tls, read: func(n *yaml.Node) { r.mapping(n, "tls", tls) }},
	}
}

// finishWeb fills and checks what depends on several keys of the section.
func (c *Config) finishWeb(r *reader) {
	w := &c.Web
	at := func(key string) *yaml.Node { return nodeAt(r.lines["web "+key]) }
	_, named := r.lines["web domain"]
	if w.URL != "" {
		u, _ := url.Parse(w.URL) // parseOrigin has read it
		switch {
		case !named:
			w.Domain = u.Hostname()
		case w.Domain != "" && w.Domain != u.Hostname():
			r.problem(at("url"), "leave out domain, which then is "+u.Hostname(), "web has the domain %s, but its url is at %s", w.Domain, u.Hostname())
		}
	}
	if w.Domain == "" {
		w.Domain = DefaultDomain
	}
	t := w.TLS
	switch _, acme := r.lines["web acme"]; {
	case acme && (t.Certificate != "" || t.Key != ""):
		r.problem(at("acme"), "give either certificate and key, or acme", "tls of web has both files and acme")
	case (t.Certificate == "") != (t.Key == ""):
		r.problem(nodeAt(max(r.lines["web certificate"], r.lines["web key"])), "give both or neither", "tls of web has only one of certificate and key")
	case t.Certificate != "":
		r.pair(r.lines["web certificate"], "tls of web", t.Certificate, t.Key)
	case acme && t.Directory == "" && (w.Domain == DefaultDomain || !strings.Contains(w.Domain, ".")):
		r.problem(at("acme"), "say domain: and a name that the authority can look up, or leave acme out", "Let's Encrypt gives no certificate for %s", w.Domain)
	}
	if i := slices.IndexFunc(c.Pools, func(p dspool.Pool) bool { return p.Runs == dspool.RunsJupyterHub }); i >= 0 && w.Hub != "" {
		r.problem(at("hub"), "leave out hub, or the pool", "web has a hub elsewhere, but pool %s runs one", c.Pools[i].Name)
	}
	if t.CA != "" {
		r.authorities(r.lines["web ca"], "ca of acme", t.CA)
	}
}

func parseHub(s string) (string, error) {
	host, port, err := net.SplitHostPort(s)
	if n, perr := strconv.ParseUint(port, 10, 16); err != nil || perr != nil || n == 0 || net.ParseIP(host) == nil && !hostName.MatchString(host) {
		return "", dspool.Errorf(dspool.Invalid, "%s is not where a JupyterHub answers", dspool.Quote(s)).WithHint("HOST:PORT, for example 127.0.0.1:8081")
	}
	return s, nil
}

var domainLabel = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// longestDomain leaves room for USER.hub. before it, within the 253 characters of a host name.
const longestDomain = 200

func parseDomain(s string) (string, error) {
	s = strings.ToLower(s)
	bad := func(why string) (string, error) {
		return "", dspool.Errorf(dspool.Invalid, "%s is no domain for people to open: %s", dspool.Quote(s), why).
			WithHint("a host name such as pool.example.org; names with other letters in their xn-- form")
	}
	labels := strings.Split(s, ".")
	_, number := strconv.Atoi(strings.TrimPrefix(labels[len(labels)-1], "0x"))
	switch {
	case len(s) > longestDomain:
		return bad("at most " + strconv.Itoa(longestDomain) + " characters, so that names fit before it")
	case slices.ContainsFunc(labels, func(l string) bool { return !domainLabel.MatchString(l) }):
		return bad("it is not a host name")
	case number == nil: // also 127.0.0.1, below which nothing has a name
		return bad("browsers take it for an address")
	case s == internalZone || strings.HasSuffix(s, "."+internalZone):
		return bad("machines have their names there")
	}
	return s, nil
}

// internalZone is where machines have names on their own network.
const internalZone = "dspool.internal"

// parseOrigin reads an URL that is only scheme, host and port.
func parseOrigin(s string) (string, error) {
	u, err := url.Parse(s)
	if err != nil || u.Opaque != "" || u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || strings.Trim(u.Path, "/") != "" || !webScheme(u) || !goodPort(u) {
		return "", dspool.Errorf(dspool.Invalid, "%s is not the address of a portal", dspool.Quote(s)).
			WithHint("https://NAME or https://NAME:PORT, without a path; http only for localhost")
	}
	host, err := parseDomain(u.Hostname())
	if err != nil {
		return "", err
	}
	if port := u.Port(); port != "" && port != map[string]string{"http": "80", "https": "443"}[u.Scheme] {
		host += ":" + port
	}
	return u.Scheme + "://" + host, nil
}

// webScheme allows http only where nobody listens in between: on this computer.
func webScheme(u *url.URL) bool {
	if u.Scheme != "http" {
		return u.Scheme == "https" && u.Hostname() != ""
	}
	host := strings.ToLower(u.Hostname())
	a, err := netip.ParseAddr(host)
	return host == "localhost" || strings.HasSuffix(host, ".localhost") || err == nil && a.IsLoopback()
}

func goodPort(u *url.URL) bool {
	if u.Port() == "" {
		return !strings.HasSuffix(u.Host, ":")
	}
	n, err := strconv.ParseUint(u.Port(), 10, 16)
	return err == nil && n > 0
}

func parseDirectory(s string) (string, error) {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.Fragment != "" || !goodPort(u) {
		return "", dspool.Errorf(dspool.Invalid, "%s is not the directory of an ACME authority", dspool.Quote(s)).
			WithHint("an https URL, for example https://acme-staging-v02.api.letsencrypt.org/directory")
	}
	return s, nil
}

func parseEmail(s string) (string, error) {
	if a, err := mail.ParseAddress(s); err == nil && a.Address == s && len(s) < 255 {
		return s, nil
	}
	return "", dspool.Errorf(dspool.Invalid, "%s is not an e-mail address", dspool.Quote(s)).WithHint("for example ops@example.org")
}

// prefixes reads a list of networks; an address stands for itself alone.
func prefixes(r *reader, into *[]string, where string) func(*yaml.Node) {
	check := func(s string) error {
		_, err := parsePrefix(s)
		return err
	}
	return func(n *yaml.Node) {
		words(r, into, where, check)(n)
		for i, s := range *into {
			p, _ := parsePrefix(s)
			(*into)[i] = p.String()
		}
	}
}

func parsePrefix(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if a, aerr := netip.ParseAddr(s); aerr == nil && a.Zone() == "" {
		p, err = netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen()), nil
	}
	switch {
	case err != nil || p.Addr().Is4In6():
		return p, dspool.Errorf(dspool.Invalid, "%s is neither a network nor an address", dspool.Quote(s)).WithHint("for example 10.1.0.0/16 or 192.0.2.7")
	case p != p.Masked():
		return p, dspool.Errorf(dspool.Invalid, "%s is an address inside a network", dspool.Quote(s)).WithHint("the network is %s", p.Masked())
	case p.Bits() == 0:
		return p, dspool.Errorf(dspool.Invalid, "%s would trust everybody's word", dspool.Quote(s)).WithHint("name the proxies")
	}
	return p, nil
}

// webPairs are for Diff.
func webPairs(c *Config) []pair {
	w := c.Web
	acme := ""
	if w.TLS.ACME {
		acme = strings.TrimSpace(cmp.Or(w.TLS.Directory, "Let's Encrypt") + " " + w.TLS.Email)
	}
	return []pair{{"domain", w.Domain}, {"url", w.URL}, {"trusted_proxies", list(w.TrustedProxies)}, {"hub", w.Hub},
		{"certificate", w.TLS.Certificate}, {"key", w.TLS.Key}, {"acme", acme}, {"ca", w.TLS.CA}}
}
