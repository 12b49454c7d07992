package control

import (
	"context"
	"fmt"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/auth"
	"github.com/dspool/dspool/internal/store"
)

// settingRetention says how long events are kept, such as "30d"; DefaultRetention where it does not.
const settingRetention = "events.retention"

// DefaultRetention is how long events are kept unless the setting says otherwise.
const DefaultRetention = 90 * 24 * time.Hour

// clockTrusted is how long nobody must have set the clock before events are forgotten by it.
const clockTrusted = time.Hour

// PruneEvents forgets events that are older than their retention. What money and the state of
// jobs are computed from lies elsewhere and stays. Only a clock that has been right for a while is believed,
// because what is forgotten does not come back when it is set right.
func (c *Control) PruneEvents(ctx context.Context) error {
	return c.Store.Write(ctx, func(tx *store.Tx) error {
		if jumps, err := tx.ClockJumps(tx.Now().Add(-clockTrusted), 1); err != nil || len(jumps) > 0 {
			return err
		}
		keep := DefaultRetention
		text, err := tx.Setting(settingRetention)
		if err != nil {
			return err
		}
		if text != "" {
			d, err := dspool.ParseDuration(text)
			if err != nil {
				return fmt.Errorf("read setting %s: %w", settingRetention, err)
			}
			keep = time.Duration(d)
		}
		_, err = tx.PruneEvents(tx.Now().Add(-keep))
		return err
	})
}

// NetworkMended records what somebody took or changed of the host's network of machines, and that it is as it was again.
func (c *Control) NetworkMended(ctx context.Context, what string) error {
	return c.write(ctx, func(w *work) error {
		return w.event(dspool.Event{Actor: "server", Kind: "network.mended", Message: "somebody changed the network of machines; it is as it was again: " + what})
	})
}

// EventQuery selects events after an id; Latest asks for the newest ones instead.
type EventQuery struct {
	After         int64
	Latest        bool
	Limit         int
	Pool, Machine string
	Job           int64
}

// Events lists events, oldest first: for a user those about the user and about nobody.
func (c *Control) Events(ctx context.Context, who auth.Subject, q EventQuery) (list api.List[dspool.Event], err error) {
	list.Items = []dspool.Event{}
	q.Limit = pageSize(q.Limit)
	err = c.Store.Read(ctx, func(tx *store.Tx) error {
		if q.Job != 0 {
			if _, err := seenJob(tx, who, q.Job); err != nil {
				return err
			}
		}
		events, err := tx.Events(store.EventFilter{
			After: q.After, Latest: q.Latest, Limit: q.Limit + 1, Pool: q.Pool, Machine: q.Machine, Job: q.Job, User: visibleTo(who), UID: who.UID,
		})
		if len(events) > q.Limit {
			list.More = true
			if q.Latest {
				events = events[1:]
			} else {
				events = events[:q.Limit]
			}
		}
		for _, e := range events {
			list.Items = append(list.Items, showEvent(who, e))
		}
		return err
	})
	return list, err
}
