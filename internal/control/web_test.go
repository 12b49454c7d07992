package control

import (
	"testing"

	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/config"
)

func TestNotebooksHaveTheirUsersName(t *testing.T) {
	t.Parallel()
	// As python/dspool/jupyterhub/names.py says it.
	for user, label := range map[string]string{"ada": "ada", "a--b": "a--b", "xn--a": "00c8452260b14d7e3f5981e17b8219e81edadb74b"} {
		if got := hubLabel(user); got != label {
			t.Errorf("%s has %s", user, got)
		}
	}
}

func TestOriginsFollowFromTheDoor(t *testing.T) {
	t.Parallel()
	for claim, x := range map[string]struct {
		web         config.Web
		listen      string
		portal, hub string
	}{
		"a door on loopback speaks http":       {config.Web{Domain: "localhost"}, "127.0.0.1:8000", "http://localhost:8000", "http://hub.localhost:8000"},
		"on port 80 without saying so":         {config.Web{Domain: "localhost"}, "[::1]:80", "http://localhost", "http://hub.localhost"},
		"every other https":                    {config.Web{Domain: "pool.example.org"}, ":8000", "https://pool.example.org:8000", "https://hub.pool.example.org:8000"},
		"on port 443 without saying so":        {config.Web{Domain: "pool.example.org"}, "0.0.0.0:443", "https://pool.example.org", "https://hub.pool.example.org"},
		"with a certificate loopback does too": {config.Web{Domain: "pool.test", TLS: api.WebTLS{Certificate: "/c", Key: "/k"}}, "127.0.0.1:443", "https://pool.test", "https://hub.pool.test"},
		"before all a proxy's URL counts":      {config.Web{Domain: "pool.test", URL: "https://pool.test:444"}, "127.0.0.1:8000", "https://pool.test:444", "https://hub.pool.test:444"},
	} {
		w := Web{Web: x.web}
		if portal, hub := w.origin("", x.listen), w.origin("hub.", x.listen); portal != x.portal || hub != x.hub {
			t.Errorf("%s: %s and %s", claim, portal, hub)
		}
	}
}
