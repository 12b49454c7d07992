package hostnet

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Offsets of the addresses in an IPv4 header.
const (
	offsetSaddr = 12
	offsetDaddr = 16
)

// iifname matches names that begin with prefix: a shorter comparison is a prefix
// to the kernel.
func iifname(prefix string) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: unix.NFT_REG_1},
		&expr.Cmp{Register: unix.NFT_REG_1, Op: expr.CmpOpEq, Data: []byte(prefix)},
	}
}

func oifname(prefix string, op expr.CmpOp) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: unix.NFT_REG_1},
		&expr.Cmp{Register: unix.NFT_REG_1, Op: op, Data: []byte(prefix)},
	}
}

func notLoopback() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: unix.NFT_REG_1},
		&expr.Cmp{Register: unix.NFT_REG_1, Op: expr.CmpOpNeq, Data: []byte("lo\x00")},
	}
}

func nfproto(p byte, op expr.CmpOp) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: unix.NFT_REG_1},
		&expr.Cmp{Register: unix.NFT_REG_1, Op: op, Data: []byte{p}},
	}
}

// ipv4 must precede every look at an address: the table sees both families, and
// the bytes of an IPv6 header there mean something else.
func ipv4() []expr.Any { return nfproto(unix.NFPROTO_IPV4, expr.CmpOpEq) }

func l4proto(p byte) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: unix.NFT_REG_1},
		&expr.Cmp{Register: unix.NFT_REG_1, Op: expr.CmpOpEq, Data: []byte{p}},
	}
}

func payloadIs(base expr.PayloadBase, offset uint32, data []byte) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: unix.NFT_REG_1, Base: base, Offset: offset, Len: uint32(len(data))},
		&expr.Cmp{Register: unix.NFT_REG_1, Op: expr.CmpOpEq, Data: data},
	}
}

func saddr(a netip.Addr) []expr.Any {
	return slices.Concat(ipv4(), payloadIs(expr.PayloadBaseNetworkHeader, offsetSaddr, a.AsSlice()))
}

func daddr(a netip.Addr) []expr.Any {
	return slices.Concat(ipv4(), payloadIs(expr.PayloadBaseNetworkHeader, offsetDaddr, a.AsSlice()))
}

func sport(p uint16) []expr.Any {
	return payloadIs(expr.PayloadBaseTransportHeader, 0, binary.BigEndian.AppendUint16(nil, p))
}

func dport(p uint16) []expr.Any {
	return payloadIs(expr.PayloadBaseTransportHeader, 2, binary.BigEndian.AppendUint16(nil, p))
}

func inSubnet(p netip.Prefix, offset uint32) []expr.Any {
	return slices.Concat(ipv4(), []expr.Any{
		&expr.Payload{DestRegister: unix.NFT_REG_1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4},
		&expr.Bitwise{SourceRegister: unix.NFT_REG_1, DestRegister: unix.NFT_REG_1, Len: 4, Mask: ipNet(p).Mask, Xor: make([]byte, 4)},
		&expr.Cmp{Register: unix.NFT_REG_1, Op: expr.CmpOpEq, Data: p.Addr().AsSlice()},
	})
}

func fromOneOf(s *nftables.Set) []expr.Any {
	return slices.Concat(ipv4(), []expr.Any{
		&expr.Payload{DestRegister: unix.NFT_REG_1, Base: expr.PayloadBaseNetworkHeader, Offset: offsetSaddr, Len: 4},
		&expr.Lookup{SourceRegister: unix.NFT_REG_1, SetName: s.Name, SetID: s.ID},
	})
}

func ctState(bits uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: unix.NFT_REG_1},
		&expr.Bitwise{SourceRegister: unix.NFT_REG_1, DestRegister: unix.NFT_REG_1, Len: 4,
			Mask: binary.NativeEndian.AppendUint32(nil, bits), Xor: make([]byte, 4)},
		&expr.Cmp{Register: unix.NFT_REG_1, Op: expr.CmpOpNeq, Data: make([]byte, 4)},
	}
}

func counter() []expr.Any { return []expr.Any{&expr.Counter{}} }

func verdict(v expr.VerdictKind) []expr.Any { return []expr.Any{&expr.Verdict{Kind: v}} }

func goTo(c *nftables.Chain) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictGoto, Chain: c.Name}}
}

func jump(c *nftables.Chain) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: c.Name}}
}

func reject(kind uint32, code uint8) []expr.Any {
	return []expr.Any{&expr.Reject{Type: kind, Code: code}}
}
