// SPDX-License-Identifier: Apache-2.0

//go:build linux

package xtables

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/daemon/nftables"
	"github.com/meshnetd/meshnetd/rules"
)

// The variants of iptables that can be asked for.
const (
	Auto   = "auto"
	NFT    = "iptables-nft"
	Legacy = "iptables-legacy"
)

// variant is one installed set of iptables programs.
type variant struct {
	name    string // NFT or Legacy
	version string
	legacy  bool
	v4, v6  string // path of the main program; -save and -restore stand beside it
}

func (v variant) tool(family rules.Family, verb string) string {
	if family == rules.IPv6 {
		return v.v6 + "-" + verb
	}
	return v.v4 + "-" + verb
}

// Find returns the first variant that proves itself in a new namespace, nft before legacy, or the one that
// is asked for. The host's tables are not looked at. The Tables use the isolated thread, which the caller
// closes.
func Find(ctx context.Context, want string, isolated *netns.Isolated) (*Tables, error) {
	var problems []error
	for _, c := range []struct{ name, program string }{
		{NFT, "iptables-nft"}, {NFT, "iptables"}, {Legacy, "iptables-legacy"}, {Legacy, "iptables"},
	} {
		if want != Auto && want != c.name {
			continue
		}
		tables, err := prove(ctx, c.name, c.program, isolated)
		if err == nil {
			return tables, nil
		}
		problems = append(problems, fmt.Errorf("%s by %s: %w", c.name, c.program, err))
	}
	return nil, fmt.Errorf("no iptables that works (wanted: %s). Install the iptables package, and see that the kernel has "+
		"the nat table and the owner match (modules nf_tables and nft_compat, or iptable_nat; xt_owner, xt_REDIRECT): %w",
		want, errors.Join(problems...))
}

func prove(ctx context.Context, name, program string, isolated *netns.Isolated) (*Tables, error) {
	v, err := locate(ctx, name, program)
	if err != nil {
		return nil, err
	}
	t := &Tables{isolated: isolated, variant: v}
	scratch, err := netns.New()
	if err != nil {
		return nil, err
	}
	defer scratch.Close()
	if err := t.tryOut(ctx, scratch, probe(rules.IPv4)); err != nil {
		return nil, err
	}
	t.noIPv6 = t.tryOut(ctx, scratch, probe(rules.IPv6))
	_, _, err = nftables.Fingerprint(scratch)
	t.netlink = err == nil
	return t, nil
}

// locate finds the programs and asks for their version, which also tells nft from legacy.
func locate(ctx context.Context, name, program string) (variant, error) {
	v := variant{name: name, legacy: name == Legacy}
	var err error
	if v.v4, err = lookPath(program, "-save", "-restore"); err != nil {
		return variant{}, err
	}
	six := strings.Replace(program, "iptables", "ip6tables", 1)
	if v.v6, err = lookPath(six, "-save", "-restore"); err != nil {
		v.v6 = six // so that trying IPv6 fails and names the missing program
	}
	out, err := exec.CommandContext(ctx, v.v4, "--version").Output()
	if err != nil {
		return variant{}, fmt.Errorf("%s --version: %w", v.v4, err)
	}
	found := versionLine.FindStringSubmatch(string(out))
	if found == nil {
		return variant{}, fmt.Errorf("%s --version says %q, which is no version of iptables", v.v4, out)
	}
	v.version = found[1]
	if isLegacy := found[2] != "nf_tables"; isLegacy != v.legacy {
		return variant{}, fmt.Errorf("%s is the other variant", v.v4)
	}
	return v, nil
}

var versionLine = regexp.MustCompile(`^ip6?tables v([0-9.]+)(?: \((\w+)\))?`)

// lookPath finds a program in PATH or where administration programs live, which not every PATH names. All
// its companions must stand beside it.
func lookPath(program string, companions ...string) (string, error) {
	path, err := exec.LookPath(program)
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/local/sbin"} {
		if err == nil {
			break
		}
		path, err = exec.LookPath(filepath.Join(dir, program))
	}
	if err != nil {
		return "", fmt.Errorf("%s is not installed", program)
	}
	for _, suffix := range companions {
		if _, err := exec.LookPath(path + suffix); err != nil {
			return "", fmt.Errorf("%s%s is not installed", path, suffix)
		}
	}
	return path, nil
}

// tryOut applies a small plan, reads it back and takes it out again.
func (t *Tables) tryOut(ctx context.Context, scratch *netns.Namespace, want rules.Ruleset) error {
	footprint := rules.Footprint{Chains: []string{probeChain}}
	have, err := t.save(ctx, scratch, want.Family)
	if err != nil {
		return err
	}
	if err := t.restore(ctx, scratch, want.Family, rules.Change(have, want, footprint)); err != nil {
		return err
	}
	if have, err = t.save(ctx, scratch, want.Family); err != nil {
		return err
	}
	if diffs := rules.Diff(have, want, footprint); len(diffs) > 0 {
		return fmt.Errorf("rules written are not the rules read back: %s", diffs[0])
	}
	return nil
}

const probeChain = "MESHNETD_PROBE"

// probe uses what every plan needs.
func probe(family rules.Family) rules.Ruleset {
	loopback := netip.MustParsePrefix("127.0.0.1/32")
	if family == rules.IPv6 {
		loopback = netip.MustParsePrefix("::1/128")
	}
	tcp := rules.Protocol(rules.TCP)
	var b rules.Builder
	b.Append("nat", "OUTPUT", "", rules.Jump(probeChain))
	b.Append("nat", probeChain, "", rules.Return, rules.OutInterface("lo"), rules.Not(rules.Destination(loopback)),
		tcp, rules.Not(rules.DestinationPort(rules.TCP, 1)), rules.OwnerUID(1))
	b.Append("nat", probeChain, "", rules.Redirect{Port: 1}, tcp, rules.Not(rules.OwnerGID(1)))
	return b.Ruleset(family)
}
