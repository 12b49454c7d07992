package host

import (
	"context"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/agent/activity"
	"github.com/dspool/dspool/internal/agent/initd"
)

const (
	// steadyReason is how long a reason stands when only its figures change.
	steadyReason = time.Minute
	// oomNews is how long a kill for memory is told with the activity.
	oomNews = 10 * time.Minute
)

// Sessions returns the open sessions, and looks what lives in each. The share of the CPU is
// counted since the call before.
func (h *Host) Sessions(ctx context.Context) ([]Session, error) {
	list, err := h.cfg.Init.Sessions(ctx)
	if err != nil {
		return nil, fromInit(err)
	}
	apps, _, err := h.cfg.Init.Apps(ctx, 0, 0)
	if err != nil {
		return nil, fromInit(err)
	}
	bySession := h.jupyterApps(ctx, apps)
	var out []Session
	for _, s := range list {
		if s.Closing {
			continue
		}
		v := h.look(s, bySession[s.ID])
		out = append(out, Session{ID: s.ID, User: s.User, UID: s.UID, Active: v.Active, Activity: v.Reason})
	}
	return out, nil
}

// beginLook notes what a new session begins with, so that what dies for memory before the first
// look is told, too.
func (h *Host) beginLook(s initd.SessionStatus) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.looks[s.ID] == nil {
		h.looks[s.ID] = &look{oomKills: s.OOMKills}
	}
}

// knows says whether a session was opened before.
func (h *Host) knows(id int64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.looks[id] != nil
}

func (h *Host) look(s initd.SessionStatus, apps []activity.App) activity.Verdict {
	now := snapshot(s)
	now.Apps = apps
	h.mu.Lock()
	defer h.mu.Unlock()
	l := h.looks[s.ID]
	if l == nil {
		l = &look{oomKills: s.OOMKills}
		h.looks[s.ID] = l
	}
	now.Follow(l.snapshot)
	v := activity.Judge(l.snapshot, now)
	if v.Cause != l.verdict.Cause || v.Active != l.verdict.Active || now.At.Sub(l.since) > steadyReason {
		l.verdict, l.since = v, now.At
	}
	l.snapshot = now
	if fresh := s.OOMKills - l.oomKills; fresh > 0 {
		l.oomKills, l.oomAt = s.OOMKills, now.At
		l.oom = dspool.Why(dspool.WhyKilledSome, dspool.ReasonParams{Bytes: s.Request.Memory, Count: fresh, Since: now.At.UTC()})
		h.tellTerminals(s.UID, sentence(l.oom))
	}
	v = l.verdict
	if !l.oomAt.IsZero() && now.At.Sub(l.oomAt) < oomNews {
		v.Reason = l.oom.With(v.Reason)
	}
	return v
}

// Killed says whether the kernel has killed something of a session for memory since the last look.
func (h *Host) Killed(ctx context.Context) (bool, error) {
	list, err := h.cfg.Init.Sessions(ctx)
	if err != nil {
		return false, fromInit(err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.ContainsFunc(list, func(s initd.SessionStatus) bool {
		l := h.looks[s.ID]
		return l != nil && s.OOMKills > l.oomKills
	}), nil
}

// sentence writes a reason for the user of a session: the server has left out what users may not read.
func sentence(r dspool.Reason) string { return r.For(dspool.Viewer{Admin: true}).Text }

// snapshot reads a session's processes. A machine's /proc may hide users' from root, so that
// what is not seen is looked for once more as the user. What hides from both is sshd's and the
// like, whose programs a user may not read.
func snapshot(s initd.SessionStatus) activity.Snapshot {
	shot := activity.Snapshot{At: time.Now(), Terminals: activity.Terminals(s.UID)}
	seen, unseen := activity.Processes(s.PIDs)
	shot.Processes = seen
	if len(unseen) > 0 {
		_ = initd.CredOf(s.Account).Do(func() error {
			var more []activity.Process
			more, unseen = activity.Processes(unseen)
			shot.Processes = append(shot.Processes, more...)
			return nil
		})
		for _, pid := range unseen {
			shot.Processes = append(shot.Processes, activity.Process{PID: pid, Hidden: true})
		}
	}
	return shot
}

// tellTerminals writes a line to every terminal of a user and returns how many took it. One
// that does not take it at once is left alone.
func (h *Host) tellTerminals(uid int, line string) (told int) {
	for _, t := range activity.Terminals(uid) {
		fd, err := unix.Open("/dev/"+t.Name, unix.O_WRONLY|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			continue
		}
		if _, err := unix.Write(fd, []byte("\r\n[dspool] "+line+"\r\n")); err == nil {
			told++
		}
		unix.Close(fd)
	}
	return told
}
