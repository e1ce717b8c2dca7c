// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nftables

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/daemon/netlink"
	"github.com/meshnetd/meshnetd/integration/plans"
	"github.com/meshnetd/meshnetd/internal/sample"
)

// command is a change of nf_tables that iptables does not know how to ask for.
type command struct {
	kind   uint8 // NFT_MSG_*
	flags  uint16
	family uint8
	attrs  []byte
}

const create = unix.NLM_F_CREATE | unix.NLM_F_EXCL

func attr(kind uint16, value ...byte) []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(attributeHeader+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, value...)
	return append(b, make([]byte, netlink.Aligned(len(b))-len(b))...)
}

func str(kind uint16, value string) []byte { return attr(kind, append([]byte(value), 0)...) }

func num(kind uint16, value uint32) []byte {
	return attr(kind, binary.BigEndian.AppendUint32(nil, value)...)
}

func nest(kind uint16, list ...[]byte) []byte {
	return attr(kind|unix.NLA_F_NESTED, slices.Concat(list...)...)
}

func anExpression(name string, data ...[]byte) []byte {
	return nest(unix.NFTA_LIST_ELEM, str(unix.NFTA_EXPR_NAME, name), nest(unix.NFTA_EXPR_DATA, data...))
}

func table(kind uint8, flags uint16, family uint8, name string, attrs ...[]byte) command {
	return command{kind, flags, family, slices.Concat(append([][]byte{str(unix.NFTA_TABLE_NAME, name)}, attrs...)...)}
}

func chain(flags uint16, family uint8, table, name string, attrs ...[]byte) command {
	return command{unix.NFT_MSG_NEWCHAIN, flags, family, slices.Concat(append([][]byte{str(unix.NFTA_CHAIN_TABLE, table), str(unix.NFTA_CHAIN_NAME, name)}, attrs...)...)}
}

func hooked(hook uint32, priority int32, policy uint32) []byte {
	return slices.Concat(nest(unix.NFTA_CHAIN_HOOK, num(unix.NFTA_HOOK_HOOKNUM, hook), num(unix.NFTA_HOOK_PRIORITY, uint32(priority))),
		str(unix.NFTA_CHAIN_TYPE, "filter"), num(unix.NFTA_CHAIN_POLICY, policy))
}

func rule(family uint8, table, chain string, expressions ...[]byte) command {
	return command{unix.NFT_MSG_NEWRULE, create | unix.NLM_F_APPEND, family, slices.Concat(str(unix.NFTA_RULE_TABLE, table),
		str(unix.NFTA_RULE_CHAIN, chain), nest(unix.NFTA_RULE_EXPRESSIONS, expressions...))}
}

// do sends commands as one transaction.
func (c *netfilter) do(commands ...command) error {
	if len(commands) == 0 {
		return nil
	}
	b := newBatch(nil)
	for _, cmd := range commands {
		b.add(int(cmd.kind), cmd.flags, cmd.family, subject{}, func(w *wire) { *w = append(*w, cmd.attrs...) })
	}
	return c.transact(b)
}

