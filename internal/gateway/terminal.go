package gateway

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/coder/websocket"
	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/webdoor"
	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

// terminalPath is where the portal's pages open a terminal: a WebSocket whose binary messages are what
// is typed and shown. The browser's text messages are {"resize":[COLUMNS,ROWS]}, the gateway's are
// {"ended":true} and {"error":"…"}.
const terminalPath = "/terminal"

const (
	mostTypedAtOnce = 64 << 10 // bytes of one message; a long paste is more than one
	socketPing      = 30 * time.Second
	socketPatience  = 20 * time.Second // for a browser that takes nothing
	mostCells       = 10_000           // columns or rows
)

// terminal lets a browser that is logged in at the portal into its user's session. A page of another
// origin is refused, whatever cookies the browser sends along.
func (w *web) terminal(rw http.ResponseWriter, r *http.Request, doorPool string) {
	now, _ := w.state()
	from, proto := w.origin(r)
	if origin := r.Header.Get("Origin"); origin == "" || origin != now.Portal && origin != proto+"://"+r.Host {
		http.Error(rw, "A terminal opens from the portal's own pages only.", http.StatusForbidden)
		return
	}
	id, err := w.g.server.WebLogin(r.Context(), api.WebLogin{Secret: portalCookie(r, proto), From: from})
	if err != nil {
		code := http.StatusServiceUnavailable
		if dspool.ErrorCode(err) == dspool.Unauthenticated {
			code = http.StatusUnauthorized
		}
		http.Error(rw, http.StatusText(code), code)
		return
	}
	// The origin was compared above, exactly.
	socket, err := websocket.Accept(webdoor.Hijackable(rw), r, &websocket.AcceptOptions{InsecureSkipVerify: true, CompressionMode: websocket.CompressionDisabled})
	if err != nil {
		return
	}
	defer socket.CloseNow()
	socket.SetReadLimit(mostTypedAtOnce)
	t := &webTerminal{g: w.g, socket: socket}
	// It goes on when the doors are handed over, and ends with the gateway.
	var cancel context.CancelFunc
	t.ctx, cancel = context.WithCancel(w.g.ctx)
	defer cancel()
	query := r.URL.Query()
	err = t.serve(cancel, login{identity: id, pool: query.Get("pool"), size: query.Get("size")}, net.JoinHostPort(from, portOf(r.RemoteAddr)), doorPool)
	if err != nil {
		w.g.Log.Warn("terminal in a browser", "user", id.User, "err", err)
		t.note(map[string]any{"error": "the terminal could not be opened"})
	}
	_ = socket.Close(websocket.StatusNormalClosure, "")
}

func portOf(address string) string {
	_, port, _ := net.SplitHostPort(address)
	return port
}

// portalCookie is the secret of the portal's login. Where there is TLS only the name with the prefix
// counts, which no page of another origin can set.
func portalCookie(r *http.Request, proto string) string {
	name := "__Host-dspool"
	if proto != "https" {
		name = "dspool"
	}
	c, err := r.Cookie(name)
	if err != nil {
		return ""
	}
	return c.Value
}

// webTerminal is a shell in a browser. Inside the gateway it is an SSH connection like any other, so
// that waiting, notices, recordings and ends are the same.
type webTerminal struct {
	g       *gateway
	socket  *websocket.Conn
	ctx     context.Context
	writing sync.Mutex
}

