// Package servertest runs the whole system in one process: the real server and the real agent,
// over a fake provider whose machines are scripts.
package servertest

import (
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/client"
	"github.com/dspool/dspool/internal/agent/agenttest"
	"github.com/dspool/dspool/internal/agent/initd"
	"github.com/dspool/dspool/internal/clock"
	"github.com/dspool/dspool/internal/config"
	"github.com/dspool/dspool/internal/control"
	"github.com/dspool/dspool/internal/provider"
	"github.com/dspool/dspool/internal/provider/fake"
	"github.com/dspool/dspool/internal/reconcile"
	"github.com/dspool/dspool/internal/server"
)

// Config is a team with a pool at zero, whose machines go after a moment without work.
const Config = `
server: {listen: "127.0.0.1:0"}
users: {list: [{name: ada}, {name: bob}, {name: grace, admin: true}]}
defaults: {user: ada, pool: batch, jobs_share: team}
sizes:
  small: {cpus: 1, memory: 2GiB, disk: 1GiB, price: 3.6}
  large: {cpus: 4, memory: 8GiB, disk: 1GiB, price: 14.4}
shares:
  home: {kind: dir, mount: /home}
  team: {kind: dir}
images: {UbuntuDSVM: {}}
pools:
  batch: {kind: batch, image: UbuntuDSVM, sizes: [small, large], min: 0, max: 4, shares: [home, team], policy: {idle_after: 200ms, start_timeout: 30s}}
`

// MachineDoor is where machines would find the gateway, which no System has.
const MachineDoor = "10.80.0.1:8445"

// Options of a System. The zero value is right for most tests.
type Options struct {
	Config string                                               // team.yaml; Config unless given
	Script func(spec provider.MachineSpec, try int) fake.Script // what is special about machines
	Tasks  func(initd.Spec) agenttest.Outcome                   // how attempts go; agenttest.Commands unless given
	Images control.Images                                       // images that are always there unless given
	Silent time.Duration                                        // after which an agent counts as silent; as in life unless given
	// CreateWithin is how long the provider may take to make a machine; as in life unless given.
	CreateWithin time.Duration
	Clock        clock.Clock // of the host, for the server; this one's unless given
	Log          bool        // to the test's output
	LogTo        io.Writer   // all that the server logs, whatever its level
}

// System is a running system.
type System struct {
	*client.Client // as the host's root
	t              testing.TB
	o              Options
	Dir            string
	Server         *server.Server
	Provider       *fake.Provider
	Steps          *Steps // where the system can be stopped

	mu       sync.Mutex
	machines map[string]*agenttest.Machine
	kills    map[string]context.CancelFunc // of the agents that run
}

// New starts a system that ends with the test.
func New(t testing.TB, o Options) *System {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: the server makes users' folders, which only root can")
	}
	if o.Config == "" {
		o.Config = Config
	}
	if o.Images == nil {
		o.Images = Images{}
	}
	s := &System{
		t: t, o: o, Dir: t.TempDir(), Steps: newSteps(),
		machines: map[string]*agenttest.Machine{}, kills: map[string]context.CancelFunc{},
	}
	if err := os.WriteFile(s.configFile(), []byte(o.Config), 0o644); err != nil {
		t.Fatal(err)
	}
	s.Provider = fake.New(fake.Config{Boot: s.boot, Script: o.Script, DoorListen: MachineDoor})
	t.Cleanup(func() { s.Provider.Close() })
	s.Start()
	t.Cleanup(func() { s.Server.Close() })
	return s
}

func (s *System) configFile() string { return filepath.Join(s.Dir, "team.yaml") }

// ConfigRequest asks to apply a text as if it stood in the system's file.
func (s *System) ConfigRequest(text string) api.ApplyRequest {
	return api.ApplyRequest{Name: s.configFile(), Dir: s.Dir, Text: text}
}

// Start starts the server, also after Stop or Kill: machines are still there.
func (s *System) Start() {
	s.t.Helper()
	s.start(s.configFile())
}

// StartWithoutFile starts the server on what was applied last.
func (s *System) StartWithoutFile() {
	s.t.Helper()
	s.start("")
}

// Move moves the state directory of a server that has stopped.
func (s *System) Move(dir string) {
	s.t.Helper()
	if err := os.Rename(s.Dir, dir); err != nil {
		s.t.Fatal(err)
	}
	s.Dir = dir
}

func (s *System) start(file string) {
	s.t.Helper()
	log := slog.New(slog.DiscardHandler)
	switch {
	case s.o.Log:
		log = slog.New(slog.NewTextHandler(s.t.Output(), nil))
	case s.o.LogTo != nil:
		log = slog.New(slog.NewJSONHandler(s.o.LogTo, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	srv, err := server.Start(s.t.Context(), server.Options{
		StateDir: s.Dir, Config: file, Version: "test", Log: log, Clock: s.o.Clock,
		AgentListen: s.agentListen(),
		Provider: func(context.Context, string, config.Server) (provider.Provider, error) {
			return &probe{Provider: s.Provider, steps: s.Steps}, nil
		},
		Images: func(string) (control.Images, func(string) string, error) {
			return s.o.Images, func(string) string { return "/" }, nil
		},
		Reconcile: reconcile.Options{ObserveEvery: 50 * time.Millisecond, SilentAfter: s.o.Silent, CreateWithin: s.o.CreateWithin},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	s.Server = srv
	s.Client, err = client.New(client.Options{Socket: filepath.Join(s.Dir, "dspool.sock")})
	if err != nil {
		s.t.Fatal(err)
	}
}

// agentListen is where the server serves agents: the same port after a restart, so that agents
// find it again.
func (s *System) agentListen() string {
	if s.Server == nil {
		return ""
	}
	return s.Server.AgentAddr().String()
}

// Stop stops the server as an administrator does.
func (s *System) Stop() { s.Server.Close() }

// Kill ends the server as kill -9 would.
func (s *System) Kill() { s.Server.Kill() }

// Restart stops the server and starts the next one on the same state.
func (s *System) Restart() {
	s.t.Helper()
	s.Stop()
	s.Start()
}

// As returns a client with a new token of a user, over TLS.
func (s *System) As(user string) *client.Client {
	s.t.Helper()
	token, err := s.AddToken(s.t.Context(), api.AddTokenRequest{User: user})
	if err != nil {
		s.t.Fatal(err)
	}
	return s.WithToken(token.Secret)
}

// WithToken returns a client that shows a secret, over TLS.
func (s *System) WithToken(secret string) *client.Client {
	s.t.Helper()
	ca, err := s.CA(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	c, err := client.New(client.Options{URL: "https://" + s.Server.Addr().String(), Token: secret, CA: ca})
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}