// What only nf_tables itself can do to a namespace is seen, and what traffic does is not.
func TestFingerprintSeesNativeChanges(t *testing.T) {
	const inet, ip = unix.NFPROTO_INET, unix.NFPROTO_IPV4
	const outHook = 3
	for name, tt := range map[string]struct {
		before, after []command
		same          bool
	}{
		"table dormant": {nil, []command{table(unix.NFT_MSG_NEWTABLE, 0, ip, "nat", num(unix.NFTA_TABLE_FLAGS, unix.NFT_TABLE_F_DORMANT))}, false},
		"empty table dormant": {[]command{table(unix.NFT_MSG_NEWTABLE, create, ip, "raw")},
			[]command{table(unix.NFT_MSG_NEWTABLE, 0, ip, "raw", num(unix.NFTA_TABLE_FLAGS, unix.NFT_TABLE_F_DORMANT))}, false},
		"table of another family":      {nil, []command{table(unix.NFT_MSG_NEWTABLE, create, inet, "nat")}, false},
		"table of another name":        {nil, []command{table(unix.NFT_MSG_NEWTABLE, create, ip, "others")}, false},
		"table of iptables, empty":     {nil, []command{table(unix.NFT_MSG_NEWTABLE, create, ip, "raw")}, true},
		"chain of iptables, empty":     {nil, []command{table(unix.NFT_MSG_NEWTABLE, create, ip, "raw"), chain(create, ip, "raw", "OUTPUT", hooked(outHook, -300, accept))}, true},
		"chain of iptables that drops": {nil, []command{table(unix.NFT_MSG_NEWTABLE, create, ip, "raw"), chain(create, ip, "raw", "OUTPUT", hooked(outHook, -300, drop))}, false},
		"chain of others, empty":       {[]command{table(unix.NFT_MSG_NEWTABLE, create, inet, "others")}, []command{chain(create, inet, "others", "a", hooked(outHook, 0, accept))}, false},
		"chain without a hook":         {nil, []command{chain(create, ip, "nat", "others")}, false},
		"table moves to another family": {[]command{table(unix.NFT_MSG_NEWTABLE, create, inet, "others")},
			[]command{table(unix.NFT_MSG_DELTABLE, 0, inet, "others"), table(unix.NFT_MSG_NEWTABLE, create, ip, "others")}, false},
		"priority of iptables's own": {raw(-300), append([]command{table(unix.NFT_MSG_DELTABLE, 0, ip, "raw")}, raw(-299)...), false},
		"iptables's own, same again": {raw(-300), append([]command{table(unix.NFT_MSG_DELTABLE, 0, ip, "raw")}, raw(-300)...), true},
		"policy":                     {others(outHook, 0), []command{chain(0, inet, "others", "a", num(unix.NFTA_CHAIN_POLICY, drop))}, false},
		"hook":                       {others(outHook, 0), append([]command{table(unix.NFT_MSG_DELTABLE, 0, inet, "others")}, others(outHook-2, 0)...), false},
		"priority":                   {others(outHook, 0), append([]command{table(unix.NFT_MSG_DELTABLE, 0, inet, "others")}, others(outHook, 1)...), false},
		"same again":                 {others(outHook, 0), append([]command{table(unix.NFT_MSG_DELTABLE, 0, inet, "others")}, others(outHook, 0)...), true},
		"counter added":              {others(outHook, 0), []command{rule(inet, "others", "a", anExpression("counter"))}, false},
		"counter moved":              {counting("counter", 1), again(counting("counter", 2)), true},
		"quota moved":                {quota(100, 1), again(quota(100, 2)), true},
		"quota raised":               {quota(100, 1), again(quota(101, 1)), false},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSandbox(t)
			s.write(t, plans.DualStack(t))
			c := s.dial(t)
			if err := c.do(tt.before...); err != nil {
				t.Fatal(err)
			}
			before := s.fingerprint(t)
			if err := c.do(tt.after...); err != nil {
				t.Fatal(err)
			}
			if same := s.fingerprint(t) == before; same != tt.same {
				t.Errorf("the fingerprint is the same: %t, want %t", same, tt.same)
			}
		})
	}
}

// others is a table of somebody else with one chain.
func others(hook uint32, priority int32) []command {
	return []command{table(unix.NFT_MSG_NEWTABLE, create, unix.NFPROTO_INET, "others"),
		chain(create, unix.NFPROTO_INET, "others", "a", hooked(hook, priority, 1))}
}

// raw is a table of iptables with a rule.
func raw(priority int32) []command {
	const ip = unix.NFPROTO_IPV4
	return []command{table(unix.NFT_MSG_NEWTABLE, create, ip, "raw"), chain(create, ip, "raw", "OUTPUT", hooked(3, priority, 1)),
		rule(ip, "raw", "OUTPUT", anExpression("counter"))}
}

func again(commands []command) []command {
	return append([]command{table(unix.NFT_MSG_DELTABLE, 0, unix.NFPROTO_INET, "others")}, commands...)
}

