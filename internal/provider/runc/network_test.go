package runc_test

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dspool/dspool/internal/hostnet"
	"github.com/dspool/dspool/internal/provider/runc"
)

// openOnNetwork is open with the network that a server has.
func openOnNetwork(t *testing.T) *world {
	t.Helper()
	return open(t, func(c *runc.Config) {
		network, err := hostnet.Open(t.Context(), hostnet.Options{Installation: c.Installation, StateDir: filepath.Join(c.StateDir, "net"), AgentPort: 8444, DoorPort: 8445})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { network.Close() }) // after the installation's removal, which open registers later
		c.Network = network
	})
}

func TestNetwork(t *testing.T) {
	t.Parallel()
	needRoot(t)
	w := openOnNetwork(t)
	one, two := w.create(w.spec("m-1")), w.create(w.spec("m-2"))
	if one.Address == two.Address {
		t.Fatalf("both have address %s", one.Address)
	}
	w.inBackground("m-1", 0, "listen", ":7777")
	address := one.Address.String() + ":7777"

	t.Run("a machine reaches itself by its name", func(t *testing.T) {
		w.eventually("it listens", func() bool {
			out, err := w.inside("m-1", 20000, "dial", "m-1:7777")
			return err == nil && out == "connected"
		})
	})
	t.Run("a machine reaches the door that the capabilities name", func(t *testing.T) {
		l, err := net.Listen("tcp", w.Capabilities().DoorListen)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if out, err := w.inside("m-1", 20000, "dial", "1.app.dspool.internal:8445"); err != nil || out != "connected" {
			t.Errorf("%q, %v", out, err)
		}
	})
	t.Run("a machine does not reach another", func(t *testing.T) {
		w.refused("m-2", 20000, "dial", address)
		w.refused("m-2", 0, "dial", address)
	})
	t.Run("a machine does not reach the host's ports", func(t *testing.T) {
		for _, port := range []string{"22", "8443", "80"} {
			w.refused("m-1", 0, "dial", w.cfg.Network.Gateway().String()+":"+port)
		}
	})
	t.Run("a destroyed machine's interface is gone", func(t *testing.T) {
		before := interfaces(t)
		if err := w.Destroy(t.Context(), "m-2"); err != nil {
			t.Fatal(err)
		}
		w.eventually("an interface is gone", func() bool { return len(interfaces(t)) < len(before) })
	})
}

func interfaces(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir("/sys/class/net")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, strings.TrimSpace(e.Name()))
	}
	return names
}
