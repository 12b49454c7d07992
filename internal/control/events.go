package control

import (
	"context"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/auth"
	"github.com/dspool/dspool/internal/store"
)

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