func long(kind uint16, value uint64) []byte {
	return attr(kind, binary.BigEndian.AppendUint64(nil, value)...)
}

// counting is others with a rule that has counted so many bytes and packets.
func counting(name string, n uint64) []command {
	return append(others(3, 0), rule(unix.NFPROTO_INET, "others", "a", anExpression(name, long(unix.NFTA_COUNTER_BYTES, n), long(unix.NFTA_COUNTER_PACKETS, n))))
}

func quota(limit, consumed uint64) []command {
	return append(others(3, 0), rule(unix.NFPROTO_INET, "others", "a", anExpression("quota", long(1, limit), num(2, 0), long(quotaConsumed, consumed))))
}

// Each attribute counts or does not, whatever the kernel of this machine sends.
func TestAttributesThatCount(t *testing.T) {
	last := func(set uint32) []byte {
		return nest(unix.NFTA_RULE_EXPRESSIONS, anExpression("last", num(1, set), long(2, uint64(set))))
	}
	for _, tt := range []struct {
		what    string
		read    func(message, []byte) (object, error)
		a, b    []byte
		differs bool
	}{
		{"table flags", readTable, num(unix.NFTA_TABLE_FLAGS, 0), num(unix.NFTA_TABLE_FLAGS, 1), true},
		{"table userdata", readTable, num(6, 0), num(6, 1), true},
		{"table use", readTable, num(unix.NFTA_TABLE_USE, 0), num(unix.NFTA_TABLE_USE, 1), false},
		{"table handle", readTable, num(tableHandle, 0), num(tableHandle, 1), false},
		{"table owner", readTable, num(tableOwner, 0), num(tableOwner, 1), false},
		{"table padding", readTable, attr(tablePad), nil, false},
		{"chain type", readChain, str(unix.NFTA_CHAIN_TYPE, "nat"), str(unix.NFTA_CHAIN_TYPE, "filter"), true},
		{"chain flags", readChain, num(10, 0), num(10, 1), true},
		{"chain userdata", readChain, num(12, 0), num(12, 1), true},
		{"chain handle", readChain, num(unix.NFTA_CHAIN_HANDLE, 0), num(unix.NFTA_CHAIN_HANDLE, 1), false},
		{"chain use", readChain, num(unix.NFTA_CHAIN_USE, 0), num(unix.NFTA_CHAIN_USE, 1), false},
		{"chain counters", readChain, num(unix.NFTA_CHAIN_COUNTERS, 0), num(unix.NFTA_CHAIN_COUNTERS, 1), false},
		{"chain id", readChain, num(chainID, 0), num(chainID, 1), false},
		{"chain padding", readChain, attr(unix.NFTA_CHAIN_PAD), nil, false},
		{"rule compat", readRule, num(unix.NFTA_RULE_COMPAT, 0), num(unix.NFTA_RULE_COMPAT, 1), true},
		{"rule userdata", readRule, num(unix.NFTA_RULE_USERDATA, 0), num(unix.NFTA_RULE_USERDATA, 1), true},
		{"rule handle", readRule, num(unix.NFTA_RULE_HANDLE, 0), num(unix.NFTA_RULE_HANDLE, 1), false},
		{"rule position", readRule, num(unix.NFTA_RULE_POSITION, 0), num(unix.NFTA_RULE_POSITION, 1), false},
		{"rule ids", readRule, num(unix.NFTA_RULE_ID, 0), slices.Concat(num(rulePositionID, 1), num(ruleChainID, 1)), false},
		{"rule padding", readRule, attr(unix.NFTA_RULE_PAD), nil, false},
		{"when last matched", readRule, last(0), last(1), false},
		{"name of an expression", readRule, nest(unix.NFTA_RULE_EXPRESSIONS, anExpression("meta")), nest(unix.NFTA_RULE_EXPRESSIONS, anExpression("cmp")), true},
		{"data of an expression", readRule, nest(unix.NFTA_RULE_EXPRESSIONS, anExpression("meta", num(1, 1))), nest(unix.NFTA_RULE_EXPRESSIONS, anExpression("meta", num(2, 1))), true},
		{"another attribute with the same value", readRule, num(unix.NFTA_RULE_COMPAT, 1), num(unix.NFTA_RULE_USERDATA, 1), true},
		{"one expression or two", readRule, nest(unix.NFTA_RULE_EXPRESSIONS, anExpression("meta"), anExpression("cmp")),
			nest(unix.NFTA_RULE_EXPRESSIONS, nest(unix.NFTA_LIST_ELEM, str(unix.NFTA_EXPR_NAME, "meta"), nest(unix.NFTA_EXPR_DATA),
				str(unix.NFTA_EXPR_NAME, "cmp"), nest(unix.NFTA_EXPR_DATA))), true},
		{"one attribute or two", readTable, append(attr(6, 'a'), attr(6, 'b')...), attr(6, 'a', 0, 6, 'b'), true},
		{"an attribute of tomorrow", readTable, num(99, 0), num(99, 1), true},
	} {
		a, errA := tt.read(message{attributes: tt.a}, nil)
		b, errB := tt.read(message{attributes: tt.b}, nil)
		if differs := string(a.text) != string(b.text); differs != tt.differs || errA != nil || errB != nil {
			t.Errorf("%s: differs %t, want %t (%v, %v)", tt.what, differs, tt.differs, errA, errB)
		}
	}
}

