package hostnet

import (
	"fmt"
	"log/slog"
	"slices"
	"sync"

	"github.com/google/nftables"
)

// watcher writes the table again when somebody removes it: a host that reloads
// its firewall with "flush ruleset" would otherwise open every machine.
type watcher struct {
	mu      sync.Mutex
	monitor *nftables.Monitor
	stopped bool
	done    chan struct{}
}

func watch(n *Net) (*watcher, error) {
	w := &watcher{done: make(chan struct{})}
	events, err := w.subscribe()
	if err != nil {
		return nil, err
	}
	go func() {
		defer close(w.done)
		for events != nil {
			for e := range events {
				if slices.ContainsFunc(e.Changes, mayRemoveTable) {
					n.restore()
				}
			}
			// The kernel ended the subscription, having lost events.
			if events, err = w.subscribe(); err != nil {
				slog.Error("the firewall rules of machines are no longer watched", "error", err)
			} else if events != nil {
				n.restore()
			}
		}
	}()
	return w, nil
}

func mayRemoveTable(e *nftables.MonitorEvent) bool {
	return e.Type == nftables.MonitorEventTypeDelTable || e.Type == nftables.MonitorEventTypeOOB
}

// subscribe returns nil once w is stopped.
func (w *watcher) subscribe() (chan *nftables.MonitorEvents, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stopped {
		return nil, nil
	}
	c, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("watch nft: %w", err)
	}
	w.monitor = nftables.NewMonitor(nftables.WithMonitorAction(nftables.MonitorActionAny), nftables.WithMonitorObject(nftables.MonitorObjectTables))
	events, err := c.AddGenerationalMonitor(w.monitor)
	if err != nil {
		return nil, fmt.Errorf("watch nft: %w", err)
	}
	return events, nil
}

func (w *watcher) stop() {
	w.mu.Lock()
	w.stopped = true
	w.monitor.Close()
	w.mu.Unlock()
	<-w.done
}

// restore writes the table when it is missing.
func (n *Net) restore() {
	leave, err := n.enter()
	if err != nil {
		return
	}
	defer leave()
	n.mu.Lock()
	defer n.mu.Unlock()
	name := tableName(n.wire.installation)
	tables, err := n.nft.ListTablesOfFamily(nftables.TableFamilyINet)
	if err == nil && slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == name }) {
		return
	}
	if err := n.rules().replace(n.nft); err != nil {
		slog.Error("the firewall rules of machines were removed and cannot be written again", "table", name, "error", err)
		return
	}
	slog.Warn("somebody removed the firewall rules of machines; they are written again", "table", name)
}
