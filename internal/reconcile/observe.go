package reconcile

import (
	"context"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/provider"
	"github.com/dspool/dspool/internal/store"
)

// listed is the provider's whole list, with the machines that were known before it was made.
type listed struct {
	before map[string]store.MachineRow
	at     time.Time // when it was asked for
	list   []provider.Observed
	err    error
}

// ask has the provider list its machines, and observe look at the answer. Passes go on
// meanwhile: a provider may take its time.
func (l *Loop) ask(ctx context.Context) {
	if l.again = l.listing; l.again {
		return
	}
	l.listing = true
	l.actions.Go(func() {
		l.lists <- l.list(ctx) // there is room: one is asked for at a time
	})
}

func (l *Loop) list(ctx context.Context) (got listed) {
	if got.before, _, got.err = l.live(ctx); got.err == nil {
		got.at = time.Now()
		ctx, cancel := context.WithTimeout(ctx, l.ListWithin)
		defer cancel()
		got.list, got.err = l.Provider.List(ctx)
	}
	return got
}

// observe holds the provider's whole list against the store: a machine that should be there
// and is not, or is dead, has a fault; a thing of ours that the store does not know is swept.
func (l *Loop) observe(ctx context.Context, got listed) {
	l.listing = false
	if l.again {
		defer l.ask(ctx)
	}
	l.noteFault(ctx, got.err)
	if got.err != nil {
		return
	}
	// A machine may be recorded while the list is made. Only one that was known before the
	// list and is not in it has vanished; only one unknown after it is to be swept.
	after, now, err := l.live(ctx)
	if err != nil {
		if ctx.Err() == nil {
			l.Log.Error("read machines", "err", err)
		}
		return
	}
	for _, o := range got.list {
		if _, known := after[o.Name]; !known {
			l.act(o.Name, destroying, func() { l.sweep(ctx, o.Name) })
		}
	}
	l.match(ctx, got, after, now)
	l.sights.forget(after)
	l.noteSights(ctx, noteSightsEvery)
	l.observed = true
}

// match holds the list against the machines that were known before it and still are.
func (l *Loop) match(ctx context.Context, got listed, after map[string]store.MachineRow, now moment) {
	seen := map[string]provider.Observed{}
	for _, o := range got.list {
		seen[o.Name] = o
	}
	for name, was := range got.before {
		m, live := after[name]
		o, there := seen[name]
		if live && was.State != dspool.Creating {
			l.sights.look(m, there && o.Running, got.at, now)
		}
		if stands(was.State) && stands(m.State) {
			l.compare(ctx, m, o, there)
		}
	}
}

// Survey finds out, before the loop runs, which machines have died while no server did.
func (l *Loop) Survey(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, surveyWithin)
	defer cancel()
	got := l.list(ctx)
	if got.err != nil {
		return got.err
	}
	after, now, err := l.live(ctx)
	if err == nil {
		l.match(ctx, got, after, now)
	}
	return err
}

// surveyWithin is how long a start waits for the provider; the loop is more patient.
const surveyWithin = 5 * time.Second

// stands says whether a machine of that state should be there.
func stands(s dspool.MachineState) bool { return s == dspool.Starting || s == dspool.Ready }

// compare looks at one machine that should be there.
func (l *Loop) compare(ctx context.Context, m store.MachineRow, o provider.Observed, there bool) {
	var fault dspool.Reason
	switch {
	case !there:
		fault = dspool.Reason{Code: dspool.WhyVanished}
	case !o.Running:
		fault = dspool.Why(dspool.WhyEnded, dspool.ReasonParams{Detail: o.Detail})
	case m.State == dspool.Ready && m.Health == dspool.Healthy && l.silence(m) > l.SilentAfter:
		if err := l.Control.MachineSilent(ctx, m.Name, l.SilentAfter); err != nil {
			l.Log.Error("record silent machine", "machine", m.Name, "err", err)
		}
	}
	if fault.IsZero() {
		return
	}
	if m.State == dspool.Starting {
		fault = dspool.Reason{Code: dspool.WhyBeforeJoined}.With(fault)
		l.failed(m.Pool, fault)
	}
	l.lost(ctx, m.Name, fault)
}

// silence is how long nothing was heard of a machine's agent that could have been heard.
func (l *Loop) silence(m store.MachineRow) time.Duration {
	return min(l.Store.Now().Sub(m.Seen), time.Since(l.begun), l.Control.Unheard(m.Name))
}

func (l *Loop) sweep(ctx context.Context, name string) {
	rows, _, err := l.live(ctx)
	if _, known := rows[name]; known || err != nil {
		return
	}
	l.Log.Warn("sweep machine that the store does not know", "machine", name)
	ctx, cancel := context.WithTimeout(ctx, destroyWithin)
	defer cancel()
	if err := l.Provider.Destroy(ctx, name); err != nil {
		l.Log.Error("sweep machine", "machine", name, "err", err)
	}
}

// noteFault keeps why the provider could not be asked, and logs it when that changes.
func (l *Loop) noteFault(ctx context.Context, err error) {
	var fault dspool.Reason
	if err != nil {
		fault = dspool.Why(dspool.WhyProviderSilent, dspool.ReasonParams{Detail: err.Error()}).Clipped()
	}
	l.mu.Lock()
	changed := !l.fault.Equal(fault)
	l.fault = fault
	l.mu.Unlock()
	if err != nil && changed && ctx.Err() == nil {
		l.Log.Error("list machines of the provider", "err", err)
	}
}

// live returns the machines of which something may be left, and when that was.
func (l *Loop) live(ctx context.Context) (out map[string]store.MachineRow, now moment, err error) {
	out = map[string]store.MachineRow{}
	err = l.Store.Read(ctx, func(tx *store.Tx) error {
		now = moment{stores: tx.Now(), ours: time.Now()}
		rows, err := tx.LiveMachines()
		for _, r := range rows {
			out[r.Name] = r
		}
		return err
	})
	return out, now, err
}
