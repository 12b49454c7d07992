package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/dspool/dspool/internal/webdoor"
)

// The ways to the upstream.
const (
	webDoor     = "dspool's web door"
	webModel    = "configurable-http-proxy"
	webHAProxy  = "HAProxy"
	webBytes    = "bytes passed on"
	webStraight = "no proxy"

	webModelPackage = "configurable-http-proxy@5.3.0"
	webToken        = "bench"
	webPath         = "/user/ada/" // of the route
	webUp           = 20 * time.Second
)

// webProxy is a way to the upstream.
type webProxy struct {
	name, addr, api string // api: of the model's REST API, where it has one
	upstream        string
}

// web has everything running.
type web struct {
	dir     string
	running []*exec.Cmd
	proxies []*webProxy
}

// startWeb starts the upstream and the proxies, each a process of its own.
func startWeb(ctx context.Context, o options, dir string) (_ *web, err error) {
	w := &web{dir: dir}
	defer func() {
		if err != nil {
			w.stop()
		}
	}()
	for _, tool := range []string{"wrk", "haproxy", "node", "npm"} {
		if _, err := exec.LookPath(tool); err != nil {
			return nil, fmt.Errorf("%w: run scripts/deps bench", err)
		}
	}
	model, err := modelFolder(ctx, o)
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	// These choose their ports and say them. The others have to be told, at an address of this run's own.
	upstream, err := w.program(o.out, "upstream", nil, self, "in-web-upstream")
	if err != nil {
		return nil, err
	}
	door, err := w.program(o.out, "door", nil, self, "in-web-door", filepath.Join(dir, "routes"))
	if err != nil {
		return nil, err
	}
	raw, err := w.program(o.out, "bytes", nil, self, "in-web-bytes", upstream[0])
	if err != nil {
		return nil, err
	}
	ports, err := loopbackAddress()
	if err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "haproxy.cfg")
	if err := os.WriteFile(config, fmt.Appendf(nil, haproxyConfig, ports, webPath, upstream[0]), 0o644); err != nil {
		return nil, err
	}
	if err := w.run(o.out, "haproxy", nil, "haproxy", "-db", "-f", config); err != nil {
		return nil, err
	}
	if err := w.run(o.out, "chp", []string{"CONFIGPROXY_AUTH_TOKEN=" + webToken}, model, "--ip", ports, "--port", "8000", "--api-ip", ports, "--api-port", "8001", "--log-level", "error"); err != nil {
		return nil, err
	}
	w.proxies = []*webProxy{
		{webDoor, door[0], door[1], upstream[0]}, {webModel, ports + ":8000", ports + ":8001", upstream[0]}, {webHAProxy, ports + ":8002", "", upstream[0]},
		{webBytes, raw[0], "", upstream[0]}, {webStraight, upstream[0], "", upstream[0]},
	}
	for _, p := range w.proxies {
		err := until(ctx, p.name+" answers", webUp, func() (bool, error) {
			c, err := net.Dial("tcp", p.addr)
			if err != nil {
				return false, nil
			}
			return true, c.Close()
		})
		if err != nil {
			return nil, err
		}
		if p.api != "" {
			if err := p.route(ctx, strings.TrimSuffix(webPath, "/")); err != nil {
				return nil, err
			}
		}
	}
	return w, nil
}

// loopbackAddress is an address of loopback that nobody else has ports on, most probably: it follows from
// this process's number.
func loopbackAddress() (string, error) {
	pid := os.Getpid()
	address := fmt.Sprintf("127.%d.%d.%d", 64+pid>>16&63, pid>>8&255, 1+pid%250)
	l, err := net.Listen("tcp", address+":8000")
	if err != nil {
		return "", err
	}
	return address, l.Close()
}

const haproxyConfig = `global
  maxconn 4096
defaults
  mode http
  option http-keep-alive
  http-reuse always
  timeout connect 5s
  timeout client 1h
  timeout server 1h
  timeout tunnel 1h
frontend door
  bind %s:8002
  option forwardfor
  http-request set-header X-Forwarded-Proto http
  use_backend upstream if { path_beg %s }
backend upstream
  server one %s
`

// run starts a program whose output goes to a file.
func (w *web) run(logs, name string, env []string, binary string, args ...string) error {
	cmd, err := w.command(logs, name, env, binary, args...)
	if err != nil {
		return err
	}
	return w.start(cmd)
}

func (w *web) command(logs, name string, env []string, binary string, args ...string) (*exec.Cmd, error) {
	log, err := os.Create(filepath.Join(logs, "web-"+name+".log"))
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(binary, args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = append(os.Environ(), env...), log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd, nil
}

func (w *web) start(cmd *exec.Cmd) error {
	if err := cmd.Start(); err != nil {
		return err
	}
	w.running = append(w.running, cmd)
	return nil
}

// program starts this program in another part, which says its addresses in its first line.
func (w *web) program(logs, name string, env []string, binary string, args ...string) ([]string, error) {
	cmd, err := w.command(logs, name, env, binary, args...)
	if err != nil {
		return nil, err
	}
	cmd.Stdout = nil
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := w.start(cmd); err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return nil, fmt.Errorf("%s does not say where it is: %w", name, err)
	}
	return strings.Fields(line), nil
}

