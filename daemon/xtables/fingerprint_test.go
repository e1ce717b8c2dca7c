// SPDX-License-Identifier: Apache-2.0

//go:build linux

package xtables

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/integration/nstest"
	"github.com/meshnetd/meshnetd/integration/plans"
	"github.com/meshnetd/meshnetd/internal/sample"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/istio"
)

// eachVariant runs a test or a benchmark with both kinds of iptables.
func eachVariant[T interface {
	testing.TB
	Run(string, func(T)) bool
}](t T, test func(T, *Tables)) {
	nstest.Require(t, "iptables-nft", "iptables-legacy")
	for _, variant := range []string{NFT, Legacy} {
		t.Run(variant, func(t T) {
			isolated, err := netns.Isolate()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(isolated.Close)
			tables, err := Find(t.Context(), variant, isolated, written)
			if err != nil {
				t.Fatal(err)
			}
			if err := tables.noIPv6; err != nil {
				t.Fatal(err)
			}
			test(t, tables)
		})
	}
}

// sandbox is a new namespace, for our code and for commands.
type sandbox struct {
	*nstest.Namespace
	ns     *netns.Namespace
	tables *Tables
}

func newSandbox(t testing.TB, tables *Tables) sandbox {
	t.Helper()
	s := sandbox{Namespace: nstest.New(t), tables: tables}
	var err error
	if s.ns, err = netns.Open(s.Path, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.ns.Close)
	return s
}

func (s sandbox) write(t testing.TB, plan rules.Plan) {
	t.Helper()
	if _, err := s.tables.Apply(t.Context(), s.ns, plan); err != nil {
		t.Fatal(err)
	}
}

func (s sandbox) fingerprint(t testing.TB) string {
	t.Helper()
	sum, _, err := s.tables.Fingerprint(t.Context(), s.ns)
	if err != nil {
		t.Fatal(err)
	}
	return sum
}

// shell runs commands in the namespace, in which IPT and IP6T are the variant's programs.
func (s sandbox) shell(t testing.TB, script string) string {
	t.Helper()
	return s.Run(t, "sh", "-ec", strings.NewReplacer("IPT", s.tables.variant.v4, "IP6T", s.tables.variant.v6).Replace(script))
}

// text is what iptables-restore would be given for the plan: equal plans have equal ones.
func text(plan rules.Plan) string {
	var all strings.Builder
	for _, rs := range plan.Rulesets() {
		fmt.Fprintf(&all, "%s\n%s", rs.Family, rules.Change(rules.Ruleset{Family: rs.Family}, rs, plan.Footprint))
	}
	return all.String()
}

// Every recorded case has the same fingerprint in a new namespace and in one that held all cases before it;
// two cases have the same one only if their rules are the same. What is taken out leaves nothing. A short run has some of them.
func TestFingerprintIsThatOfThePlan(t *testing.T) {
	eachVariant(t, func(t *testing.T, tables *Tables) {
		old, empty := newSandbox(t, tables), newSandbox(t, tables)
		seen := map[string]string{text(plans.Nothing()): empty.fingerprint(t)}
		fingerprints := map[string]string{empty.fingerprint(t): "nothing"}
		for _, c := range sample.Of(t, 10, plans.Recorded(t)) {
			t.Run(c.Name, func(t *testing.T) {
				plan := plans.Of(t, istio.Standard(), c.Pod())
				fresh := newSandbox(t, tables)
				fresh.write(t, plan)
				want := fresh.fingerprint(t)
				old.write(t, plan)
				if got := old.fingerprint(t); got != want {
					t.Errorf("the fingerprint is %s in a new namespace, and %s over another plan", want, got)
				}
				if known, ok := seen[text(plan)]; ok && known != want {
					t.Errorf("the fingerprint is %s, and was %s for the same rules", want, known)
				}
				if other, ok := fingerprints[want]; ok && seen[text(plan)] != want {
					t.Errorf("the fingerprint is that of %s, which has other rules", other)
				}
				seen[text(plan)], fingerprints[want] = want, c.Name
				fresh.write(t, plans.Nothing())
				if got := fresh.fingerprint(t); got != empty.fingerprint(t) {
					t.Error("it is not that of an empty namespace after the rules were taken out")
				}
			})
		}
		if len(fingerprints) < 30 && !testing.Short() {
			t.Errorf("only %d different fingerprints", len(fingerprints))
		}
	})
}

