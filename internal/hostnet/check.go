package hostnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/dspool/dspool/internal/provider"
)

// Check says what this host lacks for the network of machines. It changes nothing:
// the kernel is tried in a network namespace that ends with the call.
func Check(ctx context.Context) []provider.Finding {
	findings := []provider.Finding{checkKernel(ctx), checkForwarding()}
	findings = append(findings, checkFirewalls()...)
	return append(findings, checkDNSPort(), checkNameServers(), checkConntrack(), checkInotify())
}

// checkKernel builds a whole network once, in a namespace of its own.
func checkKernel(ctx context.Context) provider.Finding {
	f := provider.Finding{Subject: "kernel's networking", Fatal: true}
	if os.Geteuid() != 0 {
		f.Detail, f.Fix = "only root can make networks", "run as root"
		return f
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends, and its namespace with it
		done <- tryKernel()
	}()
	select {
	case err := <-done:
		if err != nil {
			f.Detail = err.Error()
			f.Fix = "load the modules bridge, veth, nf_tables, nft_ct, nft_fib_inet, nft_masq, nft_reject_inet, nft_connlimit (modprobe), or use a kernel that has them"
			return f
		}
	case <-ctx.Done():
		f.Detail = ctx.Err().Error()
		return f
	}
	f.OK, f.Detail = true, "bridge, veth and every nftables rule work"
	return f
}

func tryKernel() error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("make a network namespace: %w", err)
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	defer h.Close()
	w := wire{h: h, installation: "00000000", subnet: netip.MustParsePrefix("10.80.0.0/28"), gateway: netip.MustParseAddr("10.80.0.1")}
	if err := w.bridge(); err != nil {
		return err
	}
	machine := addrAt(w.subnet, 2)
	outer := w.outerEnd("check", record{Address: machine})
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: outer.name}, PeerName: machineNIC}
	if err := h.LinkAdd(veth); err != nil {
		return fmt.Errorf("make veth: %w", err)
	}
	if err := outer.set(h); err != nil {
		return err
	}
	c, err := nftables.New() // its sockets are of this thread
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	r := rules{installation: w.installation, subnet: w.subnet, gateway: w.gateway, ports: []uint16{1},
		members: []member{{veth: outer.name, address: machine, internet: true, public: true}}, pairs: [][2]netip.Addr{{machine, w.gateway}}}
	return r.replace(c)
}

func checkForwarding() provider.Finding {
	f := provider.Finding{Subject: "net.ipv4.ip_forward", OK: true, Detail: "on"}
	b, err := os.ReadFile("/proc/sys/net/ipv4/ip_forward")
	switch {
	case err != nil:
		f.OK, f.Fatal, f.Detail = false, true, err.Error()
	case strings.TrimSpace(string(b)) != "1":
		f.Detail = "off; the server switches it on when it starts"
	}
	return f
}

