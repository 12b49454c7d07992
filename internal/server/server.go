// Package server puts the parts together: store, control, provider, reconcile and the API. The
// binary runs it with the real parts, tests with the fake provider.
package server

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/auth"
	"github.com/dspool/dspool/internal/clock"
	"github.com/dspool/dspool/internal/config"
	"github.com/dspool/dspool/internal/control"
	"github.com/dspool/dspool/internal/httpapi"
	"github.com/dspool/dspool/internal/provider"
	"github.com/dspool/dspool/internal/reconcile"
	"github.com/dspool/dspool/internal/store"
	"golang.org/x/sys/unix"
)

// StoreFile is the store's name in the state directory.
const StoreFile = "state.db"

// Options is what a server runs with.
type Options struct {
	StateDir string
	Config   string // file to apply at start; "" keeps what is applied
	Version  string
	Log      *slog.Logger

	// Provider makes the provider once the installation is known.
	Provider func(ctx context.Context, installation string, own config.Server) (provider.Provider, error)
	// Images makes the image store; nil takes the one of ImageCache.
	Images     func(installation string) (control.Images, func(key string) string, error)
	ImageCache string
	Reserve    int64 // bytes that are kept for the state on its file system; 0 is none

	Clock       clock.Clock       // the host's unless given
	AgentListen string            // where agents are served; the provider says it unless given
	Reconcile   reconcile.Options // only its times
}

// Server is a running server.
type Server struct {
	Control *control.Control
	store   *store.Store
	lock    *os.File
	log     *slog.Logger

	apiAddr   net.Addr
	agentAddr net.Addr
	servers   []*http.Server
	fresh     freshConns
	reserve   *reserve
	loopStop  context.CancelFunc
	done      sync.WaitGroup
	failed    chan error
}

// Start starts a server. Close stops it.
func Start(ctx context.Context, o Options) (_ *Server, err error) {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	s := &Server{log: o.Log, failed: make(chan error, 8)}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	if err := os.MkdirAll(o.StateDir, 0o711); err != nil {
		return nil, fmt.Errorf("make state directory: %w", err)
	}
	if s.lock, err = Lock(o.StateDir); err != nil {
		return nil, err
	}
	s.reserve = &reserve{dir: o.StateDir, size: o.Reserve, log: o.Log}
	s.reserve.tend() // a full disk must not keep the state from being opened
	cfg, text, err := readConfig(o.Config)
	if err != nil {
		return nil, err
	}
	if o.Clock == nil {
		o.Clock = clock.Host()
	}
	if s.store, err = store.Open(ctx, filepath.Join(o.StateDir, StoreFile), store.WithClock(o.Clock), store.WithLog(o.Log)); err != nil {
		return nil, err
	}
	installation := s.store.Installation()
	ca, err := auth.OpenAuthority(filepath.Join(o.StateDir, "pki"), installation)
	if err != nil {
		return nil, err
	}
	sshCA, err := auth.OpenSSHAuthority(filepath.Join(o.StateDir, "pki"))
	if err != nil {
		return nil, err
	}
	images, imageDir, err := s.images(o, installation)
	if err != nil {
		return nil, err
	}
	own, err := s.ownConfig(ctx, cfg)
	if err != nil {
		return nil, err
	}
	prov, err := o.Provider(ctx, installation, own)
	if err != nil {
		return nil, fmt.Errorf("open provider: %w", err)
	}
	s.Control = control.New(control.Options{
		Store: s.store, Authority: ca, SSH: sshCA, HostNames: hostNames(own), Images: images, StateDir: o.StateDir, Version: o.Version,
		Capacity: prov.Capabilities().Capacity, DoorListen: prov.Capabilities().DoorListen, Log: o.Log, Prepare: prepare(prov),
	})
	loop := s.newLoop(o, prov, imageDir)
	if err := loop.Survey(ctx); err != nil {
		s.log.Warn("the provider was not asked before the start", "err", err) // the loop asks again
	}
	if err := s.Control.FollowStateDir(ctx); err != nil {
		return nil, fmt.Errorf("follow the state directory: %w", err)
	}
	if err := s.Control.ResumeBuilds(ctx); err != nil {
		return nil, fmt.Errorf("resume image builds: %w", err)
	}
	if cfg != nil {
		_, err := s.Control.Apply(ctx, auth.Subject{Admin: true}, api.ApplyRequest{Name: o.Config, Dir: filepath.Dir(absolute(o.Config)), Text: text})
		if err != nil {
			return nil, fmt.Errorf("apply %s: %w", o.Config, err)
		}
	} else if err := s.Control.EnsureImages(ctx); err != nil {
		return nil, err
	}
	link, err := s.serveAgents(ca, cmp.Or(o.AgentListen, prov.Capabilities().AgentListen))
	if err != nil {
		return nil, err
	}
	if err := s.serveAPI(o, ca, own); err != nil {
		return nil, err
	}
	s.reconcile(loop, ca, link)
	return s, nil
}

func (s *Server) images(o Options, installation string) (control.Images, func(string) string, error) {
	if o.Images != nil {
		return o.Images(installation)
	}
	images, err := newImageStore(o.ImageCache, o.StateDir, installation)
	if err != nil {
		return nil, nil, err
	}
	return images, images.Dir, nil
}

// Lock keeps a second server out of a state directory until the file is closed.
func Lock(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "server.lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock state directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, dspool.Errorf(dspool.Conflict, "another server runs in %s", dir).
			WithHint("stop it, or give this one another --state-dir")
	}
	return f, nil
}

func absolute(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}

func readConfig(file string) (*config.Config, string, error) {
	if file == "" {
		return nil, "", nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, "", dspool.Errorf(dspool.Invalid, "the configuration cannot be read: %w", err)
	}
	cfg, problems := config.Parse(file, text, filepath.Dir(absolute(file)))
	for _, p := range problems {
		fmt.Fprintln(os.Stderr, p)
	}
	return cfg, string(text), config.Err(problems)
}

