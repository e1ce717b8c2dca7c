// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"slices"
	"strings"
)

func judgeKernel(f Facts) []Finding {
	if f.Kernel.Release == "" {
		return nil
	}
	return []Finding{ok("kernel-version", "uname", "Linux %s.", f.Kernel.Release)}
}

const tried = "new network namespaces"

// judgeBackends is about what was tried: every match and target there is, TPROXY and conntrack zones among them.
func judgeBackends(f Facts) []Finding {
	k := f.Kernel
	if !f.AsRoot {
		return []Finding{warning("kernel-rules", tried, "Whether rules can be written was not tried: that needs root.").do("Run doctor as root.")}
	}
	var found []Finding
	for _, t := range k.Trials {
		if t.Err == nil {
			found = append(found, ok("kernel-rules", tried, "backend %q writes every kind of rule, TPROXY and conntrack zones included, and reads it back.", t.Backend))
		} else if k.Err == nil {
			found = append(found, info("kernel-rules", tried, "backend %q cannot be used, and is not needed: %v.", t.Backend, t.Err))
		}
	}
	if k.Err != nil {
		return append(found, broken("kernel-rules", tried, "%v.", k.Err).do("%s", f.mendKernel()))
	}
	found = append(found, info("kernel-backend", f.Config.File, "backend = %q takes %s.", f.Config.Values.Backend, k.Chosen))
	if k.IPv6 != nil {
		found = append(found, warning("kernel-ipv6", tried, "No IPv6 rules can be written, so that pods that need them are refused: %v.", k.IPv6).
			do("Switch IPv6 on in the kernel (no ipv6.disable=1 on its command line), or run IPv4 pods only."))
	} else {
		found = append(found, ok("kernel-ipv6", tried, "IPv6 rules can be written."))
	}
	if k.UserNamespaces != nil {
		return append(found, warning("kernel-user-namespaces", tried, "Pods with a user namespace of their own (hostUsers: false) are refused: %v.",
			k.UserNamespaces).do("Load the modules of nf_tables: modprobe -a nf_tables nft_ct nft_nat nft_redir nft_reject_inet nft_tproxy nft_chain_nat"))
	}
	return append(found, ok("kernel-user-namespaces", tried, "Pods with a user namespace of their own (hostUsers: false) can be served."))
}

func (f Facts) mendKernel() string {
	what := "Load the kernel's modules, and see that they are loaded at boot (/etc/modules-load.d/meshnetd.conf):\nmodprobe -a " +
		strings.Join(f.Kernel.Missing, " ")
	if len(f.Kernel.Missing) == 0 {
		what = "See what it says; CAP_SYS_ADMIN and CAP_NET_ADMIN are needed."
	}
	if f.Config.Values.Backend != "auto" {
		what += "\nOr set backend = \"auto\" in " + f.Config.File + "."
	}
	return what
}

func judgeModules(f Facts) []Finding {
	k := f.Kernel
	switch {
	case k.Locked && k.Err != nil:
		return []Finding{broken("kernel-modules", "/proc/sys/kernel/modules_disabled", "No module can be loaded any more, and these are not there: %s.",
			strings.Join(k.Missing, " ")).do("Load them at boot, before kernel.modules_disabled is set (/etc/modules-load.d/meshnetd.conf), and restart the node.")}
	case k.Locked:
		return []Finding{info("kernel-modules", "/proc/sys/kernel/modules_disabled", "No module can be loaded any more; those that are needed are there.")}
	case len(k.Modules) == 0:
		return []Finding{info("kernel-modules", "/proc/modules", "None of the modules that rules can need is loaded, or it cannot be seen; the kernel loads them by itself.")}
	}
	return []Finding{ok("kernel-modules", "/proc/modules", "Loaded or built in: %s.", strings.Join(k.Modules, " "))}
}

func judgeIPTables(f Facts) []Finding {
	backend := f.Config.Values.Backend
	if len(f.Kernel.IPTables) > 0 {
		return []Finding{info("iptables", "PATH", "Installed: %s. The backends iptables-exec, iptables-nft and iptables-legacy run them, and no other does.",
			strings.Join(f.Kernel.IPTables, ", "))}
	}
	if slices.Contains([]string{"iptables-exec", "iptables-nft", "iptables-legacy"}, backend) {
		return []Finding{broken("iptables", f.Config.File, "backend = %q, and no iptables program is installed.", backend).
			do("Install the package iptables, or set backend = \"auto\" in %s.", f.Config.File)}
	}
	return []Finding{info("iptables", "PATH", "No iptables program is installed. Only the backends iptables-exec, iptables-nft and iptables-legacy would need one.")}
}

func judgeLegacy(f Facts) []Finding {
	if len(f.Kernel.LegacyTables) == 0 {
		return nil
	}
	return []Finding{info("iptables-legacy", "/proc/net/ip_tables_names", "The host has tables of iptables-legacy (%s). Pods have their own tables; "+
		"one of that kind in a pod is judged by what it does to the pod's packets.", strings.Join(f.Kernel.LegacyTables, " "))}
}
