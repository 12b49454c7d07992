// Package sockets reads the kernel's tables of TCP sockets: who listens, and whose connections are.
package sockets

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

// Socket is a TCP socket of this network namespace. An IPv4 address in IPv6 form is shown as IPv4.
type Socket struct {
	Local, Remote netip.AddrPort
	Listens       bool
	UID           int // of who made it; 0 also where no process has taken a connection yet
}

// stateListen is TCP_LISTEN in /proc/net/tcp; see include/net/tcp_states.h of Linux.
const stateListen = "0A"

// List returns all sockets. An error is one of reading the tables.
func List() (list []Socket, err error) {
	for _, file := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		text, err := os.ReadFile(file)
		if errors.Is(err, os.ErrNotExist) {
			continue // a kernel without IPv6
		}
		if err != nil {
			return nil, fmt.Errorf("read sockets: %w", err)
		}
		list = append(list, Parse(string(text))...)
	}
	return list, nil
}

// Parse reads a table with the columns of proc_pid_net(5): the third after the number is the state, and
// the seventh the user. Lines that are no socket's, such as the head, are passed over.
func Parse(table string) (list []Socket) {
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) < 8 {
			continue
		}
		local, ok1 := parseAddress(f[1])
		remote, ok2 := parseAddress(f[2])
		uid, err := strconv.Atoi(f[7])
		if ok1 && ok2 && err == nil {
			list = append(list, Socket{Local: local, Remote: remote, Listens: f[3] == stateListen, UID: uid})
		}
	}
	return list
}

// parseAddress reads an address as the kernel shows it: words of 32 bits in the order of the
// machine, which is little endian wherever dspool runs.
func parseAddress(s string) (netip.AddrPort, bool) {
	host, port, ok := strings.Cut(s, ":")
	raw, err := hex.DecodeString(host)
	p, err2 := strconv.ParseUint(port, 16, 16)
	if !ok || err != nil || err2 != nil || len(raw)%4 != 0 {
		return netip.AddrPort{}, false
	}
	for i := 0; i < len(raw); i += 4 {
		binary.BigEndian.PutUint32(raw[i:], binary.LittleEndian.Uint32(raw[i:]))
	}
	addr, ok := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(addr.Unmap(), uint16(p)), ok
}
