package main

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dspool/dspool"
)

func TestDoctorLooksAtDoors(t *testing.T) {
	t.Parallel()
	look := func(listen string) (ok bool, detail string) {
		f := checkDoors([]dspool.Door{{Listen: listen, Protocol: dspool.ProtocolWeb}})[0]
		if !f.OK && f.Fix == "" || f.Fatal {
			t.Errorf("%+v", f)
		}
		return f.OK, f.Detail
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	taken := l.Addr().String()
	t.Cleanup(func() { l.Close() })

	t.Run("a door that this program keeps is well", func(t *testing.T) {
		if ok, detail := look(taken); !ok || !strings.Contains(detail, filepath.Base(os.Args[0])) {
			t.Errorf("%v %s", ok, detail)
		}
	})
	t.Run("an address that the host has not is said", func(t *testing.T) {
		if ok, _ := look("192.0.2.1:8000"); ok {
			t.Error("well")
		}
	})
	t.Run("a free port is free", func(t *testing.T) {
		if ok, detail := look("127.0.0.1:0"); !ok || detail != "free" {
			t.Errorf("%v %s", ok, detail)
		}
	})
	t.Run("who listens at a port is found by its number alone", func(t *testing.T) {
		_, port, _ := net.SplitHostPort(taken)
		if name, pid := listenerAt(":" + port); pid != os.Getpid() || name != filepath.Base(os.Args[0]) {
			t.Errorf("%s %d", name, pid)
		}
	})
}

func TestDoctorReadsTheDoorsOfAFile(t *testing.T) {
	t.Parallel()
	doors, domain, err := doorsToCheck("")
	if err != nil || len(doors) != 1 || doors[0].Listen != "127.0.0.1:8000" || domain != "localhost" {
		t.Errorf("%v %s %v", doors, domain, err)
	}
	file := filepath.Join(t.TempDir(), "team.yaml")
	text := "sizes: {s: {cpus: 1, memory: 1GiB}}\nshares: {team: {}}\npools: {p: {sizes: [s], shares: [team]}}\nweb: {domain: pool.example.org}\n" +
		"doors: [{listen: ':22', pool: p}, {listen: ':443', protocol: web, pool: p}]\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if doors, domain, err = doorsToCheck(file); err != nil || len(doors) != 2 || domain != "pool.example.org" {
		t.Errorf("%v %s %v", doors, domain, err)
	}
	if err := os.WriteFile(file, []byte("doors: 7"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err = doorsToCheck(file); dspool.ErrorCode(err) != dspool.Invalid {
		t.Error(err)
	}
}

func TestNamesBelowLocalhostAreAHintAtMost(t *testing.T) {
	t.Parallel()
	if f := checkNames(t.Context(), "localhost"); !f.OK {
		t.Errorf("%+v", f)
	}
}
