package gateway

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
)

// The control socket, STATE/gateway/control.sock, takes one request as a line of JSON:
//
//	{"command":"status"}   answers with a Status
//	{"command":"handover"} answers with one byte that carries the listening sockets, then a handover;
//	                       after the other's {"command":"done"} the doors are the other's
//	{"command":"hold"}     answers with the listening sockets likewise, again whenever there are others, until
//	                       this gateway ends: the server holds them, so that whoever comes while no gateway
//	                       lives waits for the next one instead of being refused
const (
	controlSocket   = "control.sock"
	controlPatience = 10 * time.Second
	mostDoors       = 128
	mostHandover    = 64 << 20 // bytes
)

// Status is what a gateway says about itself.
type Status struct {
	Version     string       `json:"version"`
	PID         int          `json:"pid"`
	Connections int          `json:"connections"`
	Handed      bool         `json:"handed,omitempty"` // another gateway has its doors; it leaves with its last connection
	Held        int          `json:"held"`             // who hold its listening sockets as well
	Doors       []DoorStatus `json:"doors,omitempty"`
}

type command struct {
	Command string `json:"command"`
}

type handover struct {
	Doors      []dspool.Door         `json:"doors"`
	Directives api.GatewayDirectives `json:"directives"`
	Routes     json.RawMessage       `json:"routes,omitempty"` // of the web door
}

// ReadStatus asks the gateway of a state directory how it stands.
func ReadStatus(ctx context.Context, stateDir string) (s Status, err error) {
	c, err := dialControl(ctx, filepath.Join(stateDir, "gateway"))
	if err != nil {
		return s, dspool.Errorf(dspool.Unavailable, "the gateway does not answer: %w", err)
	}
	defer c.Close()
	if err := json.NewEncoder(c).Encode(command{"status"}); err != nil {
		return s, err
	}
	return s, json.NewDecoder(c).Decode(&s)
}

func dialControl(ctx context.Context, dir string) (*net.UnixConn, error) {
	d := net.Dialer{Timeout: controlPatience}
	c, err := d.DialContext(ctx, "unix", filepath.Join(dir, controlSocket))
	if err != nil {
		return nil, err
	}
	end := time.Now().Add(controlPatience)
	if t, ok := ctx.Deadline(); ok && t.Before(end) {
		end = t
	}
	return c.(*net.UnixConn), c.SetDeadline(end)
}

// inheritance is what an older gateway left; the zero value is none.
type inheritance struct {
	g     *gateway
	from  *net.UnixConn
	files []*os.File
	handover
}

// takeOver asks a gateway that already runs for its doors; without one, held are the listening sockets of
// the last.
func takeOver(ctx context.Context, dir string, g *gateway, held Held) (*inheritance, error) {
	h := &inheritance{g: g}
	c, err := dialControl(ctx, dir)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		h.files, h.Doors = held.Files, held.Doors
		return h, nil
	}
	held.Close()
	if err != nil {
		return nil, fmt.Errorf("reach the older gateway: %w", err)
	}
	if err := h.receive(c); err != nil {
		c.Close()
		h.drop()
		return nil, fmt.Errorf("take the doors over from the older gateway: %w", err)
	}
	h.from = c
	g.Log.Info("taking doors over", "doors", len(h.Doors))
	return h, nil
}

func (h *inheritance) receive(c *net.UnixConn) error {
	if err := json.NewEncoder(c).Encode(command{"handover"}); err != nil {
		return err
	}
	var err error
	h.files, err = receiveSockets(c, &h.handover, func() int { return len(h.Doors) })
	return err
}

// receiveSockets reads one byte that carries sockets, and then what they are: JSON behind its length. No
// byte more is read, since the next may carry sockets again.
func receiveSockets(c *net.UnixConn, what any, doors func() int) (files []*os.File, err error) {
	mark, oob := make([]byte, 1), make([]byte, syscall.CmsgSpace(4*mostDoors))
	n, oobn, _, _, err := c.ReadMsgUnix(mark, oob)
	if err == nil && n != 1 {
		err = io.EOF
	}
	if err != nil {
		return nil, err
	}
	messages, err := syscall.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return nil, err
	}
	for _, m := range messages {
		fds, err := syscall.ParseUnixRights(&m)
		if err != nil {
			return files, err
		}
		for _, fd := range fds {
			syscall.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), "door"))
		}
	}
	var length uint32
	if err := binary.Read(c, binary.BigEndian, &length); err != nil {
		return files, err
	}
	if length > mostHandover {
		return files, fmt.Errorf("it sent %d bytes", length)
	}
	text := make([]byte, length)
	if _, err := io.ReadFull(c, text); err != nil {
		return files, err
	}
	if err := json.Unmarshal(text, what); err != nil {
		return files, err
	}
	if len(files) != doors() {
		return files, fmt.Errorf("it sent %d sockets for %d doors", len(files), doors())
	}
	return files, nil
}

// accept opens the doors that were taken over and lets the older gateway go.
func (h *inheritance) accept() {
	for i, f := range h.files {
		if err := h.g.doors.inherit(f, h.Doors[i]); err != nil {
			h.g.Log.Error("take a door over", "listen", h.Doors[i].Listen, "err", err)
		}
	}
	if h.from == nil {
		return
	}
	defer h.from.Close()
	h.Directives.End, h.Directives.Tell = nil, nil // the older one's connections
	h.g.apply(h.Directives)
	if err := json.NewEncoder(h.from).Encode(command{"done"}); err != nil {
		h.g.Log.Error("let the older gateway go", "err", err)
	}
}

