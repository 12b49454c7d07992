package host

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"strings"
	"time"
	"unicode"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/agent/initd"
)

// App is how an app of a session stands.
type App struct {
	Session int64
	api.AppReport
}

const (
	// appGrace is between SIGTERM and SIGKILL: a Jupyter server ends its kernels in order.
	appGrace = 10 * time.Second
	// appPatience is how long an app may live without a listener on its port.
	appPatience = 5 * time.Minute
	// mostWords is how much of an app's last words is told, in bytes: less than the 500 that the server takes,
	// which would cut their end, where a program says why.
	mostWords = 400
)

// appLook is what was seen of an app last.
type appLook struct {
	run   int
	quiet time.Time // since when nobody listens; zero while somebody does
	// Of a Jupyter server:
	answered time.Time // it last said how its kernels are, or was first asked
	busy     time.Time // since when some kernel is; zero while none is
}

// wantApps has init run exactly the apps of d in its session.
func (h *Host) wantApps(ctx context.Context, d api.SessionDirective) error {
	w := initd.Apps{Session: d.ID, Grace: h.cfg.AppGrace}
	for _, a := range d.Apps {
		w.Apps = append(w.Apps, initd.App{
			ID: a.ID, Name: a.Name, Command: a.Command, Env: a.Env, Dir: a.Dir, Restart: a.Restart, Kernels: a.Kernels, Token: a.Token,
		})
	}
	if err := h.cfg.Init.WantApps(ctx, w); err != nil {
		return fromInit(err)
	}
	return nil
}

// ForgetApps drops apps that have ended.
func (h *Host) ForgetApps(ctx context.Context, ids []int64) error {
	if err := h.cfg.Init.ForgetApps(ctx, ids); err != nil {
		return fromInit(err)
	}
	return nil
}

// Apps returns how all apps stand that are not forgotten, and the version of what init says of
// them. It waits until there is another one than seen, or for wait. An app on whose port somebody
// else listens, or nobody for too long, is ended.
func (h *Host) Apps(ctx context.Context, seen int64, wait time.Duration) ([]App, int64, error) {
	list, version, err := h.cfg.Init.Apps(ctx, seen, wait)
	if err != nil {
		return nil, 0, fromInit(err)
	}
	byPort, err := portsOf(list)
	if err != nil {
		return nil, 0, fmt.Errorf("%w: %w", ErrAway, err)
	}
	now := time.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	known := map[int64]bool{}
	var out []App
	for _, s := range list {
		known[s.ID] = true
		report, end := h.judgeApp(s, byPort[s.Port], now)
		if !end.IsZero() {
			h.log.Warn("an app is ended", "app", s.ID, "name", s.Name, "reason", end.Code)
			// A failure is no loss: it is seen again.
			_ = h.cfg.Init.EndApp(ctx, initd.AppEnd{ID: s.ID, Run: s.Run, Reason: end, Grace: h.cfg.AppGrace})
		}
		out = append(out, App{s.Session, report})
	}
	maps.DeleteFunc(h.apps, func(id int64, _ *appLook) bool { return !known[id] })
	return out, version, nil
}

// portsOf reads who listens, if any app runs.
func portsOf(list []initd.AppStatus) (map[int][]listener, error) {
	for _, s := range list {
		if s.State == initd.Running {
			return listeners()
		}
	}
	return nil, nil
}

// lookAt returns what is known of an app's run; mu is held.
func (h *Host) lookAt(s initd.AppStatus, now time.Time) *appLook {
	l := h.apps[s.ID]
	if l == nil || l.run != s.Run {
		l = &appLook{run: s.Run, quiet: now, answered: now}
		h.apps[s.ID] = l
	}
	return l
}

// judgeApp returns how an app stands, and why it must be ended, if so; mu is held.
func (h *Host) judgeApp(s initd.AppStatus, list []listener, now time.Time) (r api.AppReport, end dspool.Reason) {
	r = api.AppReport{ID: s.ID, State: dspool.AppStarting}
	switch s.State {
	case initd.Ended:
		r.State, r.ExitCode, r.Reason = dspool.AppEnded, s.ExitCode, howAppEnded(s)
		return r, end
	case initd.Starting:
		if s.Run > 0 {
			r.Reason = dspool.Reason{Code: dspool.WhyAppAgain}.With(howAppEnded(s))
		}
		return r, end
	}
	l := h.lookAt(s, now)
	o, _, other := whose(list, s.UID)
	if o == own {
		l.quiet = time.Time{}
		r.State, r.Port = dspool.AppRunning, s.Port
		return r, end
	}
	if l.quiet.IsZero() {
		l.quiet = now
	}
	switch {
	case o == foreign:
		end = dspool.Why(dspool.WhyAppForeign, dspool.ReasonParams{Count: int64(other), Port: s.Port})
	case now.Sub(l.quiet) > h.cfg.AppPatience && o == inside:
		end = dspool.Why(dspool.WhyAppLoopbackFor, dspool.ReasonParams{Port: s.Port, Within: dspool.Duration(h.cfg.AppPatience)})
	case now.Sub(l.quiet) > h.cfg.AppPatience:
		end = dspool.Why(dspool.WhyAppMute, dspool.ReasonParams{Port: s.Port, Within: dspool.Duration(h.cfg.AppPatience)})
	case o == inside:
		r.Reason = dspool.Why(dspool.WhyAppLoopback, dspool.ReasonParams{Port: s.Port})
	}
	r.Reason = end.Or(r.Reason)
	return r, end
}

// howAppEnded is why an app's last run ended, with its last words.
func howAppEnded(s initd.AppStatus) dspool.Reason {
	said := saying(s.Said)
	var how dspool.Reason
	switch {
	case !s.Fault.IsZero():
		return s.Fault
	case !s.Reason.IsZero():
		how = s.Reason
		if !how.Is(dspool.WhyAppUnwanted) {
			how.Detail = said
		}
	case s.ExitCode == nil:
		how = dspool.Why(dspool.WhyEndUnknown, dspool.ReasonParams{Detail: said})
	case s.OOM:
		how = dspool.Why(dspool.WhyOutOfMemory, dspool.ReasonParams{Bytes: s.Memory, Detail: said})
	case s.Signal != 0:
		how = dspool.Why(dspool.WhySignal, dspool.ReasonParams{Name: initd.SignalName(s.Signal), Detail: said})
	default:
		how = dspool.Why(dspool.WhyExitCode, dspool.ReasonParams{Count: int64(*s.ExitCode), Detail: said})
	}
	return initd.WithStuck(how, s.Stuck)
}

// escapes are the sequences by which programs colour their output.
var escapes = regexp.MustCompile("\x1b(\\[[0-9;?]*[ -/]*[@-~]|\\][^\x07\x1b]*(\x07|\x1b\\\\)?|[@-_])")

// saying returns the end of an output as it may stand in a sentence.
func saying(said string) string {
	said = escapes.ReplaceAllString(strings.ToValidUTF8(said, "?"), "")
	said = strings.Join(strings.FieldsFunc(said, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }), " ")
	if over := len(said) - mostWords; over > 0 {
		said = "…" + strings.ToValidUTF8(said[over:], "")
	}
	return said
}
