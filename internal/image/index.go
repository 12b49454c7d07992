package image

import (
	"os"
	"path/filepath"
	"strings"
)

// Index is where Python packages come from and how they are fetched: pip's settings of
// the same names. The zero value is what pip does by itself.
type Index struct {
	URL          string   // index-url
	Extra        []string // extra-index-url
	FindLinks    []string // find-links; addresses only, since the host's folders are not in the image
	None         bool     // no-index
	TrustedHosts []string // trusted-host
	Proxy        string   // proxy
	Cert         string   // cert: a file of the host with the authorities to trust
	ClientCert   string   // client-cert: a file of the host
	Timeout      string   // timeout, in seconds
	Retries      string   // retries
}

// hostBundle is where Debian keeps the certificate authorities that the host trusts.
const hostBundle = "/etc/ssl/certs/ca-certificates.crt"

// HostIndex returns the package index that the host's own pip uses: from pip's
// configuration files beneath etc ("/etc") and home (the user's; "" is none), and from
// the PIP_… variables that getenv knows, in pip's order of precedence
// (https://pip.pypa.io/en/stable/topics/configuration/).
func HostIndex(etc, home string, getenv func(string) string) Index {
	files := []string{filepath.Join(etc, "xdg/pip/pip.conf"), filepath.Join(etc, "pip.conf")}
	if home != "" {
		files = append(files, filepath.Join(home, ".pip/pip.conf"), filepath.Join(home, ".config/pip/pip.conf"))
	}
	switch own := getenv("PIP_CONFIG_FILE"); own {
	case "":
	case os.DevNull:
		files = nil // pip's way to switch all of them off
	default:
		files = append(files, own)
	}
	global, install := map[string]string{}, map[string]string{}
	for _, f := range files {
		if text, err := os.ReadFile(f); err == nil {
			parsePipConf(string(text), map[string]map[string]string{"global": global, "install": install})
		}
	}
	setting := func(name string) string {
		if v := getenv("PIP_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))); v != "" {
			return v
		}
		if v := install[name]; v != "" {
			return v
		}
		return global[name]
	}
	x := Index{
		URL:          setting("index-url"),
		Extra:        strings.Fields(setting("extra-index-url")),
		TrustedHosts: strings.Fields(setting("trusted-host")),
		Proxy:        setting("proxy"),
		Cert:         setting("cert"),
		ClientCert:   setting("client-cert"),
		Timeout:      setting("timeout"),
		Retries:      setting("retries"),
	}
	if x.Timeout == "" {
		x.Timeout = setting("default-timeout")
	}
	for _, place := range strings.Fields(setting("find-links")) {
		if strings.HasPrefix(place, "http://") || strings.HasPrefix(place, "https://") {
			x.FindLinks = append(x.FindLinks, place)
		}
	}
	switch strings.ToLower(setting("no-index")) {
	case "1", "true", "yes", "on", "y", "t":
		x.None = true
	}
	if _, err := os.Stat(hostBundle); err == nil && x.Cert == "" {
		x.Cert = hostBundle // the image may have none, and pip's own knows no authority of the house
	}
	return x
}

// parsePipConf adds the settings of the sections that into has. The format is that of
// Python's configparser: "name = value" or "name: value", further indented lines belong
// to the value.
func parsePipConf(text string, into map[string]map[string]string) {
	var section map[string]string
	last := ""
	for line := range strings.Lines(text) {
		trimmed := strings.TrimSpace(line)
		switch {
		case trimmed == "" || strings.HasPrefix(trimmed, "#") || strings.HasPrefix(trimmed, ";"):
		case line[0] == ' ' || line[0] == '\t':
			if section != nil && last != "" {
				section[last] = strings.TrimSpace(section[last] + " " + trimmed)
			}
		case trimmed[0] == '[':
			section, last = into[strings.ToLower(strings.Trim(trimmed, "[]"))], ""
		case section != nil:
			name, value := trimmed, ""
			if i := strings.IndexAny(trimmed, "=:"); i >= 0 {
				name, value = trimmed[:i], trimmed[i+1:]
			}
			last = strings.ReplaceAll(strings.ToLower(strings.TrimSpace(name)), "_", "-")
			section[last] = strings.TrimSpace(value)
		}
	}
}

// Where a build keeps what pip needs, in memory and seen by nothing else.
const pipDir = "/run/python"

// pip returns pip's environment inside the image and the files that it needs beneath
// pipDir. Addresses travel here and not as arguments, which everybody on the host reads:
// they may hold a password.
func (x Index) pip() (env []string, files []File, err error) {
	set := func(name, value string) {
		if value != "" {
			env = append(env, "PIP_"+name+"="+value)
		}
	}
	set("CONFIG_FILE", os.DevNull) // whatever the image itself says
	set("INDEX_URL", x.URL)
	set("EXTRA_INDEX_URL", strings.Join(x.Extra, " "))
	set("FIND_LINKS", strings.Join(x.FindLinks, " "))
	set("TRUSTED_HOST", strings.Join(x.TrustedHosts, " "))
	set("PROXY", x.Proxy)
	set("TIMEOUT", x.Timeout)
	set("RETRIES", x.Retries)
	if x.None {
		set("NO_INDEX", "1")
	}
	for _, f := range []struct{ setting, from, name string }{{"CERT", x.Cert, "cert.pem"}, {"CLIENT_CERT", x.ClientCert, "client.pem"}} {
		if f.from == "" {
			continue
		}
		content, err := os.ReadFile(f.from)
		if err != nil {
			return nil, nil, err
		}
		files = append(files, File{Path: f.name, Mode: 0o600, Content: content})
		set(f.setting, pipDir+"/"+f.name)
	}
	return env, files, nil
}