func (h *inheritance) drop() (err error) {
	for _, f := range h.files {
		err = errors.Join(err, f.Close())
	}
	return err
}

// listenControl replaces the control socket of an older gateway, or of a dead one.
func (g *gateway) listenControl(dir string) (*net.UnixListener, error) {
	path := filepath.Join(dir, controlSocket)
	fresh := filepath.Join(dir, fmt.Sprintf(".control-%d", os.Getpid()))
	os.Remove(fresh)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: fresh, Net: "unix"})
	if err != nil {
		return nil, dspool.Errorf(dspool.Unavailable, "open the gateway's control socket: %w", err)
	}
	l.SetUnlinkOnClose(false) // by then the path may be another gateway's
	if err := errors.Join(os.Chmod(fresh, 0o600), os.Rename(fresh, path)); err != nil {
		l.Close()
		return nil, fmt.Errorf("open the gateway's control socket: %w", err)
	}
	return l, nil
}

func (g *gateway) serveControl(l *net.UnixListener) {
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			if err := g.control(c); err != nil {
				g.Log.Warn("control socket", "err", err)
			}
		}()
	}
}

func (g *gateway) control(c *net.UnixConn) error {
	c.SetDeadline(time.Now().Add(controlPatience))
	var ask command
	in := json.NewDecoder(bufio.NewReaderSize(c, 1<<10))
	if err := in.Decode(&ask); err != nil {
		return err
	}
	switch ask.Command {
	case "status":
		return json.NewEncoder(c).Encode(g.status())
	case "handover":
		return g.handOver(c, in)
	case "hold":
		return g.letHold(c)
	}
	return fmt.Errorf("unknown command %s", dspool.Quote(ask.Command))
}

func (g *gateway) status() Status {
	g.mu.Lock()
	s := Status{Version: g.Version, PID: os.Getpid(), Connections: len(g.conns), Handed: g.handed, Held: int(g.holders.Load())}
	g.mu.Unlock()
	s.Doors = g.doors.status()
	return s
}

// handOver gives the doors to another gateway. Until it has said that it serves them, they are served here.
func (g *gateway) handOver(c *net.UnixConn, in *json.Decoder) error {
	g.mu.Lock()
	handed, latest := g.handed, g.latest
	g.mu.Unlock()
	if handed {
		return errors.New("the doors are another gateway's already")
	}
	// Routes that are set from here on are refused, for JupyterHub to set them at the next gateway.
	routes, err := g.web.routes.HandOver()
	if err != nil {
		return err
	}
	taken := false
	defer func() {
		if !taken {
			if err := g.web.routes.TakeBack(); err != nil {
				g.Log.Error("take the routes back", "err", err)
			}
		}
	}()
	if err := g.sendSockets(c, func(doors []dspool.Door) any { return handover{doors, latest, routes} }); err != nil {
		return err
	}
	var answer command
	if err := in.Decode(&answer); err != nil || answer.Command != "done" {
		return fmt.Errorf("the newer gateway did not take the doors: %w", errors.Join(err, errors.New("no word from it")))
	}
	taken = true
	g.mu.Lock()
	handed, g.handed = g.handed, true
	g.mu.Unlock()
	if !handed {
		g.Log.Info("doors handed over", "connections", g.status().Connections)
		g.leaveOnceEmpty()
	}
	return nil
}

// sendSockets sends duplicates of the listening sockets, and what they are.
func (g *gateway) sendSockets(c *net.UnixConn, what func([]dspool.Door) any) error {
	files, doors, err := g.doors.files()
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	if err != nil {
		return err
	}
	fds := make([]int, 0, len(files))
	for _, f := range files {
		raw, err := f.SyscallConn()
		if err != nil {
			return err
		}
		// Not Fd: that would make the shared socket blocking.
		if err := raw.Control(func(fd uintptr) { fds = append(fds, int(fd)) }); err != nil {
			return err
		}
	}
	var rights []byte
	if len(fds) > 0 {
		rights = syscall.UnixRights(fds...)
	}
	if _, _, err := c.WriteMsgUnix([]byte{'+'}, rights, nil); err != nil {
		return err
	}
	text, err := json.Marshal(what(doors))
	if err != nil {
		return err
	}
	_, err = c.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(text))), text...))
	return err
}

// letHold keeps somebody in possession of the listening sockets until this gateway ends.
func (g *gateway) letHold(c *net.UnixConn) error {
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		c.SetReadDeadline(time.Time{})
		_, _ = c.Read(make([]byte, 1))
	}()
	for first := true; ; first = false {
		next := g.doors.nextChange()
		c.SetWriteDeadline(time.Now().Add(controlPatience))
		if err := g.sendSockets(c, func(doors []dspool.Door) any { return doors }); err != nil {
			return err
		}
		if first {
			g.holders.Add(1)
			defer g.holders.Add(-1)
		}
		select {
		case <-next:
		case <-gone:
			return nil
		case <-g.ctx.Done():
			return nil
		}
	}
}