// A table is none of the chains, and two short objects are no long one.
func TestDigestKeepsListsApart(t *testing.T) {
	a, b, ab := object{text: []byte("a")}, object{text: []byte("b")}, object{text: []byte("ab")}
	other := object{family: 2, text: []byte("a")}
	seen := map[string]int{}
	for i, s := range []state{{}, {tables: []object{a}}, {chains: []object{a}}, {rules: []object{a}}, {sets: []object{a}}, {elements: []object{a}},
		{tables: []object{a, b}}, {tables: []object{b, a}}, {tables: []object{ab}}, {tables: []object{a}, chains: []object{b}}, {tables: []object{other}}} {
		sum := s.fingerprint(nil)
		if j, ok := seen[sum]; ok {
			t.Errorf("states %d and %d have the same digest", j, i)
		}
		seen[sum] = i
	}
	split := func(fields ...string) string {
		sum := newDigest()
		for _, field := range fields {
			sum.add([]byte(field))
		}
		return sum.String()
	}
	if split("a", "bc") == split("ab", "c") {
		t.Error("where a field ends does not count")
	}
}

// The order in which tables and chains were made is nobody's business.
func TestFingerprintSortsTablesAndChains(t *testing.T) {
	const inet = unix.NFPROTO_INET
	var sums []string
	for _, names := range [][]string{{"a", "b", "c"}, {"c", "a", "b"}} {
		s := newSandbox(t)
		var commands []command
		for _, name := range names {
			commands = append(commands, table(unix.NFT_MSG_NEWTABLE, create, inet, name))
			for _, name2 := range names {
				commands = append(commands, chain(create, inet, name, name2), rule(inet, name, name2, anExpression("counter")))
			}
		}
		if err := s.dial(t).do(commands...); err != nil {
			t.Fatal(err)
		}
		sums = append(sums, s.fingerprint(t))
	}
	if sums[0] != sums[1] {
		t.Error("the order of tables and chains counts")
	}
}