// Whatever is changed, the fingerprint changes with it, and comes back with the rules.
func TestFingerprintSeesEveryChange(t *testing.T) {
	changes := map[string]struct{ change, undo string }{
		"chain flushed":        {"IPT -t nat -F ISTIO_REDIRECT", "IPT -t nat -A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001"},
		"chain flushed, IPv6":  {"IP6T -t nat -F ISTIO_REDIRECT", "IP6T -t nat -A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001"},
		"rule deleted":         {"IPT -t nat -D OUTPUT -j ISTIO_OUTPUT", "IPT -t nat -A OUTPUT -j ISTIO_OUTPUT"},
		"rule inserted":        {"IPT -t nat -I ISTIO_OUTPUT 2 -p udp -j RETURN", "IPT -t nat -D ISTIO_OUTPUT 2"},
		"rule doubled":         {"IPT -t nat -A OUTPUT -j ISTIO_OUTPUT", "IPT -t nat -D OUTPUT 1"},
		"rule in front":        {"IP6T -t nat -I OUTPUT -p tcp -j ACCEPT", "IP6T -t nat -D OUTPUT 1"},
		"port changed":         {"IPT -t nat -R ISTIO_REDIRECT 1 -p tcp -j REDIRECT --to-ports 15002", "IPT -t nat -R ISTIO_REDIRECT 1 -p tcp -j REDIRECT --to-ports 15001"},
		"rule moved":           {"IPT -t nat -D ISTIO_INBOUND 1; IPT -t nat -A ISTIO_INBOUND -p tcp -m tcp --dport 15008 -j RETURN", "IPT -t nat -D ISTIO_INBOUND -p tcp -m tcp --dport 15008 -j RETURN; IPT -t nat -I ISTIO_INBOUND -p tcp -m tcp --dport 15008 -j RETURN"},
		"rule changes chains":  {"IPT -t nat -D PREROUTING -p tcp -j ISTIO_INBOUND; IPT -t nat -A OUTPUT -p tcp -j ISTIO_INBOUND", "IPT -t nat -D OUTPUT -p tcp -j ISTIO_INBOUND; IPT -t nat -A PREROUTING -p tcp -j ISTIO_INBOUND"},
		"rule changes tables":  {"IPT -t mangle -A OUTPUT -p tcp -j ACCEPT", "IPT -t mangle -D OUTPUT 1"},
		"comment":              {"IPT -t nat -A POSTROUTING -m comment --comment one -j ACCEPT", "IPT -t nat -D POSTROUTING 1"},
		"policy":               {"IPT -t filter -A INPUT -p udp; IPT -t filter -P INPUT DROP", "IPT -t filter -P INPUT ACCEPT; IPT -t filter -F"},
		"policy of a new one":  {"IPT -t filter -P FORWARD DROP", "IPT -t filter -P FORWARD ACCEPT"},
		"foreign chain":        {"IPT -t nat -N OTHERS", "IPT -t nat -X OTHERS"},
		"foreign chain, IPv6":  {"IP6T -t filter -N OTHERS", "IP6T -t filter -X OTHERS"},
		"foreign rule":         {"IPT -t nat -A POSTROUTING -p tcp -j MASQUERADE", "IPT -t nat -D POSTROUTING 1"},
		"foreign table":        {"IPT -t raw -A OUTPUT -p tcp -j NOTRACK", "IPT -t raw -F"},
		"foreign table, IPv6":  {"IP6T -t raw -A OUTPUT -p tcp -j NOTRACK", "IP6T -t raw -F"},
		"everything of nat":    {"IPT -t nat -F; IPT -t nat -X", ""},
		"everything of IPv6":   {"IP6T -t nat -F; IP6T -t nat -X", ""},
		"a table, by the name": {"IPT -t mangle -P OUTPUT DROP", "IPT -t mangle -P OUTPUT ACCEPT"},
	}
	for _, name := range sample.Of(t, 8, slices.Sorted(maps.Keys(changes))) {
		tt := changes[name]
		t.Run(name, func(t *testing.T) {
			eachVariant(t, func(t *testing.T, tables *Tables) {
				s := newSandbox(t, tables)
				s.write(t, plans.DualStack(t))
				before := s.fingerprint(t)
				s.shell(t, tt.change)
				if s.fingerprint(t) == before {
					t.Error("the change is not seen")
				}
				if tt.undo == "" {
					s.write(t, plans.DualStack(t))
				} else {
					s.shell(t, tt.undo)
				}
				if s.fingerprint(t) != before {
					t.Error("the rules are back, but not the fingerprint")
				}
			})
		})
	}
}

