// Package host is the agent's hand on the machine for users' sessions: it makes accounts and
// control groups through init, runs sshd, keeps the files that decide who may log in, makes
// links in homes as their users, has apps run and looks whose their ports are, and whether anything of
// a session lives.
//
// A login is let in by sshd when its certificate is of the server's authority and names the
// user, and the user has an open session: its principals file is there. It joins the session's
// control group by the machine's PAM service, before sshd becomes the user. All of that is in
// Dir, which lives as long as the machine runs.
package host

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/agent/activity"
	"github.com/dspool/dspool/internal/agent/initd"
)

// Config of a host. The zero value, with Init, is that of a machine.
type Config struct {
	Init  Init
	Dir   string // of what sshd and PAM read; /run/dspool-ssh unless set
	State string // of the host key, on the machine's own disk; /var/lib/dspool-agent unless set
	Etc   string // where the PAM service and sudoers go; /etc unless set
	Sshd  string // /usr/sbin/sshd unless set
	Port  int    // of sshd; 22 unless set
	Empty string // directory for sshd's part without rights; /run/sshd unless set
	Grace time.Duration
	// AppGrace is an app's between SIGTERM and SIGKILL; 10 s unless set. AppPatience is how long one
	// may live without a listener on its port; 5 min unless set.
	AppGrace, AppPatience time.Duration
	Log                   *slog.Logger
}

// Init is the part of initd.Client that sessions need.
type Init interface {
	Open(ctx context.Context, s initd.Session) (initd.SessionStatus, error)
	Close(ctx context.Context, e initd.Closing) error
	Sessions(ctx context.Context) ([]initd.SessionStatus, error)
	Serve(ctx context.Context, s initd.Service) error
	Services(ctx context.Context) ([]initd.ServiceStatus, error)
	WantApps(ctx context.Context, a initd.Apps) error
	Apps(ctx context.Context, seen int64, wait time.Duration) ([]initd.AppStatus, int64, error)
	EndApp(ctx context.Context, e initd.AppEnd) error
	ForgetApps(ctx context.Context, ids []int64) error
}

// Session is an open session as the machine sees it.
type Session struct {
	ID       int64
	User     string
	UID      int
	Active   bool
	Activity dspool.Reason
}

// lastWords on a terminal take so long to reach the user.
const lastWords = 200 * time.Millisecond

// ErrAway says that init did not answer: the same may succeed later.
var ErrAway = errors.New("init does not answer")

// Host is safe for concurrent use.
type Host struct {
	cfg Config
	log *slog.Logger

	mu      sync.Mutex
	trusted bool               // sshd was started
	looks   map[int64]*look    // by session
	apps    map[int64]*appLook // by app
}

// look is what was seen of a session last.
type look struct {
	snapshot activity.Snapshot
	verdict  activity.Verdict
	since    time.Time // of the verdict's reason
	oomKills int64
	oomAt    time.Time
	oom      dspool.Reason
}

