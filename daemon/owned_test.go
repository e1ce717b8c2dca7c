// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/nftables"
	"github.com/meshnetd/meshnetd/integration/nstest"
)

// A table that goes with its process moves no generation. What was beside it was never judged without it: no container comes
// before that is done.
func TestNoContainerOnceAnOwnedTableIsGone(t *testing.T) {
	nstest.Require(t, "nft")
	ctx := limited(t, patience)
	pod := capturing(t)
	e, r := newEnforcer(t, nftables.New(nftables.IPTables))
	e.Enforce(ctx, lifecycle.SandboxStarted, pod)
	if o := e.Admit(ctx, pod, app); o.Error() != nil {
		t.Fatal(o.Error())
	}
	end := (&nstest.Namespace{Path: pod.NetNS}).Own(t, "hook output priority -400; policy drop",
		"add table inet shade { flags owner; }\nadd chain inet shade c { type filter hook output priority -400; policy drop; }\n")
	inside(t, pod, "add table ip other; add chain ip other o { type nat hook output priority -110; }; add rule ip other o tcp dport 443 redirect to :9000", "nft", "-f", "-")
	auditNow(t, e)
	end()
	if o := e.Validate(ctx, pod, app); o.Error() == nil || !strings.Contains(o.Error().Error(), "takes less: tcp ") {
		t.Errorf("a container was let through: %v, %v", o.Error(), r.events())
	}
	inside(t, pod, "delete table ip other", "nft", "-f", "-")
	if o := e.Admit(ctx, pod, app); o.Error() != nil || e.state("web") != lifecycle.StateProtected {
		t.Errorf("when that is gone: %s, %v, %v", e.state("web"), o.Error(), r.events())
	}
}
