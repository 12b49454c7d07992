package initd

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/asuser"
)

// person is all that whatever runs as a user begins with, whoever starts it. The umask is that of init,
// and so are the limits but those of cgroups; sshd's PAM service says the same of logins.
type person struct {
	cred asuser.Cred
	env  map[string]string
}

// become makes sure that the account of who is there, and returns what its programs begin with. Only a
// session makes its user a member of groups in the machine's files, so that an attempt that was decided
// before a group was taken away does not bring it back.
func (m *machine) become(who api.Account) (p person, err error) {
	if err := m.accounts.ensure(who); err != nil {
		return p, err
	}
	if err := m.accounts.join("", who.Groups); err != nil {
		return p, err
	}
	p.cred = CredOf(who)
	p.cred.Groups = append(p.cred.Groups, m.accounts.groupsOf(who.User)...)
	p.env = loginEnvironment(m.cfg.Etc)
	maps.Copy(p.env, map[string]string{"HOME": who.Home, "USER": who.User, "LOGNAME": who.User, "SHELL": m.accounts.shell})
	return p, nil
}

// CredOf is whose file rights an account has, but for groups that the image itself gives it.
func CredOf(who api.Account) asuser.Cred {
	c := asuser.Cred{UID: who.UID, GID: who.GID, Groups: []int{who.GID}}
	for _, g := range who.Groups {
		c.Groups = append(c.Groups, g.GID)
	}
	return c
}

// attr is how a program of the user is started.
func (p person) attr(dir string, env map[string]string, in, out, err uintptr) *syscall.ProcAttr {
	cred := &syscall.Credential{Uid: uint32(p.cred.UID), Gid: uint32(p.cred.GID)}
	for _, gid := range p.cred.Groups {
		cred.Groups = append(cred.Groups, uint32(gid))
	}
	return &syscall.ProcAttr{Dir: dir, Env: Flatten(env), Files: []uintptr{in, out, err}, Sys: &syscall.SysProcAttr{Setsid: true, Credential: cred}}
}

// Flatten returns the lines KEY=VALUE of an environment.
func Flatten(env map[string]string) []string {
	list := make([]string, 0, len(env))
	for _, k := range slices.Sorted(maps.Keys(env)) {
		list = append(list, k+"="+env[k])
	}
	return list
}

// DefaultEnvironment is what programs of every user have in their environment unless the image says otherwise.
func DefaultEnvironment() map[string]string {
	return map[string]string{"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}
}

// loginEnvironment adds what the image says in the files that the PAM service of dspool's sshd reads, below etc.
func loginEnvironment(etc string) map[string]string {
	env := DefaultEnvironment()
	for _, file := range []string{"environment", "default/locale"} {
		text, err := os.ReadFile(filepath.Join(etc, file))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			if k, v, ok := assignment(line); ok {
				env[k] = v
			}
		}
	}
	return env
}

// assignment reads a line of /etc/environment as pam_env(8) does: KEY=VALUE, perhaps with "export"
// before it, quotes around the value and a comment behind it.
func assignment(line string) (key, value string, ok bool) {
	line = strings.TrimSpace(line)
	line = strings.TrimSpace(strings.TrimPrefix(line, "export "))
	if i := strings.IndexByte(line, '#'); i >= 0 {
		line = strings.TrimSpace(line[:i])
	}
	key, value, ok = strings.Cut(line, "=")
	if !ok || key == "" || strings.ContainsAny(key, " \t") || strings.ContainsRune(line, 0) {
		return "", "", false
	}
	for _, quote := range []string{`"`, `'`} {
		if rest, ok := strings.CutPrefix(value, quote); ok {
			value = strings.TrimSuffix(rest, quote)
			break
		}
	}
	return key, value, true
}

// groupsOf returns the ids of the groups of the image that list name as a member.
func (a *accounts) groupsOf(name string) (ids []int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	text, err := os.ReadFile(filepath.Join(a.dir, "group"))
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(text)) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) != 4 || !slices.Contains(strings.Split(f[3], ","), name) {
			continue
		}
		if gid, err := strconv.Atoi(f[2]); err == nil && gid >= 0 && gid < MinUID && !slices.Contains(ids, gid) {
			ids = append(ids, gid)
		}
	}
	return ids
}