// New returns a host that has done nothing yet.
func New(cfg Config) *Host {
	for field, value := range map[*string]string{
		&cfg.Dir: "/run/dspool-ssh", &cfg.State: "/var/lib/dspool-agent", &cfg.Etc: "/etc", &cfg.Sshd: "/usr/sbin/sshd", &cfg.Empty: "/run/sshd",
	} {
		if *field == "" {
			*field = value
		}
	}
	if cfg.Port == 0 {
		cfg.Port = 22
	}
	if cfg.Grace == 0 {
		cfg.Grace = initd.DefaultGrace
	}
	if cfg.AppGrace == 0 {
		cfg.AppGrace = appGrace
	}
	if cfg.AppPatience == 0 {
		cfg.AppPatience = appPatience
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Host{cfg: cfg, log: cfg.Log, looks: map[int64]*look{}, apps: map[int64]*appLook{}}
}

// Open makes a session ready for logins, or brings it up to date, and has init run its apps. It may
// be repeated. An error that is not ErrAway says why there can be none, and nothing of it is left but
// for Close. On a machine without sshd only a session with apps can be opened.
func (h *Host) Open(ctx context.Context, d api.SessionDirective) error {
	if err := dspool.CheckName("user", d.User); err != nil {
		return err
	}
	known := h.knows(d.ID)
	if h.hasSSH() || len(d.Apps) == 0 && !known {
		if err := h.awaitSSH(ctx); err != nil {
			return err
		}
	}
	st, err := h.cfg.Init.Open(ctx, initd.Session{ID: d.ID, Account: d.Account, Request: d.Request})
	if err != nil {
		return fromInit(err)
	}
	h.beginLook(st)
	if err = h.prepare(d, st); err != nil && !known {
		return err
	}
	// Whatever has become of an open session's home, its apps come and go.
	return errors.Join(err, h.wantApps(ctx, d))
}

// prepare makes what a login needs, the right to log in last.
func (h *Host) prepare(d api.SessionDirective, st initd.SessionStatus) error {
	if err := h.prepareHome(d); err != nil {
		return err
	}
	if err := h.sudo(d.User, d.Sudo); err != nil {
		return err
	}
	if !h.hasSSH() {
		return nil
	}
	motd := d.Motd
	if motd != "" && !strings.HasSuffix(motd, "\n") {
		motd += "\n"
	}
	err := errors.Join(
		h.write("motd/"+d.User, motd),
		h.write("join/"+d.User, strings.Join(st.Join, "\n")+"\n"),
		h.write("aid/"+d.User, aidText(d.Request.Memory, st.Aid)),
	)
	if err == nil {
		err = h.write("principals/"+d.User, d.User+"\n")
	}
	if err != nil {
		return fmt.Errorf("let %s log in: %w", d.User, err)
	}
	return nil
}

// aidText is what the script of a login reads of a session's aid: three lines, then files to join.
func aidText(memory int64, a initd.Aid) string {
	full := dspool.Why(dspool.WhyMemoryFull, dspool.ReasonParams{Bytes: memory, Capacity: dspool.Resources{Memory: a.Memory}})
	lines := append([]string{a.Stat, strconv.FormatInt(a.Full, 10), sentence(full)}, a.Join...)
	return strings.Join(lines, "\n") + "\n"
}

// Close keeps the user out and ends everything of the session. It returns when nothing lives,
// and may be repeated.
func (h *Host) Close(ctx context.Context, d api.SessionDirective) error {
	if err := dspool.CheckName("user", d.User); err != nil {
		return nil // such a session was never opened
	}
	open, err := h.cfg.Init.Sessions(ctx)
	if err != nil {
		return fromInit(err)
	}
	// A later session of the same user keeps its files.
	later := false
	for _, s := range open {
		later = later || s.User == d.User && s.ID != d.ID
	}
	if !later {
		errs := []error{h.sudo(d.User, false)}
		for _, dir := range []string{"principals", "join", "aid", "motd"} {
			if err := os.Remove(filepath.Join(h.cfg.Dir, dir, d.User)); err != nil && !errors.Is(err, os.ErrNotExist) {
				errs = append(errs, err)
			}
		}
		if err := errors.Join(errs...); err != nil {
			h.log.Error("a user could not be kept out", "user", d.User, "error", err)
		}
	}
	if !d.Reason.IsZero() && !later && h.tellTerminals(d.UID, "This session ends: "+sentence(d.Reason)) > 0 {
		select { // until sshd has passed it on
		case <-time.After(lastWords):
		case <-ctx.Done():
		}
	}
	if err := h.cfg.Init.Close(ctx, initd.Closing{ID: d.ID, Grace: h.cfg.Grace}); err != nil {
		return fromInit(err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.looks, d.ID)
	return nil
}

// prepareHome looks that the home is there and makes its links, as the user. What the user has
// put in a link's place stays, and a link that cannot be made is no reason to keep the user out.
func (h *Host) prepareHome(d api.SessionDirective) error {
	return initd.CredOf(d.Account).Do(func() error {
		if info, err := os.Stat(d.Home); err != nil || !info.IsDir() {
			return dspool.Errorf(dspool.Unavailable, "the home %s of %s is not on the machine", d.Home, d.User).
				WithHint("look at the mounts of the pool")
		}
		for _, l := range d.Links {
			if err := makeLink(d.Home, l); err != nil {
				h.log.Warn("a link in a home could not be made", "user", d.User, "link", l.Path, "error", err)
			}
		}
		return nil
	})
}

// makeLink runs with the user's rights: whatever links lie in the way lead nowhere that the
// user may not go.
func makeLink(home string, l api.Link) error {
	if !filepath.IsLocal(l.Path) || !filepath.IsAbs(l.Target) {
		return dspool.Errorf(dspool.Invalid, "a link from %s to %s is not one in a home", dspool.Quote(l.Path), dspool.Quote(l.Target))
	}
	if l.MakeTarget {
		if err := os.MkdirAll(l.Target, 0o700); err != nil {
			return err
		}
	}
	path := filepath.Join(home, l.Path)
	if _, err := os.Lstat(path); err == nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		return err
	}
	if err := os.Symlink(l.Target, path); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return nil
}

// sudo lets a user become root of the machine, or no longer.
func (h *Host) sudo(user string, allowed bool) error {
	path := filepath.Join(h.cfg.Etc, "sudoers.d", "dspool-"+user)
	if !allowed {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("take sudo from %s: %w", user, err)
		}
		return nil
	}
	err := replaceFile(path, user+" ALL=(ALL:ALL) NOPASSWD: ALL\n", 0o440)
	if errors.Is(err, os.ErrNotExist) {
		return dspool.Errorf(dspool.Unavailable, "the pool allows sudo and its image has none").WithHint("add the package sudo to the image")
	}
	return err
}

// write replaces a file of Dir, which every user may read.
func (h *Host) write(name, text string) error {
	return replaceFile(filepath.Join(h.cfg.Dir, name), text, 0o644)
}

// replaceFile makes path hold text, whole or not at all.
func replaceFile(path, text string, perm os.FileMode) error {
	// Neither sudo nor sshd looks at a file with this name.
	next := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".new~")
	if err := os.Remove(next); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(next, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Chmod(perm), f.Close()); err != nil {
		return err
	}
	return os.Rename(next, path)
}

// fromInit sorts init's answers from its silence.
func fromInit(err error) error {
	var refused *initd.Refused
	if errors.As(err, &refused) {
		return dspool.Errorf(dspool.Conflict, "%s", refused.Why)
	}
	return fmt.Errorf("%w: %w", ErrAway, err)
}