// A reading that begins in the middle of a change is of one state as well.
func TestFingerprintIsOfOneTransaction(t *testing.T) {
	const inet = unix.NFPROTO_INET
	s := newSandbox(t)
	writer, reader := s.dial(t), s.dial(t)
	var states [2][]command
	for i, name := range []string{"a", "b"} {
		states[i] = []command{table(unix.NFT_MSG_NEWTABLE, create, inet, "others")}
		for n := range 50 {
			states[i] = append(states[i], chain(create, inet, "others", fmt.Sprint(name, n)))
		}
	}
	if err := writer.do(states[0]...); err != nil {
		t.Fatal(err)
	}
	turn := func(i int) error { return writer.do(again(states[i%2])...) }
	known := map[string]bool{}
	for i := range states {
		if err := turn(i); err != nil {
			t.Fatal(err)
		}
		known[s.fingerprint(t)] = true
	}
	begin, written := make(chan int), make(chan error)
	go func() {
		for i := range begin {
			written <- turn(i)
		}
	}()
	defer close(begin)
	met, enough := 0, sample.Count(t, "MESHNETD_MOVED_READINGS", 300)
	for i := 0; met < enough && i < 100_000; i++ { // how often they meet depends on how busy the machine is
		begin <- i
		for range i % 50 { // at another moment each time
			if _, err := generationOf(reader); err != nil {
				t.Fatal(err)
			}
		}
		sum, err := fingerprintFrom(reader)
		if errors.Is(err, netlink.ErrMoved) {
			met++
			err = nil
		} else if err == nil && !known[sum] {
			err = fmt.Errorf("reading %d is of neither state", i)
		}
		if err := errors.Join(err, <-written); err != nil {
			t.Fatal(err)
		}
		reader.forget()
	}
}

func fingerprintFrom(k kernel) (string, error) {
	s, err := read(k)
	return s.fingerprint(nil), err
}

// fake answers as a kernel would while somebody else writes.
type fake struct {
	generations []byte // one for each question; the last one stays
	moved       int    // so many dumps are interrupted
	bare        bool   // there is no table
	calls       string // of this reading
}

func (f *fake) await() error {
	f.calls += "a"
	return nil
}

func (f *fake) limit() bound { return standard }

func (f *fake) spare(length int) []byte { return fresh(length) }

func (f *fake) reopen() error { return nil }

func (f *fake) ask(request uint16, _ byte, _ []byte) ([]message, error) {
	if request != getGen {
		f.calls += "d"
		if f.moved--; f.moved >= 0 {
			return nil, netlink.ErrMoved
		}
		if request == getTables && !f.bare {
			return []message{{family: unix.NFPROTO_IPV4, attributes: str(unix.NFTA_TABLE_NAME, "nat")}}, nil
		}
		return nil, nil
	}
	f.calls += "g"
	if len(f.generations) == 0 {
		return []message{{attributes: num(unix.NFTA_GEN_PROC_PID, 1)}}, nil
	}
	g := f.generations[0]
	if len(f.generations) > 1 {
		f.generations = f.generations[1:]
	}
	return []message{{attributes: num(unix.NFTA_GEN_ID, uint32(g))}}, nil
}

// A reading is repeated where the rules changed meanwhile, but not for ever.
func TestReadingIsRepeated(t *testing.T) {
	for name, tt := range map[string]struct {
		kernel fake
		want   int // readings
		err    string
	}{
		"quiet":                   {fake{generations: []byte{1}}, 1, ""},
		"no table":                {fake{generations: []byte{1, 2, 2}, bare: true}, 2, ""},
		"generation moves twice":  {fake{generations: []byte{1, 2, 2, 3, 3}}, 3, ""},
		"dump interrupted":        {fake{generations: []byte{1}, moved: 2}, 3, ""},
		"no generation":           {fake{}, 1, "which generation"},
		"generation moves always": {fake{generations: []byte("abcdefghijklmnopqrstuvwxyz")}, 10, "10 times in a row"},
		"always interrupted":      {fake{generations: []byte{1}, moved: 1000}, 10, "10 times in a row"},
	} {
		t.Run(name, func(t *testing.T) {
			readings := 0
			_, err := netlink.Settled(func() (string, error) {
				readings++
				tt.kernel.calls = ""
				return fingerprintFrom(&tt.kernel)
			})
			// What is read stands between two changes that are over, whenever the kernel counts them.
			order := "gadddag"
			if tt.kernel.bare {
				order = "gadag"
			}
			if !strings.HasPrefix(order, tt.kernel.calls) || err == nil && tt.kernel.calls != order {
				t.Errorf("asked in the order %s", tt.kernel.calls)
			}
			if readings != tt.want || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%d readings, %v; want %d, %q", readings, err, tt.want, tt.err)
			}
		})
	}
}
