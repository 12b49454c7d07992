package control

import "sync"

// hub wakes those who wait for a topic. A wake is only a hint: whoever waits reads
// the store again, so a lost or needless wake costs time, never truth.
type hub struct {
	mu     sync.Mutex
	topics map[string]chan struct{}
}

// maxTopics is how many topics are waited for at most; one more wakes everybody.
const maxTopics = 10_000

func newHub() *hub { return &hub{topics: map[string]chan struct{}{}} }

// wait returns a channel that is closed at the topic's next wake. Take it before
// reading the store, so that nothing slips between.
func (h *hub) wait(topic string) <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	ch, ok := h.topics[topic]
	if !ok {
		// A topic that is never woken again, such as that of a job that has ended, would stay for ever.
		if len(h.topics) >= maxTopics {
			for _, old := range h.topics {
				close(old)
			}
			clear(h.topics)
		}
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
