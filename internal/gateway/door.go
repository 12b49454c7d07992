package gateway

import (
	"errors"
	"net"
	"os"
	"sync"
	"time"

	"github.com/dspool/dspool"
)

// outerKeepAlive lets a laptop sleep for a quarter of an hour.
var outerKeepAlive = net.KeepAliveConfig{Enable: true, Idle: 5 * time.Minute, Interval: time.Minute, Count: 10}

// doors listen where the server wants them to.
type doors struct {
	g      *gateway
	mu     sync.Mutex
	open   map[string]*door // by dspool.Door.Listen
	failed map[string]error
	wanted []dspool.Door
	again  *time.Timer
	closed bool
	over   chan struct{} // closed when the doors close
	news   chan struct{} // closed and replaced when other sockets are open

	accepting sync.WaitGroup
}

type door struct {
	listener *net.TCPListener
	wanted   dspool.Door
}

// tryAgain is after how long an address that could not be listened at is tried again.
const tryAgain = 5 * time.Second

func newDoors(g *gateway) *doors {
	return &doors{g: g, open: map[string]*door{}, failed: map[string]error{}, news: make(chan struct{}), over: make(chan struct{})}
}

// set opens and closes doors until they are the wanted ones; connections through a closed one go on.
func (d *doors) set(wanted []dspool.Door) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return
	}
	d.wanted = wanted
	d.failed = map[string]error{}
	keep := map[string]bool{}
	for _, w := range wanted {
		if w.Protocol != dspool.ProtocolSSH && w.Protocol != dspool.ProtocolWeb && w.Protocol != protocolMachine {
			continue
		}
		keep[w.Listen] = true
		if o := d.open[w.Listen]; o != nil && o.wanted.Protocol == w.Protocol {
			o.wanted = w
			continue
		} else if o != nil {
			o.listener.Close() // it speaks another protocol from now on
			delete(d.open, w.Listen)
		}
		config := net.ListenConfig{KeepAliveConfig: outerKeepAlive}
		l, err := config.Listen(d.g.ctx, "tcp", w.Listen)
		if err != nil {
			d.failed[w.Listen] = err
			d.g.Log.Error("open door", "listen", w.Listen, "err", err)
			continue
		}
		d.start(l.(*net.TCPListener), w)
	}
	for listen, o := range d.open {
		if !keep[listen] {
			o.listener.Close()
			delete(d.open, listen)
			d.changed()
			d.g.Log.Info("door closed", "listen", listen)
		}
	}
	if len(d.failed) > 0 {
		if d.again != nil {
			d.again.Stop()
		}
		d.again = time.AfterFunc(tryAgain, func() {
			d.mu.Lock()
			wanted := d.wanted
			d.mu.Unlock()
			d.set(wanted)
		})
	}
}

// start serves a listener; d.mu is held.
func (d *doors) start(l *net.TCPListener, w dspool.Door) {
	o := &door{listener: l, wanted: w}
	d.open[w.Listen] = o
	d.g.Log.Info("door open", "listen", w.Listen, "address", l.Addr().String(), "protocol", w.Protocol, "pool", w.Pool)
	d.accepting.Go(func() {
		switch {
		case !d.knows():
		case w.Protocol == dspool.ProtocolSSH:
			d.accept(o)
		default:
			d.g.web.accept(l, w)
		}
	})
	d.changed()
}

// knows waits until the gateway knows whom to trust and what the web's names are: who comes to an inherited
// socket before is not turned away, but waits. It is false when the doors close first.
func (d *doors) knows() bool {
	select {
	case <-d.g.begun:
		return true
	case <-d.over:
	case <-d.g.ctx.Done():
	}
	return false
}

// protocolMachine is that of the machine door, which is kept like the others and is none of people's.
const protocolMachine dspool.Protocol = "machine"

// changed tells those who hold the listening sockets that there are others; d.mu is held.
func (d *doors) changed() {
	close(d.news)
	d.news = make(chan struct{})
}

func (d *doors) nextChange() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.news
}

func (d *doors) accept(o *door) {
	rest := newRest(5*time.Millisecond, time.Second)
	for {
		c, err := o.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of files, or the peer was gone already
			rest.wait(d.g.ctx)
			continue
		}
		rest.reset()
		d.mu.Lock()
		pool := o.wanted.Pool
		d.mu.Unlock()
		slot := d.g.slots.enter(c)
		d.g.serving.Go(func() { d.g.serve(d.g.ctx, c, slot, pool) })
	}
}

// files duplicates the listening sockets, for another gateway.
func (d *doors) files() (files []*os.File, wanted []dspool.Door, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, o := range d.open {
		f, err := o.listener.File()
		if err != nil {
			return files, wanted, err
		}
		files, wanted = append(files, f), append(wanted, o.wanted)
	}
	return files, wanted, nil
}

// inherit serves a listening socket of another gateway.
func (d *doors) inherit(f *os.File, w dspool.Door) error {
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return err
	}
	tcp, ok := l.(*net.TCPListener)
	if !ok {
		l.Close()
		return errors.New("not a TCP listener")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.start(tcp, w)
	return nil
}

// close stops listening; whoever was accepted before it returns is being served.
func (d *doors) close() {
	defer d.accepting.Wait()
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.closed {
		close(d.over)
	}
	d.closed = true
	if d.again != nil {
		d.again.Stop()
	}
	for listen, o := range d.open {
		o.listener.Close()
		delete(d.open, listen)
	}
}

// DoorStatus is how a door stands, as the control socket tells it.
type DoorStatus struct {
	Listen  string `json:"listen"`
	Address string `json:"address,omitempty"` // where it really listens
	Error   string `json:"error,omitempty"`
}

func (d *doors) status() (list []DoorStatus) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for listen, o := range d.open {
		list = append(list, DoorStatus{Listen: listen, Address: o.listener.Addr().String()})
	}
	for listen, err := range d.failed {
		list = append(list, DoorStatus{Listen: listen, Error: err.Error()})
	}
	return list
}
