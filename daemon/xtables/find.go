// SPDX-License-Identifier: Apache-2.0

//go:build linux

package xtables

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/meshnetd/meshnetd/daemon/netns"
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

// candidates are the programs by which each variant may be installed, in the order in which they are tried.
var candidates = []struct{ name, program string }{
	{NFT, "iptables-nft"}, {NFT, "iptables"}, {Legacy, "iptables-legacy"}, {Legacy, "iptables"},
}

// Find returns the first variant that is proved to work, nft before legacy, or the one that is asked for. The host's tables are
// not looked at. The Tables use the isolated thread, which the caller closes.
func Find(ctx context.Context, want string, isolated *netns.Isolated, prove func(*Tables) error) (*Tables, error) {
	var problems []error
	for _, c := range candidates {
		if want != Auto && want != c.name {
			continue
		}
		tables, err := tablesOf(ctx, c.name, c.program, isolated)
		if err == nil {
			err = prove(tables)
		}
		if err == nil {
			return tables, nil
		}
		problems = append(problems, fmt.Errorf("%s by %s: %w", c.name, c.program, err))
	}
	return nil, fmt.Errorf("no iptables that works (wanted: %s). Install the iptables package, and see that the kernel has "+
		"the nat table and the owner match (modules nf_tables and nft_compat, or iptable_nat; xt_owner, xt_REDIRECT): %w",
		want, errors.Join(problems...))
}

// tablesOf looks at what the programs and the kernel have.
func tablesOf(ctx context.Context, name, program string, isolated *netns.Isolated) (*Tables, error) {
	v, err := locate(ctx, name, program)
	if err != nil {
		return nil, err
	}
	scratch, err := netns.New()
	if err != nil {
		return nil, err
	}
	defer scratch.Close()
	t := &Tables{isolated: isolated, variant: v}
	_, _, err = unseen.Fingerprint(ctx, scratch)
	t.netlink = err == nil
	_, t.noIPv6 = t.save(ctx, scratch, rules.IPv6)
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
