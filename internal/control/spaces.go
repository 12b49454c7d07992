package control

import (
	"sync"
	"time"
)

// spaces knows how much may still be written to shares without ever waiting for one for long: a
// network file system whose server is away answers no question, and takes whoever asks with it.
type spaces struct {
	mu    sync.Mutex
	known map[string]*space
	ask   func(path string) (total, free int64, err error)
}

type space struct {
	free  int64
	ok    bool
	at    time.Time
	asked chan struct{} // closed when the question under way is answered; nil when none is
}

const (
	spaceGood    = 30 * time.Second
	fullGood     = 2 * time.Second // where somebody waits to see that there is room again
	spacePatient = 50 * time.Millisecond
)

func newSpaces() *spaces { return &spaces{known: map[string]*space{}, ask: spaceOf} }

// free is what users may still write below a path, in bytes, as it was not long ago. It is not known
// of a file system that does not answer.
func (s *spaces) free(path string) (bytes int64, ok bool) {
	s.mu.Lock()
	sp := s.known[path]
	if sp == nil {
		sp = &space{}
		s.known[path] = sp
	}
	good := spaceGood
	if sp.free < shareFull {
		good = fullGood
	}
	if time.Since(sp.at) < good {
		defer s.mu.Unlock()
		return sp.free, sp.ok
	}
	fresh := sp.asked == nil
	if fresh {
		sp.asked = make(chan struct{})
		go s.find(path, sp)
	}
	asked := sp.asked
	s.mu.Unlock()
	if !fresh { // somebody has waited already
		return 0, false
	}
	t := time.NewTimer(spacePatient)
	defer t.Stop()
	select {
	case <-asked:
	case <-t.C:
		return 0, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return sp.free, sp.ok
}

func (s *spaces) find(path string, sp *space) {
	_, free, err := s.ask(path)
	s.mu.Lock()
	defer s.mu.Unlock()
	sp.free, sp.ok, sp.at = free, err == nil, time.Now()
	close(sp.asked)
	sp.asked = nil
}