// ownConfig is how the server itself runs: as the file says or, without one, as the one applied last did.
func (s *Server) ownConfig(ctx context.Context, cfg *config.Config) (own config.Server, err error) {
	if cfg != nil {
		return cfg.Server, nil
	}
	err = s.store.Read(ctx, func(tx *store.Tx) error {
		own, err = control.ServerSettings(tx)
		return err
	})
	return own, err
}

// serveAgents serves the agent link and returns its URL.
func (s *Server) serveAgents(ca *auth.Authority, addr string) (string, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return "", fmt.Errorf("listen for agents: %w", err)
	}
	s.serve(limitLink(l, withHTTP2(ca.AgentTLS(s.store.Now))), httpapi.AgentHandler(s.Control), "agent link")
	s.agentAddr = l.Addr()
	return "https://" + l.Addr().String(), nil
}

func withHTTP2(c *tls.Config) *tls.Config {
	c.NextProtos = []string{"h2", "http/1.1"}
	return c
}

func (s *Server) serveAPI(o Options, ca *auth.Authority, own config.Server) error {
	rest := httpapi.New(s.Control, ca.PEM())
	socket, err := listenSocket(filepath.Join(o.StateDir, "dspool.sock"), o.Log)
	if err != nil {
		return err
	}
	s.serve(socket, rest.SocketHandler(), "socket")
	gateway, err := listenSocket(filepath.Join(o.StateDir, "gateway.sock"), o.Log)
	if err != nil {
		return err
	}
	s.serve(gateway, httpapi.GatewayHandler(s.Control), "gateway link")
	pages, err := s.newPortal(o, ca, rest)
	if err != nil {
		return err
	}
	door, err := listenSocket(filepath.Join(o.StateDir, "portal.sock"), o.Log)
	if err != nil {
		return err
	}
	s.serve(door, pages.DoorHandler(), "portal")
	if own.Listen == "" {
		o.Log.Warn("no configuration was ever applied here: the API is served on the host's socket only", "socket", socket.Addr().String())
		return nil
	}
	tlsConfig, err := apiTLS(ca, own, s.Control.HostNames, s.store.Now)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", own.Listen)
	if err != nil {
		return dspool.Errorf(dspool.Conflict, "cannot serve the API: %w", err).
			WithHint("another server may run here: give server.listen another port")
	}
	s.apiAddr = l.Addr()
	s.serve(tls.NewListener(l, withHTTP2(tlsConfig)), pages.Handler(), "API and portal")
	o.Log.Info("serving", "api", "https://"+l.Addr().String(), "socket", socket.Addr().String(), "installation", s.store.Installation())
	return nil
}

// hostNames are the names by which people reach this server.
func hostNames(own config.Server) []string {
	names := append([]string{"localhost", "127.0.0.1", "::1"}, own.Names...)
	if host, _, err := net.SplitHostPort(own.Listen); err == nil && host != "" {
		if ip := net.ParseIP(host); (ip == nil || !ip.IsUnspecified()) && !slices.Contains(names, host) {
			names = append(names, host)
		}
	}
	if name, err := os.Hostname(); err == nil && !slices.Contains(names, name) {
		names = append(names, name)
	}
	return names
}

func apiTLS(ca *auth.Authority, c config.Server, names []string, now func() time.Time) (*tls.Config, error) {
	if c.Certificate != "" {
		cert, err := tls.LoadX509KeyPair(c.Certificate, c.Key)
		if err != nil {
			return nil, dspool.Errorf(dspool.Invalid, "server.certificate and server.key cannot be used: %w", err)
		}
		return &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert}}, nil
	}
	return ca.ServerTLS(names, now), nil
}

func (s *Server) serve(l net.Listener, h http.Handler, what string) {
	srv := &http.Server{
		Handler: h, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	s.servers = append(s.servers, srv)
	srv.ConnState = s.fresh.note
	s.done.Go(func() {
		if err := srv.Serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) {
			s.failed <- fmt.Errorf("serve %s: %w", what, err)
		}
	})
}

func (s *Server) newLoop(o Options, prov provider.Provider, imageDir func(string) string) *reconcile.Loop {
	ro := o.Reconcile
	ro.Store, ro.Control, ro.Provider, ro.ImageDir, ro.Log = s.store, s.Control, prov, imageDir, s.log
	return reconcile.New(ro)
}

// reconcile runs the loop until the server stops.
func (s *Server) reconcile(loop *reconcile.Loop, ca *auth.Authority, link string) {
	loop.Boot = func(machine string) (provider.AgentBoot, error) {
		token, err := ca.EnrolToken(machine)
		return provider.AgentBoot{URL: link, ServerName: auth.AgentServerName, CA: string(ca.PEM()), Token: token}, err
	}
	var ctx context.Context
	ctx, s.loopStop = context.WithCancel(context.Background())
	s.Control.WatchProblems(func() []dspool.Reason { return slices.Concat(loop.Problems(), s.reserve.problems()) })
	s.done.Go(func() { s.reserve.run(ctx) })
	s.done.Go(func() {
		if err := loop.Run(ctx); err != nil && ctx.Err() == nil {
			s.failed <- fmt.Errorf("reconcile: %w", err)
		}
	})
}

// Addr is where the API is served; nil when only on the socket.
func (s *Server) Addr() net.Addr { return s.apiAddr }

// AgentAddr is where agents are served.
func (s *Server) AgentAddr() net.Addr { return s.agentAddr }

// Failed yields the fault that ended a part of the server that should not end.
func (s *Server) Failed() <-chan error { return s.failed }
