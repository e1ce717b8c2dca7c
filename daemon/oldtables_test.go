// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/daemon/nftables"
	"github.com/meshnetd/meshnetd/daemon/outcome"
	"github.com/meshnetd/meshnetd/integration/nstest"
)

// linkerd-init writes by iptables-legacy unless its chart says otherwise. Where its rules do what meshnetd's do, they hold nothing
// up; where they are other ones, the next container is refused once, and has meshnetd's rules then.
func TestInitContainerByOldTables(t *testing.T) {
	nstest.Require(t, "iptables-legacy-restore")
	for more, refusedOnce := range map[string]bool{"": false, "-A PROXY_INIT_OUTPUT -p tcp -j REDIRECT --to-ports 4999\n": true} {
		ctx := limited(t, patience)
		e := on(t, nftables.New(nftables.IPTables), linkerds)
		pod := inKernel(t, ofLinkerd(t, "web"))
		if o := e.Enforce(ctx, lifecycle.SandboxStarted, pod); o.Result != lifecycle.Protected {
			t.Fatal(o.Error())
		}
		ns, err := netns.Open(pod.NetNS, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer ns.Close()
		err = ns.Do(func() error {
			restore := exec.CommandContext(ctx, "iptables-legacy-restore")
			restore.Stdin = strings.NewReader("*nat\n:PROXY_INIT_REDIRECT -\n:PROXY_INIT_OUTPUT -\n" +
				"-A PREROUTING -m comment --comment proxy-init/redirect -j PROXY_INIT_REDIRECT\n-A PROXY_INIT_REDIRECT -p tcp -j REDIRECT --to-ports 4143\n" +
				"-A OUTPUT -j PROXY_INIT_OUTPUT\n-A PROXY_INIT_OUTPUT -m owner --uid-owner 2102 -j RETURN\n" + more + "COMMIT\n")
			return restore.Run()
		})
		if err != nil {
			t.Fatal(err)
		}
		o := e.Validate(ctx, pod, app)
		if refused := o.Error() != nil; refused != refusedOnce || refused && !strings.Contains(o.Error().Error(), "also in iptables-legacy") {
			t.Errorf("%q, the first container after it: %v", more, o.Error())
		}
		for _, ask := range []func() outcome.Outcome{
			func() outcome.Outcome { return e.Admit(ctx, pod, app) }, func() outcome.Outcome { return e.Validate(ctx, pod, app) },
			func() outcome.Outcome { return e.Compare(ctx, "web") },
		} {
			if o := ask(); o.Error() != nil || o.Err != nil || len(o.Differences) > 0 {
				t.Errorf("%q, at the next try, %s: %v, %v", more, o.Trigger, o.Err, o.Differences)
			}
		}
	}
}
