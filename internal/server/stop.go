package server

import (
	"context"
	"net/http"
	"sync"
	"time"
)

// stopWithin is how long requests under way may take to end.
const stopWithin = 5 * time.Second

// Close stops the server. Machines and what runs on them live on; the next server takes them over.
func (s *Server) Close() {
	if s.loopStop != nil {
		s.loopStop()
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopWithin)
	defer cancel()
	var closing sync.WaitGroup
	for _, srv := range s.servers {
		begun := make(chan struct{})
		srv.RegisterOnShutdown(sync.OnceFunc(func() { close(begun) })) // it runs at every Shutdown
		closing.Go(func() { shutdown(ctx, srv) })
		<-begun // from here on no connection takes another request
	}
	if s.Control != nil {
		s.Control.Stop() // who waits for something to change waits no more
	}
	closing.Wait()
	s.end()
}

func shutdown(ctx context.Context, srv *http.Server) {
	if srv.Shutdown(ctx) != nil {
		srv.Close()
	}
}

// Kill ends the server as its process's death would, as far as one process can play that:
// connections break, nothing more is written, and provider calls under way are left to themselves.
// It is for tests.
func (s *Server) Kill() {
	var broken sync.WaitGroup
	for _, srv := range s.servers {
		broken.Go(func() { srv.Close() })
	}
	broken.Go(func() { s.store.Close() })
	broken.Wait()
	s.loopStop()
	s.Control.Stop()
	s.end()
}

// end waits for what the server does in the background, and lets go of its state.
func (s *Server) end() {
	if s.Control != nil {
		s.Control.Close()
	}
	s.done.Wait()
	if s.store != nil {
		if err := s.store.Close(); err != nil {
			s.log.Error("close store", "err", err)
		}
	}
	if s.lock != nil {
		s.lock.Close()
	}
}
