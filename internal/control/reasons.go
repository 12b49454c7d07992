package control

import (
	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/auth"
	"github.com/dspool/dspool/internal/store"
)

// A reason leaves the server only through show: with its sentence, and without what the subject may not read.
func show(who auth.Subject, r dspool.Reason) dspool.Reason {
	return r.For(dspool.Viewer{User: who.User, Admin: who.Admin})
}

// showOf is show for the reason of a thing of user. What an earlier version recorded does not say whose it is.
func showOf(who auth.Subject, user string, r dspool.Reason) dspool.Reason {
	if r.Is(dspool.WhyRecorded) {
		r = r.Of(user)
	}
	return show(who, r)
}

// toUser is a reason as the user reads it whose session, task or connection it is told.
func toUser(user string, r dspool.Reason) dspool.Reason {
	return showOf(auth.Subject{User: user}, user, r)
}

func showJob(who auth.Subject, row store.JobRow) dspool.Job {
	j := row.Job
	if !j.State.Ended() {
		j.Reason = withKilled(row)
	}
	j.Reason = showOf(who, j.User, j.Reason)
	return j
}

func showTask(who auth.Subject, user string, t dspool.Task) dspool.Task {
	t.Reason = showOf(who, user, t.Reason)
	return t
}

func showSession(who auth.Subject, s dspool.Session) dspool.Session {
	s.Reason, s.Activity = showOf(who, s.User, s.Reason), showOf(who, s.User, s.Activity)
	return s
}

func showMachine(who auth.Subject, m dspool.Machine) dspool.Machine {
	m.Reason, m.Failure, m.HealthReason = show(who, m.Reason), show(who, m.Failure), show(who, m.HealthReason)
	return m
}

func showImage(who auth.Subject, i dspool.Image) dspool.Image {
	i.Reason = show(who, i.Reason)
	return i
}

func showEvent(who auth.Subject, e dspool.Event) dspool.Event {
	e.Reason = showOf(who, e.User, e.Reason)
	return e
}

func showOperation(who auth.Subject, o dspool.Operation) dspool.Operation {
	if o.Error != nil {
		o.Error = o.Error.WithReason(show(who, o.Error.Reason))
	}
	return o
}

// Bounds of a reason that a machine makes us store.
const (
	deepestReason = 4
	mostReasons   = 8
)

// heard takes a reason from a machine, whose root is not trusted: it concerns a thing of user ("" is the machine
// itself), and names nobody else.
func heard(r dspool.Reason, user string) dspool.Reason { return hear(r, user, deepestReason) }

func hear(r dspool.Reason, user string, depth int) dspool.Reason {
	if r.IsZero() {
		return dspool.Reason{}
	}
	if !r.Known() {
		r.Code, r.Detail = dspool.WhyStated, string(r.Code)
	}
	because := r.Because
	r.Text, r.Because = "", nil
	r.User, r.By = user, ""
	r = r.Clipped()
	if depth > 0 {
		for _, b := range because[:min(len(because), mostReasons)] {
			r.Because = append(r.Because, hear(b, user, depth-1))
		}
	}
	return r
}
