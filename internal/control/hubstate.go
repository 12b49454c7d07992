package control

import (
	"sync"
	"time"

	"github.com/dspool/dspool"
)

// hubState is what is remembered of making the hub; nothing of it matters after a restart.
type hubState struct {
	mu    sync.Mutex
	made  time.Time
	wait  time.Duration // before it may be made once more
	fault dspool.Reason // why it cannot be made; none if it can
}

// Limits of making a hub that ends again and again.
const (
	hubWaitFirst = time.Second
	hubWaitMost  = 5 * time.Minute
	hubLived     = time.Minute // after which it counts as one that works
)

// may says whether the hub may be made now, and counts it.
func (h *hubState) may(now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	lived := now.Sub(h.made)
	switch {
	case h.made.IsZero() || lived > max(hubLived, h.wait):
		h.wait = hubWaitFirst
	case lived < h.wait:
		return false
	default:
		h.wait = min(2*h.wait, hubWaitMost)
	}
	h.made = now
	return true
}

// note keeps why the hub cannot be made and says whether that is news.
func (h *hubState) note(err error) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	var fault dspool.Reason
	if err != nil {
		fault = dspool.Why(dspool.WhyHubFails, dspool.ReasonParams{Detail: dspool.Clip(err.Error())})
	}
	news := !h.fault.Equal(fault)
	h.fault = fault
	return news
}

func (h *hubState) problems() []dspool.Reason {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.fault.IsZero() {
		return nil
	}
	return []dspool.Reason{h.fault}
}
