package control

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/auth"
	"github.com/dspool/dspool/internal/config"
	"github.com/dspool/dspool/internal/store"
)

const settingSSH = "ssh"

// authoritiesOfFile puts the team's authorities into the form in which they are kept, and finds the wrong ones.
func (c *Control) authoritiesOfFile(cfg *config.Config) (problems []config.Problem) {
	list := cfg.SSH.UserAuthorities
	own := map[string]string{c.SSH.UserTrust(): "users", c.SSH.MachineTrust(): "machines", c.SSH.HostTrust(): "doors"}
	for i, text := range list {
		key, _, err := auth.ParseKey(text)
		if err != nil {
			message, hint := sentence(err)
			problems = append(problems, cfg.ProblemAt("ssh", "user_authorities", "user_authorities of ssh: "+message, hint))
			continue
		}
		list[i] = auth.KeyLine(key)
		if whose, ok := own[list[i]]; ok {
			problems = append(problems, cfg.ProblemAt("ssh", "user_authorities", "user_authorities of ssh: this is the pool's own authority of "+whose, "leave it out; `dspool login` gives certificates of the pool"))
		} else if slices.Contains(list[:i], list[i]) {
			problems = append(problems, cfg.ProblemAt("ssh", "user_authorities", "user_authorities of ssh: "+auth.Fingerprint(key)+" is there twice", "name it once"))
		}
	}
	return problems
}

func (w *work) setSSH(s config.SSH) error {
	text, err := json.Marshal(s)
	if err != nil {
		return err
	}
	w.wake(topicGateway)
	return w.SetSetting(settingSSH, string(text))
}

// userAuthorities are the keys of the team's own authorities.
func userAuthorities(tx *store.Tx) ([]string, error) {
	var s config.SSH
	err := readSetting(tx, settingSSH, &s)
	return s.UserAuthorities, err
}

// isAuthority says whether one of the keys has that fingerprint.
func isAuthority(keys []string, fingerprint string) bool {
	return slices.ContainsFunc(keys, func(line string) bool {
		key, _, err := auth.ParseKey(line)
		return err == nil && auth.Fingerprint(key) == fingerprint
	})
}

// ownAuthority is the fingerprint of the authority that signs users' certificates here.
func (c *Control) ownAuthority() string {
	key, _, err := auth.ParseKey(c.SSH.UserTrust())
	if err != nil {
		return ""
	}
	return auth.Fingerprint(key)
}

// trust is what doors for SSH accept.
func (c *Control) trust(tx *store.Tx, revoked []store.Revocation) (t api.Trust, err error) {
	others, err := userAuthorities(tx)
	if err != nil {
		return t, err
	}
	t.Authorities = append([]string{c.SSH.UserTrust()}, others...)
	for _, r := range revoked {
		number := r.Value
		authority := ""
		switch r.Kind {
		case store.RevokedForeign:
			authority, number, _ = strings.Cut(r.Value, " ")
		case store.RevokedSerial:
		default:
			t.RevokedKeys = append(t.RevokedKeys, r.Value)
			continue
		}
		serial, err := strconv.ParseUint(number, 10, 64)
		switch {
		case err != nil:
			return t, fmt.Errorf("read revocation of certificate %s: %w", dspool.Quote(r.Value), err)
		case authority == "":
			t.RevokedSerials = append(t.RevokedSerials, serial)
		default:
			t.RevokedCertificates = append(t.RevokedCertificates, api.RevokedCertificate{Authority: authority, Serial: serial})
		}
	}
	return t, nil
}