// Two rules differ in more than their number: each of these has a fingerprint of its own.
func TestFingerprintTellsRulesApart(t *testing.T) {
	eachVariant(t, func(t *testing.T, tables *Tables) {
		s := newSandbox(t, tables)
		seen := map[string]string{}
		for _, rule := range []string{"-p tcp -j ACCEPT", "-p udp -j ACCEPT", "! -p tcp -j ACCEPT", "-p tcp -j RETURN", "-d 10.0.0.0/8 -j ACCEPT",
			"-d 10.0.0.0/9 -j ACCEPT", "-s 10.0.0.0/8 -j ACCEPT", "! -d 10.0.0.0/8 -j ACCEPT", "-o eth0 -j ACCEPT", "-o eth1 -j ACCEPT",
			"-m owner --uid-owner 1 -j ACCEPT", "-m owner --uid-owner 2 -j ACCEPT", "-m owner --gid-owner 1 -j ACCEPT", "-m owner ! --uid-owner 1 -j ACCEPT",
			"-m mark --mark 1 -j ACCEPT", "-m mark --mark 1/1 -j ACCEPT", "-j MARK --set-mark 1", "-j MARK --set-mark 2",
			"-p tcp -m tcp --dport 1 -j ACCEPT", "-p tcp -m tcp --dport 2 -j ACCEPT", "-p tcp -m tcp --sport 1 -j ACCEPT",
			"-m comment --comment one -j ACCEPT", "-m comment --comment two -j ACCEPT", "-m conntrack --ctstate NEW -j ACCEPT"} {
			s.shell(t, "IPT -t mangle -F; IPT -t mangle -A OUTPUT "+rule)
			sum := s.fingerprint(t)
			if other, ok := seen[sum]; ok {
				t.Errorf("%q has the fingerprint of %q", rule, other)
			}
			seen[sum] = rule
		}
	})
}

// The same rules in another chain or table, in such a way that only its name or where it begins tells.
func TestFingerprintTellsPlacesApart(t *testing.T) {
	eachVariant(t, func(t *testing.T, tables *Tables) {
		seen := map[string]string{}
		for _, place := range []string{"IPT -t filter -A INPUT", "IPT -t filter -A FORWARD", "IPT -t filter -A OUTPUT",
			"IPT -t security -A OUTPUT", "IPT -t mangle -A OUTPUT", "IPT -t raw -A OUTPUT", "IP6T -t filter -A OUTPUT"} {
			s := newSandbox(t, tables)
			s.shell(t, place+" -j ACCEPT")
			sum := s.fingerprint(t)
			if other, ok := seen[sum]; ok {
				t.Errorf("%q has the fingerprint of %q", place, other)
			}
			seen[sum] = place
		}
	})
}

// Packets that match rules and policies move the counters of both families, and nothing else.
func TestCountersDoNotCount(t *testing.T) {
	eachVariant(t, func(t *testing.T, tables *Tables) {
		s := newSandbox(t, tables)
		s.write(t, plans.DualStack(t))
		s.shell(t, "IPT -A OUTPUT -p udp -j ACCEPT; IP6T -A OUTPUT -p udp -j ACCEPT")
		counters := func() string { return s.shell(t, "IPT-save -c | grep -v ^#; IP6T-save -c | grep -v ^#") }
		before, counted := s.fingerprint(t), counters()
		err := s.ns.Do(func() error {
			return errors.Join(sendUDP(unix.AF_INET, &unix.SockaddrInet4{Port: 9, Addr: [4]byte{127, 0, 0, 1}}),
				sendUDP(unix.AF_INET6, &unix.SockaddrInet6{Port: 9, Addr: netip.IPv6Loopback().As16()}))
		})
		if err != nil {
			t.Fatal(err)
		}
		if counters() == counted {
			t.Fatal("no counter moved")
		}
		if s.fingerprint(t) != before {
			t.Error("the fingerprint moved with the counters")
		}
	})
}

func sendUDP(family int, to unix.Sockaddr) error {
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	return unix.Sendto(fd, []byte("hello"), 0, to)
}

