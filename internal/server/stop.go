package server

import (
	"context"
	"net"
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
	s.fresh.close()
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

// freshConns are the connections on which no request has come yet. Clients keep some in reserve,
// and Shutdown would wait 5 seconds for each to say something.
type freshConns struct {
	mu    sync.Mutex
	conns map[net.Conn]bool
}

func (f *freshConns) note(c net.Conn, state http.ConnState) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.conns == nil {
		f.conns = map[net.Conn]bool{}
	}
	if state == http.StateNew {
		f.conns[c] = true
	} else {
		delete(f.conns, c)
	}
}

func (f *freshConns) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for c := range f.conns {
		c.Close()
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
