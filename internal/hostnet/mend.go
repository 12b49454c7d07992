package hostnet

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// Paces of mending.
var (
	settling = 50 * time.Millisecond // what is done together is mended together
	calming  = 10 * time.Second      // the most between two mendings of what somebody breaks again and again
	deepLook = time.Minute           // between two looks at everything, also within machines, of which the kernel tells nothing
)

// plugged is a machine that stands in the network with both its ends.
type plugged struct {
	ns *os.File // its network namespace; nil until the provider of a later server has told
}

// keeper mends what the kernel says has changed.
type keeper struct {
	links, rules chan struct{} // something may have changed
	deep         chan struct{} // a look at everything is wanted
	mended       chan string
	stopping     chan struct{}
	unlisten     []func()
	running      sync.WaitGroup
}

func hint(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// keep begins to mend.
func (n *Net) keep() error {
	k := &n.keeper
	for _, begin := range []func() (func(), error){
		func() (func(), error) { return n.wire.watchLinks(func() { hint(k.links) }) },
		func() (func(), error) { return watchTable(n.wire.installation, n.nftPort, func() { hint(k.rules) }) },
	} {
		stop, err := begin()
		if err != nil {
			return err
		}
		k.unlisten = append(k.unlisten, stop)
	}
	k.running.Go(n.keepRules)
	k.running.Go(n.keepLinks)
	return nil
}

func newKeeper() keeper {
	c := func() chan struct{} { return make(chan struct{}, 1) }
	return keeper{links: c(), rules: c(), deep: c(), mended: make(chan string, 64), stopping: make(chan struct{})}
}

func (k *keeper) stop() {
	close(k.stopping)
	for _, f := range k.unlisten {
		f()
	}
	k.running.Wait()
}

// Mended tells what somebody took or changed and is as it was again.
func (n *Net) Mended() <-chan string { return n.keeper.mended }

// tell leaves out what nobody has fetched in time: it is in the log too.
func (k *keeper) tell(what string) {
	slog.Warn("somebody changed the network of machines; it is as it was again", "what", what)
	select {
	case k.mended <- what:
	default:
	}
}

func (n *Net) keepRules() {
	for {
		select {
		case <-n.keeper.stopping:
			return
		case <-n.keeper.rules: // at once: machines may be open to each other
			n.restore()
		}
	}
}

func (n *Net) keepLinks() {
	k := &n.keeper
	tick := time.NewTicker(deepLook)
	defer tick.Stop()
	for wait := settling; ; {
		deep := false
		select {
		case <-k.stopping:
			return
		case <-k.links:
		case <-k.deep:
			deep = true
		case <-tick.C:
			deep = true
		}
		select {
		case <-k.stopping:
			return
		case <-time.After(wait):
		}
		select { // what was said meanwhile is seen too
		case <-k.links:
		default:
		}
		if n.mend(deep) {
			wait = min(2*wait, calming)
		} else {
			wait = settling
		}
	}
}

// mend looks at the host's network, with deep also at machines' own side, makes right what is wrong, and says
// whether anything was.
func (n *Net) mend(deep bool) bool {
	leave, err := n.enter()
	if err != nil {
		return false
	}
	defer leave()
	n.mu.RLock()
	standing := maps.Clone(n.plugged) // before the look, which then has all of them
	n.mu.RUnlock()
	what, v, err := n.mendHost()
	if v == nil {
		standing = nil // nothing can be said of machines
	}
	for _, machine := range slices.Sorted(maps.Keys(standing)) {
		names, failed := n.mendMachine(machine, standing[machine], v, deep)
		if err = errors.Join(err, failed); len(names) > 0 {
			what = append(what, machine+": "+strings.Join(names, ", "))
		}
	}
	if err != nil {
		slog.Error("the network of machines was changed and cannot be mended", "what", what, "error", err)
	} else if len(what) > 0 {
		n.keeper.tell(summary(what))
	}
	return len(what) > 0 || err != nil
}

// summary is short enough for an event.
func summary(what []string) string {
	const most = 8
	if more := len(what) - most; more > 0 {
		what = append(what[:most:most], fmt.Sprintf("and %d more machines", more))
	}
	return strings.Join(what, "; ")
}

// mendHost mends what all machines share, first: machines' routes name the gateway's address.
func (n *Net) mendHost() (what []string, v *view, err error) {
	if !sysctlIs("net/ipv4/ip_forward", "1") {
		what = append(what, "host: net.ipv4.ip_forward")
		err = enableForwarding()
	}
	v, failed := look(n.wire.h)
	if failed != nil {
		return what, nil, errors.Join(err, failed)
	}
	if faults := n.wire.gatewayEnd().faults(n.wire.h, v); len(faults) > 0 {
		what = append(what, "gateway: "+strings.Join(faults, ", "))
		if failed = n.wire.bridge(); failed == nil {
			v, failed = look(n.wire.h)
		}
	}
	return what, v, errors.Join(err, failed)
}

// mendMachine mends what is wrong with a machine's ends, unless it has been plugged or unplugged since p was true.
func (n *Net) mendMachine(machine string, p *plugged, v *view, deep bool) (what []string, err error) {
	defer n.plugs.lock(machine)()
	n.mu.RLock()
	r, still := n.machines[machine], n.plugged[machine] == p
	n.mu.RUnlock()
	if !still {
		return nil, nil
	}
	outer := n.wire.outerEnd(machine, r)
	l := v.links[outer.name]
	if p.ns == nil && l == nil {
		return nil, nil // its namespace is not known yet, or has died with it
	}
	what = outer.faults(n.wire.h, v)
	if p.ns == nil && len(what) > 0 {
		return what, outer.set(n.wire.h)
	}
	if deep && p.ns != nil && len(what) == 0 {
		what, err = n.wire.innerFaults(r, p.ns, l)
	}
	if err != nil || len(what) == 0 {
		return nil, err
	}
	return what, n.wire.plug(machine, r, p.ns)
}

// Adopt tells which process a machine of an earlier server has, so that its own side can be mended too.
func (n *Net) Adopt(machine string, pid int) error {
	leave, err := n.enter()
	if err != nil {
		return err
	}
	defer leave()
	defer n.plugs.lock(machine)()
	if _, known := n.Address(machine); !known {
		return nil // its state is lost, and its interface with it
	}
	ns, err := openNamespace(machine, pid)
	if err != nil {
		return fmt.Errorf("adopt machine %s: %w", machine, err)
	}
	n.stand(machine, &plugged{ns})
	hint(n.keeper.deep)
	return nil
}

// stand says that a machine is plugged, or with nil that it is not: nothing of it is mended then.
func (n *Net) stand(machine string, p *plugged) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if old := n.plugged[machine]; old != nil && old.ns != nil {
		old.ns.Close()
	}
	if p == nil {
		delete(n.plugged, machine)
	} else {
		n.plugged[machine] = p
	}
}

// restore writes the whole table.
func (n *Net) restore() {
	leave, err := n.enter()
	if err != nil {
		return
	}
	defer leave()
	n.mu.Lock()
	err = n.rules().replace(n.nft)
	n.mu.Unlock()
	if err != nil {
		slog.Error("the firewall rules of machines were changed and cannot be written again", "error", err)
		return
	}
	n.keeper.tell("firewall rules")
}
