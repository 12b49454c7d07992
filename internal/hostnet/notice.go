package hostnet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync/atomic"

	"github.com/google/nftables"
	mdlayher "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// listen calls told with what the kernel says to groups of a netlink family, and lost when it said more than
// was heard. stop ends it.
func listen(family int, groups []uint32, told func(mdlayher.Message), lost func()) (stop func(), err error) {
	const buffer = 1 << 20
	c, err := mdlayher.Dial(family, nil)
	if err != nil {
		return nil, fmt.Errorf("listen to the kernel: %w", err)
	}
	err = c.SetReadBuffer(buffer)
	for _, g := range groups {
		err = errors.Join(err, c.JoinGroup(g))
	}
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("listen to the kernel: %w", err)
	}
	var closing atomic.Bool
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			messages, err := c.Receive()
			switch {
			case err == nil:
				for _, m := range messages {
					told(m)
				}
			case errors.Is(err, unix.ENOBUFS):
				lost()
			case closing.Load():
				return
			default:
				slog.Error("the kernel's news of the network of machines is no longer heard", "error", err)
				return
			}
		}
	}()
	return func() {
		closing.Store(true)
		c.Close()
		<-ended
	}, nil
}

// noticeGroups are those that say when links, neighbours, addresses and routes change, and which interfaces
// forward or have IPv6.
var noticeGroups = []uint32{
	unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV4_NETCONF,
	unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV6_IFINFO,
}

// ours sorts what the kernel tells of an installation's objects from the rest: a host's other networks change all the time.
type ours struct {
	prefix string // of interface names
	subnet netip.Prefix
	links  map[uint32]bool // by index: one that has been renamed is still ours
}

func (w *wire) ours() (*ours, error) {
	o := &ours{prefix: bridgeName(w.installation), subnet: w.subnet, links: map[uint32]bool{}}
	links, err := whole(w.h.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	for _, l := range links {
		if strings.HasPrefix(l.Attrs().Name, o.prefix) {
			o.links[uint32(l.Attrs().Index)] = true
		}
	}
	return o, nil
}

// netconfInterface is NETCONFA_IFINDEX: -1 is all interfaces, -2 those to come.
const netconfInterface = 1

// concerns says whether the message may be about something of ours.
func (o *ours) concerns(m mdlayher.Message) bool {
	index := func(at int) uint32 {
		if len(m.Data) < at+4 {
			return 0
		}
		return binary.NativeEndian.Uint32(m.Data[at:])
	}
	switch m.Header.Type {
	case unix.RTM_NEWLINK:
		i := index(4)
		if strings.HasPrefix(strings.TrimRight(string(attribute(m.Data, 16, unix.IFLA_IFNAME)), "\x00"), o.prefix) {
			o.links[i] = true
		}
		return o.links[i]
	case unix.RTM_DELLINK:
		i := index(4)
		known := o.links[i]
		delete(o.links, i)
		return known
	case unix.RTM_NEWADDR, unix.RTM_DELADDR, unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
		return o.links[index(4)]
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		if out := attribute(m.Data, 12, unix.RTA_OIF); len(out) == 4 && o.links[binary.NativeEndian.Uint32(out)] {
			return true
		}
		a, ok := netip.AddrFromSlice(attribute(m.Data, 12, unix.RTA_DST))
		return ok && o.subnet.Contains(a)
	case unix.RTM_NEWNETCONF:
		i := attribute(m.Data, 4, netconfInterface)
		return len(i) == 4 && (o.links[binary.NativeEndian.Uint32(i)] || int32(binary.NativeEndian.Uint32(i)) < 0)
	}
	return false
}

// attribute returns the value of one of the attributes that begin at an offset; nil if it is not there.
func attribute(data []byte, at int, kind uint16) []byte {
	if len(data) < at {
		return nil
	}
	attributes, err := mdlayher.UnmarshalAttributes(data[at:])
	if err != nil {
		return nil
	}
	for _, a := range attributes {
		if a.Type&^(mdlayher.Nested|mdlayher.NetByteOrder) == kind {
			return a.Data
		}
	}
	return nil
}

// watchLinks calls changed when something of ours in the host's network changes.
func (w *wire) watchLinks(changed func()) (stop func(), err error) {
	o, err := w.ours()
	if err != nil {
		return nil, err
	}
	return listen(unix.NETLINK_ROUTE, noticeGroups, func(m mdlayher.Message) {
		if o.concerns(m) {
			changed()
		}
	}, changed)
}

// watchTable calls changed when somebody else than the socket own writes to our table.
func watchTable(installation string, own uint32, changed func()) (stop func(), err error) {
	const subsystem, header = 10, 4 // NFNL_SUBSYS_NFTABLES; the bytes before the attributes
	name := tableName(installation)
	return listen(unix.NETLINK_NETFILTER, []uint32{unix.NFNLGRP_NFTABLES}, func(m mdlayher.Message) {
		if m.Header.Type>>8 != subsystem || m.Header.PID == own || len(m.Data) < header || m.Data[0] != byte(nftables.TableFamilyINet) {
			return
		}
		// The table's name is the first attribute of tables, chains, rules, sets and elements alike.
		if strings.TrimRight(string(attribute(m.Data, header, unix.NFTA_TABLE_NAME)), "\x00") == name {
			changed()
		}
	}, changed)
}
