package control

import "sync"

// hub wakes those who wait for a topic. A wake is only a hint: whoever waits reads
// the store again, so a lost or needless wake costs time, never truth.
type hub struct {
	mu     sync.Mutex
	topics map[string]chan struct{}
}

func newHub() *hub { return &hub{topics: map[string]chan struct{}{}} }

// wait returns a channel that is closed at the topic's next wake. Take it before
// reading the store, so that nothing slips between.
func (h *hub) wait(topic string) <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	ch, ok := h.topics[topic]
	if !ok {
		ch = make(chan struct{})
		h.topics[topic] = ch
	}
	return ch
}

func (h *hub) wake(topics ...string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, t := range topics {
		if ch, ok := h.topics[t]; ok {
			close(ch)
			delete(h.topics, t)
		}
	}
}