// checkFirewalls looks for other tables that drop what they do not know. Their drop
// wins over our accept.
func checkFirewalls() []provider.Finding {
	f := provider.Finding{Subject: "other firewall rules"}
	c, err := nftables.New()
	if err != nil {
		f.Detail = err.Error()
		return []provider.Finding{f}
	}
	chains, err := c.ListChains()
	if err != nil {
		f.Detail = fmt.Sprintf("cannot be read: %v", err)
		return []provider.Finding{f}
	}
	var out []provider.Finding
	for _, ch := range chains {
		if ch.Policy == nil || *ch.Policy != nftables.ChainPolicyDrop || ch.Hooknum == nil || ch.Table == nil ||
			!slices.Contains([]nftables.TableFamily{nftables.TableFamilyINet, nftables.TableFamilyIPv4}, ch.Table.Family) {
			continue
		}
		what, fix := "", ""
		switch *ch.Hooknum {
		case *nftables.ChainHookForward:
			what = "drops forwarded packets by default: machines reach neither each other nor the internet unless a rule of it lets " + anyPrefix + "+ pass"
			fix = "iptables -I FORWARD -i " + anyPrefix + "+ -j ACCEPT && iptables -I FORWARD -o " + anyPrefix + "+ -j ACCEPT"
			if hasChain(chains, "DOCKER-USER") {
				what = "is Docker's: " + what
				fix = strings.ReplaceAll(fix, "FORWARD", "DOCKER-USER")
			}
		case *nftables.ChainHookInput:
			what = "drops incoming packets by default: machines do not reach the server and DNS unless a rule of it lets " + anyPrefix + "+ in"
			fix = "iptables -I INPUT -i " + anyPrefix + "+ -j ACCEPT"
		default:
			continue
		}
		if ch.Table.Family == nftables.TableFamilyINet {
			fix = "add to table inet " + ch.Table.Name + ", chain " + ch.Name + `: iifname "` + anyPrefix + `*" accept` + ` and oifname "` + anyPrefix + `*" accept`
		}
		out = append(out, provider.Finding{Subject: "firewall chain " + ch.Table.Name + " " + ch.Name, Detail: what, Fix: fix})
	}
	if b, err := os.ReadFile("/proc/net/ip_tables_names"); err == nil && strings.Contains(string(b), "filter") {
		out = append(out, provider.Finding{Subject: "legacy iptables", Detail: "its filter table is in use and cannot be looked into; a policy DROP there stops machines",
			Fix: "see iptables-legacy -S; let interfaces " + anyPrefix + "+ pass in INPUT and FORWARD"})
	}
	if len(out) == 0 {
		f.OK, f.Detail = true, "none drops by default"
		out = append(out, f)
	}
	return out
}

func hasChain(chains []*nftables.Chain, name string) bool {
	return slices.ContainsFunc(chains, func(c *nftables.Chain) bool { return c.Name == name })
}

// checkDNSPort finds a DNS server that listens on every address, ours included.
// An address of the loopback net that nobody uses fails to bind only then.
func checkDNSPort() provider.Finding {
	f := provider.Finding{Subject: "DNS port of the gateway address", OK: true, Detail: "free"}
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 83, 80, 53), Port: dnsPort})
	if errors.Is(err, unix.EADDRINUSE) {
		f.OK, f.Fatal, f.Detail = false, true, "a DNS server of this host listens on all addresses"
		f.Fix = "make it listen on its own addresses only (dnsmasq: bind-interfaces; unbound: interface; named: listen-on)"
		return f
	}
	if err == nil {
		c.Close()
	}
	return f
}

func checkNameServers() provider.Finding {
	f := provider.Finding{Subject: resolvConf, OK: true}
	servers := readResolvConf(resolvConf).servers
	if len(servers) == 0 {
		f.OK, f.Detail, f.Fix = false, "names no name server: machines with internet resolve only each other", "add a nameserver line"
		return f
	}
	f.Detail = "machines with internet ask " + strings.Join(servers, ", ")
	return f
}

func checkConntrack() provider.Finding {
	const enough = 65536
	f := atLeast("net/netfilter/nf_conntrack_max", enough, fmt.Sprintf("one machine may hold %d connections", maxConns))
	return f
}

func checkInotify() provider.Finding {
	return atLeast("fs/inotify/max_user_instances", 1024, "all machines share them; editors and notebooks of a few use up the usual 128")
}

// atLeast looks at a number below /proc/sys.
func atLeast(key string, enough int, why string) provider.Finding {
	name := strings.ReplaceAll(key, "/", ".")
	f := provider.Finding{Subject: name, OK: true}
	b, err := os.ReadFile("/proc/sys/" + key)
	if err != nil {
		f.Detail = "not known to this kernel (yet)"
		return f
	}
	have, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if f.Detail = strings.TrimSpace(string(b)); err == nil && have < enough {
		f.OK, f.Detail = false, fmt.Sprintf("%d, less than %d: %s", have, enough, why)
		f.Fix = fmt.Sprintf("sysctl -w %s=%d, and the same line in /etc/sysctl.d/dspool.conf", name, enough)
	}
	return f
}
