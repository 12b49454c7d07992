package hostnet

import (
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"regexp"

	"github.com/dspool/dspool"
)

// anyPrefix begins the interface names of every installation.
const anyPrefix = "dsp"

// machineNIC is the interface inside a machine.
const machineNIC = "eth0"

var (
	installationPattern = regexp.MustCompile(`^[0-9a-f]{8}$`)
	machinePattern      = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
)

// bridgeName is also the prefix of all veth names: 11 characters, and 4 more stay
// within the kernel's 15.
func bridgeName(installation string) string { return anyPrefix + installation }

func tableName(installation string) string { return "dspool_" + installation }

// vethName follows from the address, so that it needs no record.
func vethName(installation string, offset int) string {
	return fmt.Sprintf("%s%04x", bridgeName(installation), offset)
}

// parseVeth is the inverse of vethName.
func parseVeth(installation, name string) (offset int, ok bool) {
	prefix := bridgeName(installation)
	if len(name) != len(prefix)+4 || name[:len(prefix)] != prefix {
		return 0, false
	}
	b, err := hex.DecodeString(name[len(prefix):])
	if err != nil {
		return 0, false
	}
	return int(b[0])<<8 | int(b[1]), true
}

// hwAddr gives both ends of a veth pair fixed, locally administered addresses.
func hwAddr(installation string, offset int, hostEnd bool) net.HardwareAddr {
	id, _ := hex.DecodeString(installation)
	first := byte(0x02)
	if hostEnd {
		first = 0x06
	}
	return net.HardwareAddr{first, id[1], id[2], id[3], byte(offset >> 8), byte(offset)}
}

// Names in the zone that stand for the machine door, beside N.app for the number of an app.
const (
	doorAPI   = "api"
	doorHub   = "hub"
	doorProxy = "proxy"
	doorApps  = "app"
)

var appPattern = regexp.MustCompile(`^[1-9][0-9]{0,18}\.` + doorApps + `$`)

// isDoor says whether a name within the zone is the machine door's.
func isDoor(name string) bool {
	return name == doorAPI || name == doorHub || name == doorProxy || appPattern.MatchString(name)
}

func checkMachine(name string) error {
	if isDoor(name) || name == doorApps {
		return dspool.Errorf(dspool.Invalid, "no machine can be called %s: machines reach the door of that name", name).WithHint("choose another name")
	}
	if machinePattern.MatchString(name) {
		return nil
	}
	return dspool.Errorf(dspool.Invalid, "machine name %s is not a host name", dspool.Quote(name)).
		WithHint("use 1 to 63 of a-z, 0-9 and inner \"-\"")
}

// addrAt returns the address at offset within p; offsetOf is its inverse.
func addrAt(p netip.Prefix, offset int) netip.Addr {
	return netip.AddrFrom4(be32(u32(p.Addr()) + uint32(offset)))
}

func offsetOf(p netip.Prefix, a netip.Addr) int { return int(u32(a) - u32(p.Addr())) }

func u32(a netip.Addr) uint32 {
	b := a.As4()
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}

func be32(v uint32) [4]byte { return [4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)} }

// size is the number of addresses in p, network and broadcast included.
func size(p netip.Prefix) int { return 1 << (32 - p.Bits()) }

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), 32)}
}

func hostNet(a netip.Addr) *net.IPNet { return ipNet(netip.PrefixFrom(a, 32)) }
