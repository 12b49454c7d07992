package hostnet

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// keepBridge makes the bridge, its address and the subnet's route again when somebody removes them, as a
// network manager may: without them machines reach neither server nor names. What is bound to
// the address stays bound. It returns the function that ends it.
func keepBridge(n *Net) (stop func(), err error) {
	updates, done := make(chan netlink.LinkUpdate, 64), make(chan struct{})
	if err := netlink.LinkSubscribe(updates, done); err != nil {
		return nil, fmt.Errorf("watch interfaces: %w", err)
	}
	ended := make(chan struct{})
	name := bridgeName(n.wire.installation)
	go func() {
		defer close(ended)
		for u := range updates {
			if u.Header.Type != unix.RTM_DELLINK || u.Attrs().Name != name {
				continue
			}
			n.rebuildBridge(name)
		}
	}()
	return func() {
		close(done)
		<-ended
	}, nil
}

func (n *Net) rebuildBridge(name string) {
	leave, err := n.enter()
	if err != nil {
		return
	}
	defer leave()
	err = n.wire.bridge()
	n.mu.RLock()
	defer n.mu.RUnlock()
	for _, m := range n.machines { // their routes went with the address
		l, missing := n.wire.h.LinkByName(n.member(m).veth)
		if missing == nil {
			err = errors.Join(err, n.wire.route(l.Attrs().Index, m.Address))
		}
	}
	if err != nil {
		slog.Error("the bridge of machines was removed and cannot be made again", "bridge", name, "error", err)
		return
	}
	slog.Warn("somebody removed the bridge of machines; it is there again", "bridge", name)
}
