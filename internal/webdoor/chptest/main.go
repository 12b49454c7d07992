// Command chptest is a web door that takes the command line of configurable-http-proxy, as far as tests
// and measurements need it: JupyterHub's own tests start it by that name.
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/dspool/dspool/internal/webdoor"
)

type options struct {
	ip, apiIP, socket, apiSocket          string
	port, apiPort                         int
	defaultTarget, errorTarget, errorPath string
	sslKey, sslCert                       string
	hostRouting, noPrepend, noPrefix      bool
	logLevel                              string
	journal, trustedProxies               string
}

func main() {
	var o options
	flag.StringVar(&o.ip, "ip", "", "")
	flag.IntVar(&o.port, "port", 8000, "")
	flag.StringVar(&o.socket, "socket", "", "")
	flag.StringVar(&o.apiIP, "api-ip", "localhost", "")
	flag.IntVar(&o.apiPort, "api-port", 0, "")
	flag.StringVar(&o.apiSocket, "api-socket", "", "")
	flag.StringVar(&o.defaultTarget, "default-target", "", "")
	flag.StringVar(&o.errorTarget, "error-target", "", "")
	flag.StringVar(&o.errorPath, "error-path", "", "")
	flag.BoolVar(&o.hostRouting, "host-routing", false, "")
	flag.BoolVar(&o.noPrepend, "no-prepend-path", false, "")
	flag.BoolVar(&o.noPrefix, "no-include-prefix", false, "")
	flag.StringVar(&o.sslKey, "ssl-key", "", "")
	flag.StringVar(&o.sslCert, "ssl-cert", "", "")
	flag.StringVar(&o.logLevel, "log-level", "info", "")
	flag.StringVar(&o.journal, "journal", "", "a file to keep routes in; configurable-http-proxy has none")
	flag.StringVar(&o.trustedProxies, "trusted-proxies", "", "networks, with commas; configurable-http-proxy trusts everybody")
	flag.Parse()
	if err := run(o); err != nil && !errors.Is(err, http.ErrServerClosed) {
		fmt.Fprintln(os.Stderr, "chptest:", err)
		os.Exit(1)
	}
}

func run(o options) error {
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level(o.logLevel)}))
	options := webdoor.Options{Log: log, HostRouting: o.hostRouting, DropTargetPath: o.noPrepend, DropPrefix: o.noPrefix, Journal: o.journal}
	var err error
	if options.Default, err = parse(o.defaultTarget); err != nil {
		return err
	}
	if options.ErrorTarget, err = parse(o.errorTarget); err != nil {
		return err
	}
	if o.errorPath != "" {
		options.ErrorPages = os.DirFS(o.errorPath)
	}
	var trusted []netip.Prefix
	options.Trusts = func(a netip.Addr) bool {
		return slices.ContainsFunc(trusted, func(n netip.Prefix) bool { return n.Contains(a) })
	}
	for text := range strings.SplitSeq(o.trustedProxies, ",") {
		if text == "" {
			continue
		}
		network, err := netip.ParsePrefix(text)
		if err != nil {
			return err
		}
		trusted = append(trusted, network)
	}
	door, err := webdoor.New(options)
	if err != nil {
		return err
	}
	defer door.Close()
	var config *tls.Config
	if o.sslCert != "" {
		pair, err := tls.LoadX509KeyPair(o.sslCert, o.sslKey)
		if err != nil {
			return err
		}
		config = &tls.Config{Certificates: []tls.Certificate{pair}}
	}
	public, err := listen(o.socket, o.ip, o.port)
	if err != nil {
		return err
	}
	if o.apiPort == 0 {
		o.apiPort = o.port + 1
	}
	api, err := listen(o.apiSocket, o.apiIP, o.apiPort)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	servers := []*webdoor.Server{webdoor.NewServer(door.Handler(), log), webdoor.NewServer(door.API(os.Getenv("CONFIGPROXY_AUTH_TOKEN")), log)}
	ended := make(chan error, 2)
	go func() { ended <- servers[0].Serve(public, config) }()
	go func() { ended <- servers[1].Serve(api, nil) }()
	log.Info("door and API are open", "door", public.Addr(), "api", api.Addr())
	select {
	case err = <-ended:
	case <-ctx.Done():
	}
	for _, s := range servers {
		err = errors.Join(err, s.Close())
	}
	return err
}

func listen(socket, ip string, port int) (net.Listener, error) {
	if socket != "" {
		return net.Listen("unix", socket)
	}
	if ip == "*" {
		ip = ""
	}
	return net.Listen("tcp", net.JoinHostPort(ip, strconv.Itoa(port)))
}

func parse(target string) (*url.URL, error) {
	if target == "" {
		return nil, nil
	}
	return url.Parse(target)
}

func level(name string) (l slog.Level) {
	if l.UnmarshalText([]byte(name)) != nil {
		return slog.LevelInfo
	}
	return l
}
