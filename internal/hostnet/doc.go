// Package hostnet is the network of machines on one host: addresses, a default
// deny between machines and towards the host, NAT, and DNS.
//
// Machines share no wire. Each has a veth pair whose host end carries no address
// and answers no ARP; a /32 route per machine leads to it and permanent neighbour
// entries stand on both sides. All traffic of machines is therefore routed by the
// host and passes one nftables table, where a machine's interface is tied to its
// address, so there is nothing to spoof, no limit of ports on a bridge, and no
// need for bridge netfilter. A bridge without ports carries the gateway's address
// (a dummy interface would do, but not every kernel has that module); next to it
// an unreachable route covers the subnet, so that nothing for a machine that has
// gone leaks to the default route.
//
// What passes:
//
//   - machine → gateway address: the agent port, the machine door, and DNS (53, udp and tcp);
//   - machine → machine: only pairs given to [Net.Allow], both ways;
//   - machine → elsewhere: only with internet, masqueraded, and private networks
//     only where that is wanted; never a cloud's metadata service, never another
//     installation's machines;
//   - host → machine: everything;
//   - anything else is refused at once (TCP reset or ICMP), so that people see
//     an error and not a hang; forged sources and IPv6 are dropped.
//
// Pairs are looked up per packet, not per connection: Disallow ends connections too.
//
// Names on the host carry the installation's id: bridge "dsp1a2b3c4d", veths
// "dsp1a2b3c4d0005" (the number is the address's offset in the subnet), table
// "inet dspool_1a2b3c4d". Two installations live side by side.
//
// Open writes the whole table in one transaction from what it remembers in the
// state directory; connections live on, because they are the kernel's.
//
// Whatever of this somebody takes or changes is made again: on Open, at once when
// the kernel says so (rules before anything else), and every minute by a look at
// everything. Within a machine nobody but the host's root can change its side; that
// is looked at when the provider adopts the machine, when the host's side was
// broken, and every minute. [Net.Mended] tells what was done.
package hostnet