func (w *web) stop() {
	for _, cmd := range w.running {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if log, ok := cmd.Stderr.(*os.File); ok {
			log.Close()
		}
	}
}

// route adds a route by the REST API.
func (p *webProxy) route(ctx context.Context, path string) error {
	body, err := json.Marshal(map[string]any{"target": "http://" + p.upstream, "user": path, "jupyterhub": true})
	if err != nil {
		return err
	}
	return p.ask(ctx, http.MethodPost, path, body, http.StatusCreated)
}

func (p *webProxy) unroute(ctx context.Context, path string) error {
	return p.ask(ctx, http.MethodDelete, path, nil, http.StatusNoContent)
}

func (p *webProxy) ask(ctx context.Context, method, path string, body []byte, want int) error {
	r, err := http.NewRequestWithContext(ctx, method, "http://"+p.api+"/api/routes"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Authorization", "token "+webToken)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	said, err := io.ReadAll(resp.Body)
	if resp.StatusCode != want {
		err = fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, said)
	}
	return err
}

// webPrograms are this program's other parts.
var webPrograms = map[string]func(args []string) error{"in-web-upstream": inWebUpstream, "in-web-door": inWebDoor, "in-web-bytes": inWebBytes}

// inWebDoor keeps a web door as the gateway does, with its journal.
func inWebDoor(args []string) error {
	if len(args) != 1 {
		return errors.New("in-web-door JOURNAL")
	}
	door, err := webdoor.New(webdoor.Options{Journal: args[0]})
	if err != nil {
		return err
	}
	log := slog.New(slog.DiscardHandler)
	public, api := webdoor.NewServer(door.Handler(), log), webdoor.NewServer(door.API(webToken), log)
	var addrs []string
	ended := make(chan error, 2)
	for _, s := range []*webdoor.Server{public, api} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		addrs = append(addrs, l.Addr().String())
		go func() { ended <- s.Serve(l, nil) }()
	}
	fmt.Println(strings.Join(addrs, " "))
	return <-ended
}

// inWebBytes routes a connection by its first request and passes bytes on after that.
func inWebBytes(args []string) error {
	if len(args) != 1 {
		return errors.New("in-web-bytes UPSTREAM")
	}
	return listening(func(c net.Conn) {
		in := bufio.NewReader(c)
		r, err := http.ReadRequest(in)
		if err != nil || !strings.HasPrefix(r.URL.Path, webPath) {
			return
		}
		up, err := net.Dial("tcp", args[0])
		if err != nil {
			return
		}
		defer up.Close()
		r.Header.Set("X-Forwarded-For", c.RemoteAddr().String())
		if strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
			r.Header.Set("Connection", "Upgrade")
		}
		if r.Write(up) != nil {
			return
		}
		if rest, _ := in.Peek(in.Buffered()); len(rest) > 0 {
			_, _ = up.Write(rest)
		}
		go func() {
			_, _ = io.Copy(up, c)
			up.Close()
		}()
		_, _ = io.Copy(c, up)
	})
}

// listening says its address and serves connections for ever.
func listening(serve func(net.Conn)) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			serve(c)
		}()
	}
}

var smallPage = []byte("HTTP/1.1 200 OK\r\nServer: upstream\r\nContent-Type: application/json\r\nDate: Mon, 01 Jan 2024 00:00:00 GMT\r\nContent-Length: 16\r\n\r\n{\"kernels\": []}\n")

// inWebUpstream answers as fast as it can: small pages, a GiB, and an echo over WebSockets.
func inWebUpstream([]string) error {
	zeros := make([]byte, 64<<10)
	return listening(func(c net.Conn) {
		in := bufio.NewReader(c)
		for {
			line, upgrade, err := readHead(in)
			switch {
			case err != nil:
				return
			case upgrade:
				_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n")
				_, _ = io.Copy(c, in)
				return
			case bytes.Contains(line, []byte("/big ")):
				_, err = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: "+strconv.Itoa(gib)+"\r\n\r\n")
				for n := 0; err == nil && n < gib; n += len(zeros) {
					_, err = c.Write(zeros)
				}
			default:
				_, err = c.Write(smallPage)
			}
			if err != nil {
				return
			}
		}
	})
}

// readHead reads a request without a body as cheaply as can be.
func readHead(in *bufio.Reader) (line []byte, upgrade bool, err error) {
	for {
		part, err := in.ReadSlice('\n')
		if err != nil {
			return nil, false, err
		}
		switch {
		case line == nil:
			line = bytes.Clone(part)
		case len(part) == 2:
			return line, upgrade, nil
		case len(part) > 8 && bytes.EqualFold(part[:8], []byte("upgrade:")):
			upgrade = true
		}
	}
}