// Reading makes nothing: neither in a new namespace nor in one with some tables.
func TestFingerprintLeavesNothing(t *testing.T) {
	eachVariant(t, func(t *testing.T, tables *Tables) {
		s, other := newSandbox(t, tables), newSandbox(t, tables)
		state := func() string {
			return s.shell(t, "cat /proc/net/ip_tables_names /proc/net/ip6_tables_names; (iptables-nft-save; ip6tables-nft-save) | sed /^#/d")
		}
		before := state()
		if s.fingerprint(t) != other.fingerprint(t) {
			t.Error("two new namespaces differ")
		}
		if after := state(); after != before {
			t.Errorf("in a new namespace, reading left\n%s", after)
		}
		s.shell(t, "IPT -t raw -A OUTPUT -p tcp -j ACCEPT")
		before = state()
		if s.fingerprint(t) == other.fingerprint(t) {
			t.Error("a table is not seen")
		}
		if after := state(); after != before {
			t.Errorf("reading left\n%s\nwhere there was\n%s", after, before)
		}
	})
}

// While two plans take turns, each reading is of one of them.
func TestFingerprintIsOfOneMoment(t *testing.T) {
	eachVariant(t, func(t *testing.T, tables *Tables) {
		s := newSandbox(t, tables)
		many := strings.Repeat("-A POSTROUTING -p tcp -m owner --uid-owner 1\n", 300) // so that changes take long
		inputs := []string{"*mangle\n:OUTPUT DROP\n" + many + "COMMIT\n",
			"*mangle\n:OUTPUT ACCEPT\n:ONE -\n:TWO -\n" + many + "-A OUTPUT -j ONE\n-A ONE -p tcp -j TWO\nCOMMIT\n"}
		turn := func(i int) error { // without --noflush a table is replaced as a whole
			_, err := tables.run(t.Context(), s.ns, tables.variant.tool(rules.IPv4, "restore"), inputs[i%2])
			return err
		}
		known := map[string]bool{}
		for i := range inputs {
			if err := turn(i); err != nil {
				t.Fatal(err)
			}
			known[s.fingerprint(t)] = true
		}
		stop, stopped := make(chan struct{}), make(chan error, 1)
		go func() {
			for i := range 1000 { // ends by itself where the readings see one plan only
				select {
				case <-stop:
					stopped <- nil
					return
				default:
				}
				if err := turn(i); err != nil {
					stopped <- err
					return
				}
			}
			stopped <- errors.New("the readings did not see both plans")
		}()
		seen := map[string]bool{}
		for i := 0; (i < 200 || len(seen) < 2) && len(stopped) == 0; i++ {
			sum, _, err := tables.Fingerprint(t.Context(), s.ns)
			if err != nil {
				t.Error(err)
				break
			}
			if !known[sum] {
				t.Errorf("reading %d is of neither plan", i)
				break
			}
			seen[sum] = true
		}
		close(stop)
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	})
}

func TestFingerprintIsNotBegunTooLate(t *testing.T) {
	eachVariant(t, func(t *testing.T, tables *Tables) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if sum, _, err := tables.Fingerprint(ctx, newSandbox(t, tables).ns); !errors.Is(err, context.Canceled) || sum != "" {
			t.Errorf("got %q, %v", sum, err)
		}
	})
}

// Rules of nf_tables, which iptables-legacy does not show, decide about packets too: they are in the fingerprint, and move the
// generation.
func TestFingerprintSeesNFTables(t *testing.T) {
	nstest.Require(t, "nft")
	eachVariant(t, func(t *testing.T, tables *Tables) {
		s := newSandbox(t, tables)
		s.write(t, plans.DualStack(t))
		fingerprint, generation, err := tables.Fingerprint(t.Context(), s.ns)
		if err != nil {
			t.Fatal(err)
		}
		if same, err := tables.Generation(t.Context(), s.ns); err != nil || same != generation {
			t.Errorf("generation %q, then %q, %v", generation, same, err)
		}
		s.RunInput(t, "table ip other {\nchain c {\ntype nat hook output priority -110;\ntcp dport 443 redirect to :9000\n}\n}\n", "nft", "-f", "-")
		if s.fingerprint(t) == fingerprint {
			t.Error("the fingerprint does not tell")
		}
		if moved, err := tables.Generation(t.Context(), s.ns); err != nil || moved == generation {
			t.Errorf("the generation does not tell: %q, %v", moved, err)
		}
	})
}
