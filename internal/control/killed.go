package control

import (
	"context"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/store"
)

const (
	killedWait  = 1500 * time.Millisecond // for a machine's word: its agent looks twice a second
	killedFresh = 2 * time.Second         // what it said before is about something else
)

// KilledForMemory says whether the kernel has just killed something of a session for memory.
func (c *Control) KilledForMemory(ctx context.Context, session int64) (out api.KilledAnswer, err error) {
	late := time.NewTimer(killedWait)
	defer late.Stop()
	for {
		changed := c.Changed(TopicSession(session))
		err := c.Store.Read(ctx, func(tx *store.Tx) error {
			s, err := tx.Session(session)
			if err != nil {
				return err
			}
			if a := s.Activity; a.Is(dspool.WhyKilledSome) && tx.Now().Sub(a.Since).Abs() < killedFresh {
				out.Reason = toUser(s.User, dspool.Why(dspool.WhyKilledMemory, dspool.ReasonParams{Bytes: a.Bytes}))
			}
			return nil
		})
		if err != nil || !out.Reason.IsZero() {
			return out, err
		}
		select {
		case <-changed:
		case <-late.C:
			return out, nil
		case <-ctx.Done():
			return out, ctx.Err()
		}
	}
}
