// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"

	"github.com/meshnetd/meshnetd/integration/speed"
	"github.com/meshnetd/meshnetd/rules"
)

// istios are Istio's own programs that write a pod's rules, as an init container and istio-cni's agent run them: by
// iptables-restore, and by nft through knftables.
func (b *bench) istios() []*application {
	iptables, nftables := b.node.backends[0], b.node.backends[1]
	own := b.istio("Istio's writer, by iptables-restore", iptables)
	native := b.istio("Istio's native writer, by nft (knftables)", nftables, "--native-nftables")
	native.elsewhere = true // its table is not one of iptables
	return []*application{own, native}
}

func (b *bench) istio(name string, by writer, more ...string) *application {
	a := &application{Peer: speed.Peer{Name: name, Absent: by.err}, by: by}
	if b.pilotAgent == "" {
		a.Absent = errors.New("needs Istio's pilot-agent (-pilot-agent)")
	}
	b.fresh(a)
	args := append([]string{"istio-iptables", "-p", "15001", "-z", "15006", "-u", "1337", "-m", "REDIRECT", "-i", "*", "-x", "",
		"-b", "*", "-d", "15020,15021,15090", "-o", "15020", "--dual-stack", "--log_output_level=default:none"}, more...)
	a.Do = func() error {
		var out bytes.Buffer
		cmd := exec.CommandContext(b.ctx, b.pilotAgent, args...)
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := b.node.isolated.Do(b.ctx, a.ns, cmd.Start); err != nil {
			return fmt.Errorf("start pilot-agent: %w", err)
		}
		if err := cmd.Wait(); err != nil {
			return fmt.Errorf("pilot-agent %v: %w: %s", args, err, bytes.TrimSpace(out.Bytes()))
		}
		return nil
	}
	return a
}

// compared notes how the effect of what was written is to that of the plan: Istio's two kinds of rules differ.
func (b *bench) compared(a *application, plan rules.Plan) error {
	interfaces := []rules.Interface{{Name: "lo"}, {Name: "eth0", Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")}}}
	r, err := a.by.Effect(b.ctx, a.ns, plan, rules.Plan{}, interfaces)
	a.Note = "its effect beside the plan: " + r.Answer.String()
	return err
}
