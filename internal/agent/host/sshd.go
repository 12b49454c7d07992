package host

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/agent/initd"
	"github.com/dspool/dspool/internal/asuser"
)

const (
	hostKeyFile = "ssh_host_ed25519_key"
	sshService  = "sshd"
	// sshFailures in a row make a machine unhealthy.
	sshFailures = 3
)

// HostKey returns the public host key of the machine's sshd, in the form of authorized_keys;
// "" when the image has no sshd. The key is made once and stays on the machine.
func (h *Host) HostKey() (string, error) {
	if _, err := os.Stat(h.cfg.Sshd); errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err := os.MkdirAll(h.cfg.State, 0o700); err != nil {
		return "", err
	}
	path := filepath.Join(h.cfg.State, hostKeyFile)
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		_, key, e := ed25519.GenerateKey(rand.Reader)
		if e != nil {
			return "", e
		}
		block, e := ssh.MarshalPrivateKey(key, "dspool machine")
		if e != nil {
			return "", e
		}
		data = pem.EncodeToMemory(block)
		err = replaceFile(path, string(data), 0o600)
	}
	if err != nil {
		return "", fmt.Errorf("make host key: %w", err)
	}
	signer, err := ssh.ParsePrivateKey(data)
	if err != nil {
		return "", fmt.Errorf("read host key %s: %w", path, err)
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey()))), nil
}

// Trust has init run sshd, which lets users in with certificates of authority, a public key in
// the form of authorized_keys. It may be repeated, also with another authority.
func (h *Host) Trust(ctx context.Context, authority string) error {
	if !h.hasSSH() || authority == "" {
		return nil
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(authority))
	if err != nil {
		return dspool.Errorf(dspool.Invalid, "the authority for logins is not a public key: %v", err)
	}
	config, err := h.writeSSH(strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))), h.sshVersion(ctx))
	if err != nil {
		return fmt.Errorf("configure sshd: %w", err)
	}
	sum := sha256.Sum256([]byte(config))
	err = h.cfg.Init.Serve(ctx, initd.Service{
		Name: sshService, Version: hex.EncodeToString(sum[:8]),
		Command: []string{h.cfg.Sshd, "-D", "-e", "-f", h.sshConfig()},
	})
	if err != nil {
		return fromInit(err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.trusted = true
	return nil
}

func (h *Host) sshConfig() string { return filepath.Join(h.cfg.Dir, "sshd_config") }

// writeSSH writes what sshd and its PAM service read, and returns sshd's configuration.
func (h *Host) writeSSH(authority string, version float64) (string, error) {
	for _, dir := range []string{
		h.cfg.Dir, filepath.Join(h.cfg.Dir, "principals"), filepath.Join(h.cfg.Dir, "join"), filepath.Join(h.cfg.Dir, "aid"), filepath.Join(h.cfg.Dir, "motd"),
		h.cfg.Empty, filepath.Join(h.cfg.Etc, "pam.d"), filepath.Join(h.cfg.Etc, "profile.d"),
	} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return "", err
		}
		// Whatever the umask; users read here.
		if err := os.Chmod(dir, 0o755); err != nil {
			return "", err
		}
	}
	config := h.sshdConfig(version)
	return config, errors.Join(
		h.write("authority.pub", authority+"\n"),
		h.write("sshd_config", config),
		h.write("environment", strings.Join(initd.Flatten(initd.DefaultEnvironment()), "\n")+"\n"),
		replaceFile(filepath.Join(h.cfg.Etc, "profile.d", "00-dspool.sh"), profile, 0o644),
		replaceFile(filepath.Join(h.cfg.Dir, "enter"), fmt.Sprintf(enterScript, h.cfg.Dir), 0o755),
		// sshd finds its PAM service by its own name; the machine has no other sshd.
		replaceFile(filepath.Join(h.cfg.Etc, "pam.d", "sshd"), fmt.Sprintf(pamService, h.cfg.Dir, asuser.Umask), 0o644),
	)
}

// enterScript runs as root for every login, as the child of the process that becomes the
// user's. It is a script of built-ins only because a process more costs every login a millisecond.
const enterScript = `#!/bin/sh
# A login enters its user's session, and greets those with a terminal. By dspool.
[ "$PAM_TYPE" = open_session ] || exit 0
exec 2>/dev/null
to="%[1]s/join/$PAM_USER"
{ IFS= read -r stat && IFS= read -r full && IFS= read -r said; } <"%[1]s/aid/$PAM_USER"
used=0
while read -r key bytes; do
	case $key in rss | anon | shmem) used=$((used + bytes)) ;; esac
done <"$stat"
if [ "$used" -ge "$full" ]; then
	to="%[1]s/aid/$PAM_USER"
	echo "$said"
fi
while IFS= read -r file; do
	case $file in /*/cgroup.procs) echo "$PPID" >"$file" || exit 1 ;; esac
done <"$to" || exit 1
while IFS= read -r line; do
	echo "$line"
done <"%[1]s/motd/$PAM_USER"
exit 0
`