func (t *webTerminal) serve(cancel context.CancelFunc, l login, from, doorPool string) error {
	near, far, err := socketPair()
	if err != nil {
		return fmt.Errorf("make a pair of sockets: %w", err)
	}
	defer near.Close()
	defer far.Close()
	defer context.AfterFunc(t.ctx, func() { near.Close() })()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		return err
	}
	var inside sync.WaitGroup
	defer inside.Wait()
	defer near.Close()
	inside.Go(func() {
		config := &ssh.ServerConfig{NoClientAuth: true, ServerVersion: serverVersion}
		config.AddHostKey(signer)
		outer, chans, reqs, err := ssh.NewServerConn(far, config)
		if err != nil {
			far.Close()
			return
		}
		t.g.attend(t.ctx, outer, chans, reqs, l, dspool.ProtocolWeb, from, doorPool)
	})
	conn, chans, reqs, err := ssh.NewClientConn(near, "gateway", &ssh.ClientConfig{User: l.identity.User, HostKeyCallback: ssh.FixedHostKey(signer.PublicKey())})
	if err != nil {
		return fmt.Errorf("reach the gateway's inside: %w", err)
	}
	client := ssh.NewClient(conn, chans, reqs)
	defer client.Close()
	shell, err := client.NewSession()
	if err != nil {
		return fmt.Errorf("open a shell: %w", err)
	}
	input, err := shell.StdinPipe()
	if err != nil {
		return err
	}
	shell.Stdout, shell.Stderr = t, t
	if err := shell.RequestPty("xterm-256color", 24, 80, ssh.TerminalModes{}); err != nil {
		return fmt.Errorf("get a terminal: %w", err)
	}
	typed := make(chan struct{})
	go func() {
		defer close(typed)
		t.read(shell, input)
		cancel() // the browser is gone
	}()
	go t.ping(cancel)
	if err := shell.Shell(); err != nil {
		return fmt.Errorf("start a shell: %w", err)
	}
	_ = shell.Wait()
	t.note(map[string]any{"ended": true})
	cancel()
	t.socket.CloseNow()
	<-typed
	return nil
}

// read takes what the browser sends until it goes.
func (t *webTerminal) read(shell *ssh.Session, input io.Writer) {
	for {
		kind, p, err := t.socket.Read(t.ctx)
		if err != nil {
			return
		}
		if kind == websocket.MessageBinary {
			if _, err := input.Write(p); err != nil && !errors.Is(err, io.EOF) {
				return
			}
			continue
		}
		var m struct {
			Resize [2]int `json:"resize"`
		}
		if json.Unmarshal(p, &m) == nil && min(m.Resize[0], m.Resize[1]) > 0 && max(m.Resize[0], m.Resize[1]) <= mostCells {
			_ = shell.WindowChange(m.Resize[1], m.Resize[0])
		}
	}
}

// ping finds browsers that went without a word.
func (t *webTerminal) ping(gone context.CancelFunc) {
	tick := time.NewTicker(socketPing)
	defer tick.Stop()
	for {
		select {
		case <-t.ctx.Done():
			return
		case <-tick.C:
			ctx, cancel := context.WithTimeout(t.ctx, socketPatience)
			err := t.socket.Ping(ctx)
			cancel()
			if err != nil {
				gone()
				return
			}
		}
	}
}

// Write shows bytes; a browser that takes nothing for long is gone.
func (t *webTerminal) Write(p []byte) (int, error) {
	if err := t.send(websocket.MessageBinary, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (t *webTerminal) note(n map[string]any) {
	if b, err := json.Marshal(n); err == nil {
		_ = t.send(websocket.MessageText, b)
	}
}

func (t *webTerminal) send(kind websocket.MessageType, p []byte) error {
	t.writing.Lock()
	defer t.writing.Unlock()
	ctx, cancel := context.WithTimeout(t.ctx, socketPatience)
	defer cancel()
	return t.socket.Write(ctx, kind, p)
}

// socketPair connects two ends inside this process. Unlike net.Pipe it holds what nobody reads yet,
// which SSH relies on.
func socketPair() (a, b net.Conn, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	var ends [2]net.Conn
	var errs [2]error
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "terminal")
		ends[i], errs[i] = net.FileConn(f)
		f.Close()
	}
	if err := errors.Join(errs[:]...); err != nil {
		for _, c := range ends {
			if c != nil {
				c.Close()
			}
		}
		return nil, nil, err
	}
	return ends[0], ends[1], nil
}
