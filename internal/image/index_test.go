package image_test

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/dspool/dspool/internal/image"
)

func TestHostIndex(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		claim string
		files map[string]string // beneath the root, which ROOT in an environment is
		env   map[string]string
		want  image.Index
	}{
		{"nothing said is pip's own way", nil, nil, image.Index{}},
		{"the host's file is read", map[string]string{"etc/pip.conf": "# ours\n[global]\nindex-url = https://one/simple\ntrusted_host: one\n[list]\nformat = columns\n"}, nil,
			image.Index{URL: "https://one/simple", TrustedHosts: []string{"one"}}},
		{"values may have several lines", map[string]string{"etc/pip.conf": "[global]\nextra-index-url =\n    https://one/simple\n    ; a comment\n    https://two/simple\nproxy = http://p:3128\n"}, nil,
			image.Index{Extra: []string{"https://one/simple", "https://two/simple"}, Proxy: "http://p:3128"}},
		{"the user's file goes before the host's, and install before global", map[string]string{
			"etc/xdg/pip/pip.conf":       "[global]\nindex-url = https://xdg/simple\ntimeout = 5\n",
			"etc/pip.conf":               "[global]\nindex-url = https://etc/simple\nretries = 1\n[install]\nretries = 2\n",
			"home/.config/pip/pip.conf":  "[global]\nindex-url = https://home/simple\nretries = 3\n",
			"home/.pip/pip.conf":         "[global]\nindex-url = https://old/simple\n",
			"home/.config/pip/other.txt": "[global]\nindex-url = https://no/simple\n",
		}, nil, image.Index{URL: "https://home/simple", Timeout: "5", Retries: "2"}},
		{"a file in a variable goes before these", map[string]string{
			"home/.pip/pip.conf": "[global]\nindex-url = https://home/simple\n",
			"own.conf":           "[global]\nindex-url = https://own/simple\n",
		}, map[string]string{"PIP_CONFIG_FILE": "ROOT/own.conf"}, image.Index{URL: "https://own/simple"}},
		{"all files can be switched off", map[string]string{"etc/pip.conf": "[global]\nindex-url = https://etc/simple\n"},
			map[string]string{"PIP_CONFIG_FILE": "/dev/null", "PIP_RETRIES": "9"}, image.Index{Retries: "9"}},
		{"variables go before files", map[string]string{"etc/pip.conf": "[install]\nindex-url = https://etc/simple\nno-index = true\ncert = /etc/other.pem\n"},
			map[string]string{"PIP_INDEX_URL": "https://u:p@env/simple", "PIP_CERT": "/etc/house.pem", "PIP_CLIENT_CERT": "/etc/me.pem", "PIP_DEFAULT_TIMEOUT": "7"},
			image.Index{URL: "https://u:p@env/simple", None: true, Cert: "/etc/house.pem", ClientCert: "/etc/me.pem", Timeout: "7"}},
		{"folders of the host's are passed over", nil, map[string]string{"PIP_FIND_LINKS": "/srv/wheels https://one/wheels file:///srv"},
			image.Index{FindLinks: []string{"https://one/wheels"}}},
		{"settings that would change what is installed are passed over", map[string]string{"etc/pip.conf": "[install]\nuser = true\nno-binary = :all:\ntarget = /x\n"}, nil, image.Index{}},
	} {
		t.Run(c.claim, func(t *testing.T) {
			t.Parallel()
			root := t.TempDir()
			for name, text := range c.files {
				path := filepath.Join(root, name)
				os.MkdirAll(filepath.Dir(path), 0o700)
				if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			got := image.HostIndex(filepath.Join(root, "etc"), filepath.Join(root, "home"), func(name string) string {
				if v, ok := c.env[name]; ok && len(v) > 4 && v[:4] == "ROOT" {
					return root + v[4:]
				}
				return c.env[name]
			})
			if c.want.Cert == "" {
				got.Cert = "" // else the host's own bundle, where it has one
			}
			if !reflect.DeepEqual(normal(got), normal(c.want)) {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

// normal makes empty lists nil.
func normal(x image.Index) image.Index {
	for _, list := range []*[]string{&x.Extra, &x.FindLinks, &x.TrustedHosts} {
		if len(*list) == 0 {
			*list = nil
		}
	}
	return x
}
