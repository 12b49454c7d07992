package hostnet

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

const (
	dnsPort = 53
	// maxConns is how many connections that conntrack follows one machine may have
	// at once, so that no machine fills the host's table.
	maxConns = 8192
	// A message's attribute ends at 64 KiB: elements go in portions.
	elementsPerMessage = 500
)

// rules is everything the table of one installation follows from.
type rules struct {
	installation string
	subnet       netip.Prefix
	gateway      netip.Addr
	ports        []uint16 // TCP, of the gateway address, besides DNS
	members      []member
	pairs        [][2]netip.Addr // each once; both directions pass
}

type member struct {
	veth     string
	address  netip.Addr
	internet bool
	public   bool // and nothing private
}

// sets of the table that change while machines come and go.
type sets struct{ bound, internet, public, pairs, conns *nftables.Set }

func (r *rules) table() *nftables.Table {
	return &nftables.Table{Name: tableName(r.installation), Family: nftables.TableFamilyINet}
}

// sets names the sets of table t. IDs are ours because the library's come from
// an unguarded global.
func (r *rules) sets(t *nftables.Table) sets {
	nicAndAddress := nftables.MustConcatSetType(nftables.TypeIFName, nftables.TypeIPAddr)
	addresses := nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeIPAddr)
	return sets{
		bound:    &nftables.Set{Table: t, ID: 1, Name: "bound", KeyType: nicAndAddress, Concatenation: true},
		internet: &nftables.Set{Table: t, ID: 2, Name: "internet", KeyType: nftables.TypeIPAddr},
		public:   &nftables.Set{Table: t, ID: 5, Name: "public", KeyType: nftables.TypeIPAddr},
		pairs:    &nftables.Set{Table: t, ID: 3, Name: "pairs", KeyType: addresses, Concatenation: true},
		conns:    &nftables.Set{Table: t, ID: 4, Name: "conns", KeyType: nftables.TypeIPAddr, Dynamic: true, Size: 1 << 16},
	}
}

func (m member) boundKey() nftables.SetElement {
	key := make([]byte, 20)
	copy(key, m.veth)
	copy(key[16:], m.address.AsSlice())
	return nftables.SetElement{Key: key}
}

func (m member) addressKey() nftables.SetElement {
	return nftables.SetElement{Key: m.address.AsSlice()}
}

// move brings the machine's address from where it was, within the set or not, to where it is.
func (m member) move(c *nftables.Conn, s *nftables.Set, was, is bool) error {
	switch {
	case is && !was:
		return c.SetAddElements(s, []nftables.SetElement{m.addressKey()})
	case was && !is:
		return c.SetDeleteElements(s, []nftables.SetElement{m.addressKey()})
	}
	return nil
}

func pairKeys(a, b netip.Addr) []nftables.SetElement {
	x, y := a.AsSlice(), b.AsSlice()
	return []nftables.SetElement{{Key: slices.Concat(x, y)}, {Key: slices.Concat(y, x)}}
}

// replace writes the whole table in one transaction: no packet sees it missing.
func (r *rules) replace(c *nftables.Conn) error {
	t := r.table()
	c.AddTable(t) // so that the deletion cannot fail
	c.DelTable(t)
	c.AddTable(t)
	s := r.sets(t)
	var bound, internet, public, pairs []nftables.SetElement
	for _, m := range r.members {
		bound = append(bound, m.boundKey())
		if m.internet {
			internet = append(internet, m.addressKey())
		}
		if m.public {
			public = append(public, m.addressKey())
		}
	}
	for _, p := range r.pairs {
		pairs = append(pairs, pairKeys(p[0], p[1])...)
	}
	for _, e := range []struct {
		set      *nftables.Set
		elements []nftables.SetElement
	}{{s.bound, bound}, {s.internet, internet}, {s.public, public}, {s.pairs, pairs}, {s.conns, nil}} {
		if err := c.AddSet(e.set, nil); err != nil {
			return fmt.Errorf("write nft set %s: %w", e.set.Name, err)
		}
		for part := range slices.Chunk(e.elements, elementsPerMessage) {
			if err := c.SetAddElements(e.set, part); err != nil {
				return fmt.Errorf("write nft set %s: %w", e.set.Name, err)
			}
		}
	}
	r.chains(c, t, s)
	if err := c.Flush(); err != nil {
		return fmt.Errorf("write nft table %s: %w", t.Name, err)
	}
	return nil
}

