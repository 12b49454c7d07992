package hostnet

import "net/netip"

// metadata is where clouds tell a host who it is and give it credentials. IPv6 forms (fd00:ec2::254, fd20:ce::254,
// fd00:c1::a9fe:a9fe, fe80::a9fe:a9fe and what a NAT64 would make of these) need none: of what machines
// send, only IPv4 gets further.
var metadata = []netip.Prefix{
	netip.MustParsePrefix("169.254.0.0/16"),     // 169.254.169.254 nearly everywhere, .170.2 and .170.23 for containers, .0.23, .42.42
	netip.MustParsePrefix("168.63.129.16/32"),   // Azure
	netip.MustParsePrefix("100.100.100.200/32"), // Alibaba
	netip.MustParsePrefix("192.0.0.192/32"),     // Oracle
}
