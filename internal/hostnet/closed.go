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

// private is what IANA's registry of special addresses calls not globally reachable, as far as packets
// for it leave a host at all; without the networks of documentation, where nobody is.
var private = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("10.0.0.0/8"),
	netip.MustParsePrefix("100.64.0.0/10"), // providers' NAT, overlays
	netip.MustParsePrefix("172.16.0.0/12"),
	netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("192.168.0.0/16"),
	netip.MustParsePrefix("198.18.0.0/15"),
	netip.MustParsePrefix("224.0.0.0/4"),
	netip.MustParsePrefix("240.0.0.0/4"),
}
