package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/config"
	"github.com/dspool/dspool/internal/provider"
)

// usualDoor is what a web door listens at in examples/team.yaml.
const usualDoor = "127.0.0.1:8000"

// doorsToCheck are the doors of a file, or the usual web door without one, and the file's domain.
func doorsToCheck(file string) (doors []dspool.Door, domain string, err error) {
	if file == "" {
		return []dspool.Door{{Listen: usualDoor, Protocol: dspool.ProtocolWeb}}, config.DefaultDomain, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, "", err
	}
	dir, err := filepath.Abs(filepath.Dir(file))
	if err != nil {
		return nil, "", err
	}
	cfg, problems := config.Parse(file, text, dir)
	if err := config.Err(problems); err != nil {
		return nil, "", err
	}
	return cfg.Doors, cfg.Web.Domain, nil
}

// checkDoors says which doors cannot be opened, because another program listens there.
func checkDoors(doors []dspool.Door) []provider.Finding {
	var out []provider.Finding
	for _, d := range doors {
		f := provider.Finding{Subject: string(d.Protocol) + " door " + d.Listen, OK: true, Detail: "free"}
		l, err := net.Listen("tcp", d.Listen)
		switch {
		case err == nil:
			l.Close()
		case errors.Is(err, syscall.EADDRINUSE):
			who, pid := listenerAt(d.Listen)
			if who == filepath.Base(self()) {
				f.Detail = fmt.Sprintf("kept by %s (process %d)", who, pid)
				break
			}
			f.OK, f.Detail = false, "another program listens there"
			if pid != 0 {
				f.Detail = fmt.Sprintf("%s (process %d) listens there", who, pid)
			}
			f.Fix = "end that program, or give the door another port under doors in the configuration"
		default:
			f.OK, f.Detail, f.Fix = false, err.Error(), "give the door an address of this host under doors in the configuration"
		}
		out = append(out, f)
	}
	return out
}

// listenerAt finds the program that listens at the port of an address, on whatever address of the host: its
// file's name and process. Without either it is unknown, as is that of another user to anybody but root.
func listenerAt(address string) (name string, pid int) {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0
	}
	sockets := map[string]bool{}
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		listeningSockets(table, port, sockets)
	}
	fds, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return "", 0
	}
	for _, fd := range fds {
		target, err := os.Readlink(fd)
		if err != nil || !sockets[target] {
			continue
		}
		proc := filepath.Dir(filepath.Dir(fd))
		exe, err := os.Readlink(filepath.Join(proc, "exe"))
		if err != nil {
			continue
		}
		pid, _ = strconv.Atoi(filepath.Base(proc))
		// A program that was replaced while it ran.
		return strings.TrimSuffix(filepath.Base(exe), " (deleted)"), pid
	}
	return "", 0
}

// listeningSockets adds what /proc/PID/fd shows of the listening sockets at a port. In a line of the table,
// the 2nd field is ADDRESS:PORT in hex, the 4th the state (0A is listening) and the 10th the inode (proc(5)).
func listeningSockets(table, port string, into map[string]bool) {
	f, err := os.Open(table)
	if err != nil {
		return
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 10 || fields[3] != "0A" {
			continue
		}
		_, hex, _ := strings.Cut(fields[1], ":")
		if n, err := strconv.ParseUint(hex, 16, 16); err == nil && strconv.FormatUint(n, 10) == port {
			into["socket:["+fields[9]+"]"] = true
		}
	}
}

// nameLookup bounds asking the host for a name.
const nameLookup = 3 * time.Second

// checkNames says whether programs on this host find the domain's names. For *.localhost that is a hint at
// most: browsers take these names for this computer without asking (RFC 6761, section 6.3).
func checkNames(ctx context.Context, domain string) provider.Finding {
	name := "hub." + domain
	f := provider.Finding{Subject: "names below " + domain, OK: true, Detail: name + " is found"}
	ctx, cancel := context.WithTimeout(ctx, nameLookup)
	defer cancel()
	// By the host's own way, whatever /etc/nsswitch.conf says.
	out, err := exec.CommandContext(ctx, "getent", "ahosts", name).Output()
	switch {
	case errors.Is(err, exec.ErrNotFound):
		f.Detail = "not looked at: this host has no getent"
	case err == nil && len(out) > 0:
	case domain == "localhost" || strings.HasSuffix(domain, ".localhost"):
		f.Detail = name + " is not found by programs of this host, such as curl; browsers find it by themselves (for programs: apt install libnss-myhostname)"
	default:
		f.OK, f.Detail = false, name+" is not found"
		f.Fix = "in the domain's DNS, give " + domain + ", " + name + " and *." + name + " the address of this host"
	}
	return f
}
