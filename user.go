package dspool

import (
	"slices"
	"strings"
)

// User is a person's account. UID and GID are the same number, the same on the
// host, on every machine and on every share, and are never given to another.
type User struct {
	Name    string `json:"name"`
	UID     int    `json:"uid"`
	Admin   bool   `json:"admin,omitempty"`
	Created Time   `json:"created"`

	Groups      []string `json:"groups,omitempty" doc:"Groups the user is in, beside the one of the same name."`
	DefaultPool string   `json:"default_pool,omitempty" doc:"Where logins land that name no pool, instead of the door's."`
	HasPassword bool     `json:"has_password,omitempty"`
}

// Group is a named set of users with an id that is the same everywhere. Its ids come from the
// users' range, so no user and no other group ever has the same.
type Group struct {
	Name    string   `json:"name"`
	GID     int      `json:"gid"`
	Members []string `json:"members"`
	Created Time     `json:"created"`
}

// Token is a credential of a user for the API. Its secret is shown once and
// stored only as a hash.
type Token struct {
	ID      string `json:"id"`
	User    string `json:"user"`
	Name    string `json:"name,omitempty" maxLength:"128"`
	Created Time   `json:"created"`
	Expires *Time  `json:"expires,omitempty"`
	Used    *Time  `json:"used,omitempty"`
}

// UIDRange is the range of ids that users have; every other id of a machine is
// mapped to the machine's private range.
type UIDRange struct {
	First int `json:"first"`
	Last  int `json:"last"`
}

// systemUsers are accounts that Debian or a package of it makes on hosts or machines.
var systemUsers = strings.Fields(`root daemon bin sys sync games man lp mail news uucp proxy www-data backup list irc
	gnats nobody sshd messagebus polkitd postfix systemd-network systemd-resolve systemd-timesync systemd-journal
	adm tty disk sudo audio dip video plugdev staff users nogroup shadow utmp wheel munge slurm postgres dspool jupyterhub`)

// HubUser is the server's own account, which JupyterHub runs as. Nobody logs in as it.
const HubUser = "jupyterhub"

// CheckUserName is CheckName for users; it also refuses the names of system accounts and groups.
func CheckUserName(name string) error {
	if err := CheckName("user", name); err != nil {
		return err
	}
	if slices.Contains(systemUsers, name) {
		return Errorf(Invalid, "user name %s is a system account's", name).WithHint("choose another")
	}
	return nil
}