// Passwords are never asked: sshd has checked a certificate. A login begins with what init gives to all
// that it starts as users; what the image says comes after that.
const pamService = `# By dspool.
auth     required pam_deny.so
account  required pam_permit.so
session  required pam_exec.so quiet stdout %[1]s/enter
session  required pam_umask.so nousergroups umask=%#[2]o
session  optional pam_env.so conffile=/dev/null envfile=%[1]s/environment
session  optional pam_env.so
session  optional pam_env.so envfile=/etc/default/locale
password required pam_deny.so
`

// profile undoes what /etc/profile does to the PATH of login shells, which are those of terminals. Scripts
// of the image with later names add to it.
const profile = `# A login shell keeps the PATH that it began with, as every other program of its user has it. By dspool.
if [ "$USER" != root ]; then
	dspool_path=$(tr '\0' '\n' <"/proc/$$/environ" | sed -n 's/^PATH=//p')
	PATH=${dspool_path:-$PATH}
	unset dspool_path
fi
`

func (h *Host) sshdConfig(version float64) string {
	var b strings.Builder
	fmt.Fprintf(&b, `# By dspool's agent, anew at each of its starts.
Port %d
HostKey %s
TrustedUserCAKeys %s
AuthorizedPrincipalsFile %s
AuthorizedKeysFile none
AuthenticationMethods publickey
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin no
UsePAM yes
LoginGraceTime 15
MaxStartups 1000
MaxSessions 200
AcceptEnv LC_* TERM COLORTERM
AllowAgentForwarding yes
AllowTcpForwarding yes
AllowStreamLocalForwarding yes
X11Forwarding yes
Subsystem sftp internal-sftp
UseDNS no
PrintMotd no
PrintLastLog no
ClientAliveInterval 0
Compression no
LogLevel ERROR
PidFile none
`, h.cfg.Port, filepath.Join(h.cfg.State, hostKeyFile), filepath.Join(h.cfg.Dir, "authority.pub"), filepath.Join(h.cfg.Dir, "principals/%u"))
	if version >= 9.8 {
		// All logins come from one address, the gateway's: what one user does wrong must not lock the others out.
		b.WriteString("PerSourcePenalties no\n")
	}
	return b.String()
}

var versionPattern = regexp.MustCompile(`OpenSSH_(\d+\.\d+)`)

// sshVersion returns the version of OpenSSH, such as 10.0; 0 when it does not say.
func (h *Host) sshVersion(ctx context.Context) float64 {
	// Old ones do not know -V, and print the version with how they are used.
	out, _ := exec.CommandContext(ctx, h.cfg.Sshd, "-V").CombinedOutput()
	m := versionPattern.FindSubmatch(out)
	if m == nil {
		return 0
	}
	v, _ := strconv.ParseFloat(string(m[1]), 64)
	return v
}

// hasSSH says whether the image has an sshd.
func (h *Host) hasSSH() bool {
	_, err := os.Stat(h.cfg.Sshd)
	return err == nil
}

// awaitSSH waits until sshd takes connections.
func (h *Host) awaitSSH(ctx context.Context) error {
	if !h.hasSSH() {
		return dspool.Errorf(dspool.Unavailable, "the machine's image has no sshd").WithHint("add the package openssh-server to the image")
	}
	h.mu.Lock()
	trusted := h.trusted
	h.mu.Unlock()
	if !trusted {
		return dspool.Errorf(dspool.Unavailable, "the server named no authority for logins when the machine enrolled").WithHint("remove the machine; the pool makes another")
	}
	const patience, step = 10 * time.Second, 5 * time.Millisecond
	for end := time.Now().Add(patience); ; {
		if listening(h.cfg.Port) {
			return nil
		}
		if time.Now().After(end) {
			return dspool.Errorf(dspool.Unavailable, "sshd does not take connections on the machine%s", after(h.sshSaid(ctx)))
		}
		select {
		case <-time.After(step):
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ErrAway, context.Cause(ctx))
		}
	}
}

func (h *Host) sshSaid(ctx context.Context) string {
	services, err := h.cfg.Init.Services(ctx)
	if err != nil {
		return ""
	}
	for _, s := range services {
		if s.Name == sshService && s.Said != "" {
			lines := strings.Split(s.Said, "\n")
			return lines[len(lines)-1]
		}
	}
	return ""
}

func after(said string) string {
	if said == "" {
		return ""
	}
	return ": " + said
}

// Health says whether logins work.
func (h *Host) Health(ctx context.Context) (dspool.Health, dspool.Reason) {
	services, err := h.cfg.Init.Services(ctx)
	if err != nil {
		return dspool.Healthy, dspool.Reason{} // that init is silent is found elsewhere
	}
	for _, s := range services {
		if s.Name == sshService && s.PID == 0 && s.Failures >= sshFailures {
			return dspool.Unhealthy, dspool.Why(dspool.WhySSHDEnds, dspool.ReasonParams{Detail: h.sshSaid(ctx)})
		}
	}
	return dspool.Healthy, dspool.Reason{}
}