func (r *rules) chains(c *nftables.Conn, t *nftables.Table, s sets) {
	prefix := bridgeName(r.installation)
	chain := func(name string) *nftables.Chain {
		return c.AddChain(&nftables.Chain{Name: name, Table: t})
	}
	base := func(name string, kind nftables.ChainType, hook *nftables.ChainHook, prio *nftables.ChainPriority) *nftables.Chain {
		return c.AddChain(&nftables.Chain{Name: name, Table: t, Type: kind, Hooknum: hook, Priority: prio})
	}
	rule := func(ch *nftables.Chain, parts ...[]expr.Any) {
		c.AddRule(&nftables.Rule{Table: t, Chain: ch, Exprs: slices.Concat(parts...)})
	}

	refuse := chain("refuse")
	rule(refuse, l4proto(unix.IPPROTO_TCP), counter(), reject(unix.NFT_REJECT_TCP_RST, 0))
	rule(refuse, counter(), reject(unix.NFT_REJECT_ICMPX_UNREACH, unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED))

	refusing := func(name string, list []netip.Prefix) *nftables.Chain {
		ch := chain(name)
		for _, p := range list {
			rule(ch, inSubnet(p, offsetDaddr), goTo(refuse))
		}
		return ch
	}
	closed := refusing("metadata", metadata)

	// What a machine may say to the host itself.
	toHost := chain("to_host")
	rule(toHost, ctState(expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED), verdict(expr.VerdictAccept))
	for _, port := range append([]uint16{dnsPort}, r.ports...) {
		rule(toHost, daddr(r.gateway), l4proto(unix.IPPROTO_TCP), dport(port), verdict(expr.VerdictAccept))
	}
	rule(toHost, daddr(r.gateway), l4proto(unix.IPPROTO_UDP), dport(dnsPort), verdict(expr.VerdictAccept))
	rule(toHost, goTo(refuse))

	// Before conntrack: nothing forged gets further, and DNS makes no entries.
	fromMachine := chain("source_of_machine")
	rule(fromMachine, nfproto(unix.NFPROTO_IPV4, expr.CmpOpNeq), counter(), verdict(expr.VerdictDrop))
	rule(fromMachine, ipv4(),
		[]expr.Any{
			&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: unix.NFT_REG_1},
			&expr.Payload{DestRegister: unix.NFT_REG_2, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4},
			&expr.Lookup{SourceRegister: unix.NFT_REG_1, SetName: s.bound.Name, SetID: s.bound.ID, Invert: true},
		}, counter(), verdict(expr.VerdictDrop))
	rule(fromMachine, daddr(r.gateway), l4proto(unix.IPPROTO_UDP), dport(dnsPort), []expr.Any{&expr.Notrack{}})
	source := base("source", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityRaw)
	rule(source, iifname(prefix), goTo(fromMachine))
	rule(source, notLoopback(), inSubnet(r.subnet, offsetSaddr), counter(), verdict(expr.VerdictDrop))
	answers := base("answers", nftables.ChainTypeFilter, nftables.ChainHookOutput, nftables.ChainPriorityRaw)
	rule(answers, oifname(prefix, expr.CmpOpEq), saddr(r.gateway), l4proto(unix.IPPROTO_UDP), sport(dnsPort), []expr.Any{&expr.Notrack{}})

	// Before anybody's DNAT, which would turn a port of the host, or a metadata service, into something else.
	local := base("local", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityMangle)
	rule(local, iifname(prefix), ctState(expr.CtStateBitINVALID), counter(), verdict(expr.VerdictDrop))
	rule(local, iifname(prefix), ipv4(), ctState(expr.CtStateBitNEW),
		[]expr.Any{
			&expr.Payload{DestRegister: unix.NFT_REG_1, Base: expr.PayloadBaseNetworkHeader, Offset: offsetSaddr, Len: 4},
			&expr.Dynset{SrcRegKey: unix.NFT_REG_1, SetName: s.conns.Name, SetID: s.conns.ID, Operation: uint32(unix.NFT_DYNSET_OP_ADD),
				Exprs: []expr.Any{&expr.Connlimit{Count: maxConns, Flags: expr.NFT_CONNLIMIT_F_INV}}},
		}, goTo(refuse))
	rule(local, iifname(prefix), jump(closed))
	rule(local, iifname(prefix),
		[]expr.Any{
			&expr.Fib{Register: unix.NFT_REG_1, FlagDADDR: true, ResultADDRTYPE: true},
			&expr.Cmp{Register: unix.NFT_REG_1, Op: expr.CmpOpEq, Data: binary.NativeEndian.AppendUint32(nil, unix.RTN_LOCAL)},
		}, goTo(toHost))

	input := base("input", nftables.ChainTypeFilter, nftables.ChainHookInput, nftables.ChainPriorityFilter)
	rule(input, iifname(prefix), goTo(toHost))
	rule(input, notLoopback(), inSubnet(r.subnet, offsetDaddr), goTo(refuse))

	outward := chain("outward")
	rule(outward, oifname(prefix, expr.CmpOpEq), ipv4(),
		[]expr.Any{
			&expr.Payload{DestRegister: unix.NFT_REG32_00, Base: expr.PayloadBaseNetworkHeader, Offset: offsetSaddr, Len: 4},
			&expr.Payload{DestRegister: unix.NFT_REG32_01, Base: expr.PayloadBaseNetworkHeader, Offset: offsetDaddr, Len: 4},
			&expr.Lookup{SourceRegister: unix.NFT_REG32_00, SetName: s.pairs.Name, SetID: s.pairs.ID},
		}, verdict(expr.VerdictAccept))
	rule(outward, oifname(anyPrefix, expr.CmpOpEq), goTo(refuse))
	rule(outward, jump(closed)) // which somebody's DNAT may lead to
	rule(outward, fromOneOf(s.public), jump(refusing("private", private)))
	rule(outward, fromOneOf(s.internet), verdict(expr.VerdictAccept))
	rule(outward, goTo(refuse))
	forward := base("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter)
	rule(forward, iifname(prefix), goTo(outward))
	rule(forward, oifname(prefix, expr.CmpOpEq), ctState(expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED), verdict(expr.VerdictAccept))
	rule(forward, oifname(prefix, expr.CmpOpEq), goTo(refuse))

	nat := base("nat", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)
	rule(nat, fromOneOf(s.internet), oifname(prefix, expr.CmpOpNeq), []expr.Any{&expr.Masq{}})
}
