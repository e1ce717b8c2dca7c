// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"encoding/json"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshnetd/meshnetd/internal/golden"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/istio"
	"github.com/meshnetd/meshnetd/status"
)

func TestReports(t *testing.T) {
	for name, facts := range map[string]Facts{"good": good(), "bad": bad()} {
		t.Run(name, func(t *testing.T) {
			r := Judge(facts)
			var text, machine strings.Builder
			if err := errors.Join(r.Text(&text), r.JSON(&machine)); err != nil {
				t.Fatal(err)
			}
			golden.Check(t, name+".txt", text.String())
			golden.Check(t, name+".json", machine.String())
			var back Report
			if err := json.Unmarshal([]byte(machine.String()), &back); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(r, back); diff != "" {
				t.Errorf("what programs read (-said +read):\n%s", diff)
			}
		})
	}
}

// Every check says something on one of the two nodes, and none is left out by accident.
func TestChecks(t *testing.T) {
	want := []string{"canary", "canary-removed", "cni-multus", "cni-programs", "cni-redirect", "config", "daemon-capabilities", "daemon-connected", "daemon-mounts",
		"daemon-namespaces", "daemon-oom", "daemon-running", "daemon-sandbox", "daemon-version", "host-netns", "iptables", "iptables-legacy",
		"kernel-backend", "kernel-ipv6", "kernel-modules", "kernel-rules", "kernel-user-namespaces", "kernel-version", "kubelet-pods", "netns-propagation",
		"nri-enabled", "nri-plugins", "nri-registration-timeout", "nri-request-timeout", "nri-socket", "other-daemon", "runtime-config",
		"runtime-config-imports", "runtime-config-loaded", "runtime-found", "runtime-version", "validator-enabled", "validator-namespaces",
		"validator-required", "validator-tolerance"}
	var got []string
	for _, f := range append(Judge(good()).Findings, Judge(bad()).Findings...) {
		if !slices.Contains(got, f.Check) {
			got = append(got, f.Check)
		}
	}
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("checks (-want +got):\n%s", diff)
	}
}

func TestExit(t *testing.T) {
	for level, want := range map[Level]int{OK: 0, Info: 0, Warning: 1, Broken: 2} {
		if got := (Report{Level: level}).Exit(); got != want {
			t.Errorf("%s: exit code %d, want %d", level, got, want)
		}
	}
	if got := Judge(good()).Exit(); got != 0 {
		t.Errorf("a good node: exit code %d", got)
	}
}

// judgement is what one change of a good node is to bring.
type judgement struct {
	name   string
	change func(*Facts)
	level  Level
	check  string
	found  string // within what is found
	do     string // within what is to be done
}

func try(t *testing.T, cases []judgement) {
	t.Helper()
	for _, tt := range cases {
		t.Run(tt.name, func(t *testing.T) {
			f := good()
			tt.change(&f)
			r := Judge(f)
			sentences(t, r)
			for _, finding := range r.Findings {
				if finding.Check == tt.check && finding.Level == tt.level && strings.Contains(finding.Found, tt.found) && strings.Contains(finding.Do, tt.do) {
					return
				}
			}
			var text strings.Builder
			_ = r.Text(&text)
			t.Errorf("no %s %s with %q and %q, but\n%s", tt.level, tt.check, tt.found, tt.do, text.String())
		})
	}
}

// sentences checks what holds for every finding.
func sentences(t *testing.T, r Report) {
	t.Helper()
	for _, f := range r.Findings {
		if !strings.HasSuffix(f.Found, ".") || strings.Contains(f.Found, "%!") || strings.Contains(f.Do, "%!") {
			t.Errorf("%s: no sentence: %q, %q", f.Check, f.Found, f.Do)
		}
		if f.Do == "" && (f.Level == Warning || f.Level == Broken) {
			t.Errorf("%s: %q says nothing about what to do", f.Check, f.Found)
		}
		if f.Group == "" {
			t.Errorf("%s: in no group", f.Check)
		}
	}
}

func TestRuntime(t *testing.T) {
	try(t, []judgement{
		{"answers", func(*Facts) {}, OK, "runtime-found", "containerd v2.4.2 answers at /run/containerd/containerd.sock", ""},
		{"none", func(f *Facts) { f.Runtime = Runtime{Tried: []Tried{{"/x.sock", errNo}}} }, Broken, "runtime-found", "no such file", "cri_socket in /etc/meshnetd/meshnetd.toml"},
		{"not root", func(f *Facts) { f.Runtime = Runtime{Tried: []Tried{{"/x.sock", errRoot}}} }, Warning, "runtime-found", "could not be seen: open /a/file: permission denied", "as root"},
		{"two", func(f *Facts) { f.Runtime.Tried[1].Err = nil }, Warning, "runtime-found", "second runtime answers at /var/run/crio/crio.sock", "cri_socket"},
		{"no CRI", func(f *Facts) { f.Runtime.Name, f.Runtime.CRIErr = "", errOther }, Broken, "runtime-found", "no CRI", "disabled_plugins in /etc/containerd/config.toml"},
		{"guaranteed", func(*Facts) {}, OK, "runtime-version", `tier is "guaranteed"`, ""},
		{"a limit of it", func(f *Facts) { f.Runtime.Version = "2.2.9" }, Info, "runtime-version", "user of a container is not told", ""},
		{"reduced", func(f *Facts) { f.Runtime.Version = "2.2.1" }, Warning, "runtime-version", `tier is "reduced"`, "upgrade to containerd 2.2.6"},
		{"best effort", func(f *Facts) { f.Runtime.Version = "1.7.30" }, Warning, "runtime-version", `tier is "best effort"`, "upgrade"},
		{"unknown", func(f *Facts) { f.Runtime.Name = "other" }, Warning, "runtime-version", "does not know", "use containerd"},
		{"too old", func(f *Facts) { f.Runtime.Version = "1.6.1" }, Broken, "runtime-version", "refuses to run", "Upgrade"},
		{"files", func(*Facts) {}, OK, "runtime-config", "conf.d/meshnetd.toml", ""},
		{"no file", func(f *Facts) { f.Settings.Missing = true }, Info, "runtime-config", "built-in values", ""},
		{"bad file", func(f *Facts) { f.Settings.Err = errOther }, Warning, "runtime-config", "something else", "--runtime-config"},
		{"unreadable file", func(f *Facts) { f.Settings.Err = errRoot }, Warning, "runtime-config", "permission", "as root"},
		{"changed since", func(f *Facts) { f.Settings.Changed = noon.Add(3 * time.Second) }, Warning, "runtime-config-loaded", "2026-03-01 12:00:03", "systemctl restart containerd"},
		{"CRI-O changed since", func(f *Facts) { crio(f); f.Settings.Changed = noon.Add(time.Hour) }, Warning, "runtime-config-loaded", "", "systemctl restart crio"},
		{"not imported", func(f *Facts) { f.Settings.Unused = []string{"/etc/containerd/conf.d/a.toml"} }, Warning, "runtime-config-imports", "conf.d/a.toml",
			"imports = [\"/etc/containerd/conf.d/*.toml\"]"},
	})
}

// A runtime that is started right after its file was written has read it.
func TestStartedAtOnce(t *testing.T) {
	f := good()
	f.Settings.Changed = noon.Add(startError)
	silent(t, f, "runtime-config-loaded")
	f.Settings.Changed, f.Runtime.Started = noon, time.Time{} // it could not be seen
	silent(t, f, "runtime-config-loaded")
}

func silent(t *testing.T, f Facts, checks ...string) {
	t.Helper()
	for _, finding := range Judge(f).Findings {
		if slices.Contains(checks, finding.Check) {
			t.Errorf("there is a finding %s: %s", finding.Check, finding.Found)
		}
	}
}

func crio(f *Facts) {
	f.Runtime.Name, f.Runtime.Version, f.Runtime.Asked, f.Runtime.NRIPlugin = "cri-o", "1.36.0", false, false
	f.Settings.File = "/etc/crio/crio.conf"
}

func TestNRI(t *testing.T) {
	try(t, []judgement{
		{"on", func(*Facts) {}, OK, "nri-enabled", "NRI is on", ""},
		{"CRI-O's on", crio, OK, "nri-enabled", "NRI is on", ""},
		{"not loaded", func(f *Facts) { f.Runtime.NRIPlugin = false }, Broken, "nri-enabled", "io.containerd.nri.v1.nri is not loaded", "disabled_plugins"},
		{"did not start", func(f *Facts) { f.Runtime.NRIErr = "address in use" }, Broken, "nri-enabled", "address in use", "restart containerd"},
		{"off", func(f *Facts) { f.Settings.NRIDisabled, f.NRI.Err = true, errNo }, Broken, "nri-enabled", "switched off in the runtime.", "disable = false"},
		{"off by default", func(f *Facts) { f.Runtime.Version, f.Settings.NRIDisabled, f.NRI.Err = "v1.7.30", true, errNo }, Broken, "nri-enabled", "by default in containerd 1.7", "would replace the whole table"},
		{"CRI-O's off", func(f *Facts) { crio(f); f.Settings.NRIDisabled, f.NRI.Err = true, errNo }, Broken, "nri-enabled", "switched off", "enable_nri = true"},
		{"off from the next start", func(f *Facts) { f.Settings.NRIDisabled = true }, Warning, "nri-enabled", "next restart", "disable = false"},
		{"does not say", func(f *Facts) { f.Runtime.AskErr = errOther }, Warning, "nri-enabled", "something else", "log"},
		{"no connections", func(f *Facts) { f.Settings.NoConnections = true }, Broken, "nri-connections", "no plugins from outside", "disable_connections = false"},
		{"CRI-O's no connections", func(f *Facts) { crio(f); f.Settings.NoConnections = true }, Broken, "nri-connections", "", "nri_disable_connections = false"},
		{"listens", func(*Facts) {}, OK, "nri-socket", "/var/run/nri/nri.sock", ""},
		{"nobody listens", func(f *Facts) { f.NRI.Err = errNo }, Broken, "nri-socket", "no such file", "/var/run/nri of the host"},
		{"not root", func(f *Facts) { f.NRI.Err = errRoot }, Warning, "nri-socket", "Could not tell", "as root"},
		{"listens elsewhere", func(f *Facts) { f.NRI.Err, f.Settings.Socket = errNo, "/x/nri.sock" }, Broken, "nri-socket", "NRI socket is /x/nri.sock", "socket = \"/x/nri.sock\""},
		{"off, and would listen elsewhere", func(f *Facts) { f.NRI.Err, f.Settings.Socket, f.Settings.NRIDisabled = errNo, "/x/nri.sock", true }, Broken, "nri-socket", "Nobody listens", "Switch NRI on"},
		{"time enough", func(*Facts) {}, OK, "nri-request-timeout", "has 2s for a request; meshnetd answers within 1.7s", ""},
		{"hardly time", func(f *Facts) { f.Settings.Request = time.Second }, OK, "nri-request-timeout", "within 700ms", ""},
		{"too little time", func(f *Facts) { f.Settings.Request = 999 * time.Millisecond }, Warning, "nri-request-timeout", "meshnetd has 699ms", "plugin_request_timeout = \"2s\""},
		{"no time", func(f *Facts) { f.Settings.Request = 400 * time.Millisecond }, Warning, "nri-request-timeout", "meshnetd has 200ms", ""},
		{"CRI-O's too little time", func(f *Facts) { crio(f); f.Settings.Request = time.Millisecond }, Warning, "nri-request-timeout", "", "nri_plugin_request_timeout = \"2s\""},
		{"too much time", func(f *Facts) { f.Settings.Request = 11 * time.Second }, Warning, "nri-request-timeout", "holds every pod", "2s"},
		{"time to register", func(*Facts) {}, OK, "nri-registration-timeout", "5s", ""},
		{"no time to register", func(f *Facts) { f.Settings.Registration = 999 * time.Millisecond }, Warning, "nri-registration-timeout", "999ms", "plugin_registration_timeout = \"5s\""},
		{"own plugins", func(*Facts) {}, OK, "nri-plugins", "meshnetd's name or index", ""},
		{"of our name", func(f *Facts) { f.NRI.Plugins = []string{"99-meshnetd"} }, Warning, "nri-plugins", "/opt/nri/plugins/99-meshnetd", "Remove"},
		{"of our index", func(f *Facts) { f.NRI.Plugins = []string{"95-other"} }, Info, "nri-plugins", "index 95", "nri.index"},
		{"after us", func(f *Facts) { f.NRI.Plugins = []string{"99-other"} }, Info, "nri-plugins", "after meshnetd", "nri.index"},
		{"of no name", func(f *Facts) { f.NRI.Plugins = []string{"run.sh"} }, Broken, "nri-plugins", "does not start the next time", "50-run.sh"},
		{"of a long index", func(f *Facts) { f.NRI.Plugins = []string{"100-a"} }, Broken, "nri-plugins", "no INDEX-NAME", ""},
		{"unseen", func(f *Facts) { f.NRI.ListErr = errRoot }, Warning, "nri-plugins", "permission", "as root"},
	})
}

func TestGate(t *testing.T) {
	try(t, []judgement{
		{"on", func(*Facts) {}, OK, "validator-enabled", "is on", ""},
		{"off", func(f *Facts) { f.Settings.Validator.Enabled = false }, Warning, "validator-enabled", "is off", "enable = true"},
		{"CRI-O's off", func(f *Facts) { crio(f); f.Settings.Validator.Enabled = false }, Warning, "validator-enabled", "is off", "nri_enable_default_validator = true"},
		{"none", func(f *Facts) { f.Runtime.Version = "2.1.0" }, Info, "validator-enabled", "has no validators", "Upgrade"},
		{"required", func(*Facts) {}, OK, "validator-required", "every container", ""},
		{"required by index", func(f *Facts) { f.Settings.Validator.Required = []string{"95-meshnetd"} }, OK, "validator-required", "every container", ""},
		{"required by another index", func(f *Facts) { f.Settings.Validator.Required = []string{"meshnetd", "20-meshnetd"} }, Broken, "validator-required",
			`requires the plugin "20-meshnetd", and meshnetd is "95-meshnetd"`, "required_plugins"},
		{"required, and not told", func(f *Facts) { f.Config.Values.Required = false }, Info, "validator-required", "is not told", "nri.required = true"},
		{"told, and not required", func(f *Facts) { f.Settings.Validator.Required = nil }, Warning, "validator-required", "it does not", "nri.required = false"},
		{"the tier without the validator", func(f *Facts) { f.Settings.Validator.Enabled = false }, Warning, "runtime-version", `is "best effort" here`, "enable = true"},
		{"required by pods", func(f *Facts) { f.Settings.Validator.Required, f.Config.Values.Required = []string{"other"}, false }, Info, "validator-required", `'["meshnetd"]'`, "admission policy"},
		{"CRI-O's by pods", func(f *Facts) { crio(f); f.Settings.Validator.Required, f.Config.Values.Required = nil, false }, Info, "validator-required", "", "nri_validator_required_plugins"},
		{"stay", func(*Facts) {}, OK, "validator-namespaces", "no plugin move", ""},
		{"move", func(f *Facts) { f.Settings.Validator.RejectNamespaces = false }, Info, "validator-namespaces", "lets other plugins", "reject_namespace_adjustment = true"},
		{"no tolerance", func(*Facts) {}, OK, "validator-tolerance", "No annotation", ""},
		{"tolerance", func(f *Facts) { f.Settings.Validator.Tolerate = "a/b" }, Info, "validator-tolerance", `a/b: "true"`, "admission"},
		{"refused", func(f *Facts) { f.Canary = &Canary{Refused: "required plugin \"x\" not present"} }, OK, "canary", `required plugin "x" not present`, ""},
		{"created", func(f *Facts) { f.Canary = &Canary{Created: true} }, Broken, "canary", "whatever the files say", "systemctl restart containerd"},
		{"created without validators", func(f *Facts) { f.Runtime.Version, f.Canary = "1.7.30", &Canary{Created: true} }, Info, "canary", "to be expected", ""},
		{"nothing shown", func(f *Facts) { f.Canary = &Canary{Err: errOther} }, Warning, "canary", "something else", "--canary-image"},
		{"not removed", func(f *Facts) {
			f.Canary = &Canary{Refused: "no", Left: []string{"sandbox abc: busy", "container def: busy"}}
		}, Broken, "canary-removed",
			"sandbox abc: busy", "crictl stopp abc && crictl rmp abc\ncrictl rm -f def"},
	})
	f := good()
	f.Settings.Validator.Enabled = false
	silent(t, f, "validator-required", "validator-tolerance", "validator-namespaces", "canary")
}

func TestKernel(t *testing.T) {
	fails := func(f *Facts) { f.Kernel.Err, f.Kernel.Missing = errOther, []string{"nf_tables", "xt_owner"} }
	try(t, []judgement{
		{"version", func(*Facts) {}, OK, "kernel-version", "6.12.0", ""},
		{"writes", func(*Facts) {}, OK, "kernel-rules", `"nftables" writes`, ""},
		{"one does not", func(f *Facts) { f.Kernel.Trials[1].Err = errOther }, Info, "kernel-rules", `"iptables-exec" cannot be used`, ""},
		{"none does", fails, Broken, "kernel-rules", "something else", "modprobe -a nf_tables xt_owner"},
		{"the chosen one does not", func(f *Facts) { fails(f); f.Config.Values.Backend = "iptables-nft" }, Broken, "kernel-rules", "", `backend = "auto"`},
		{"none does though all is loaded", func(f *Facts) { f.Kernel.Err = errOther }, Broken, "kernel-rules", "", "CAP_NET_ADMIN"},
		{"not root", func(f *Facts) { f.AsRoot = false }, Warning, "kernel-rules", "needs root", "as root"},
		{"chosen", func(*Facts) {}, Info, "kernel-backend", `"auto" takes iptables`, ""},
		{"IPv6", func(*Facts) {}, OK, "kernel-ipv6", "can be written", ""},
		{"no IPv6", func(f *Facts) { f.Kernel.IPv6 = errOther }, Warning, "kernel-ipv6", "something else", "ipv6.disable"},
		{"user namespaces", func(*Facts) {}, OK, "kernel-user-namespaces", "can be served", ""},
		{"no user namespaces", func(f *Facts) { f.Kernel.UserNamespaces = errOther }, Warning, "kernel-user-namespaces", "something else", "modprobe"},
		{"modules", func(*Facts) {}, OK, "kernel-modules", "nf_tables nft_compat", ""},
		{"no modules", func(f *Facts) { f.Kernel.Modules = nil }, Info, "kernel-modules", "None", ""},
		{"locked", func(f *Facts) { f.Kernel.Locked = true }, Info, "kernel-modules", "No module can be loaded", ""},
		{"locked out", func(f *Facts) { fails(f); f.Kernel.Locked = true }, Broken, "kernel-modules", "nf_tables xt_owner", "restart the node"},
		{"iptables", func(*Facts) {}, Info, "iptables", "iptables-nft 1.8.9. The backends iptables-exec, iptables-nft and iptables-legacy run them", ""},
		{"no iptables", func(f *Facts) { f.Kernel.IPTables = nil }, Info, "iptables", "No iptables program is installed. Only the backends iptables-exec, iptables-nft and iptables-legacy", ""},
		{"no iptables for iptables", func(f *Facts) { f.Kernel.IPTables, f.Config.Values.Backend = nil, "iptables-legacy" }, Broken, "iptables", "no iptables", "Install"},
		{"legacy", func(f *Facts) { f.Kernel.LegacyTables = []string{"nat", "filter"} }, Info, "iptables-legacy", "(nat filter). Pods have their own tables; one of that kind in a pod is judged by what it does to", ""},
	})
}

func TestNode(t *testing.T) {
	chained := func(types ...string) func(*Facts) {
		return func(f *Facts) { f.Node.Networks[0].Plugins = types }
	}
	try(t, []judgement{
		{"host", func(*Facts) {}, OK, "host-netns", "is known", ""},
		{"no host", func(f *Facts) { f.Node.HostErr = errOther }, Broken, "host-netns", "something else", "host_netns = "},
		{"shared", func(*Facts) {}, OK, "netns-propagation", "below /run/netns", ""},
		{"private", func(f *Facts) { f.Node.NetNSMount.Propagation = "private" }, Info, "netns-propagation", "/run, on which /run/netns lies, is private", "make-rshared /run"},
		{"unseen", func(f *Facts) { f.Node.NetNSMount.Propagation = "" }, Warning, "netns-propagation", "Could not see", "as root"},
		{"alone", func(*Facts) {}, OK, "cni-redirect", "No CNI plugin of a mesh", ""},
		{"consul-cni", chained("bridge", "consul-cni"), Warning, "cni-redirect", "consul-cni is in the chain of CNI plugins (number 2 of 2): Consul's own", "mesh.enabled"},
		{"istio-cni", chained("bridge", "istio-cni"), Warning, "cni-redirect", "istio-cni is in the chain of CNI plugins (number 2 of 2)", "pilot.cni.enabled=true"},
		{"multus", chained("multus"), Info, "cni-multus", "default/istio-cni", "pilot.cni.provider: default"},
		{"linkerd-cni", chained("linkerd-cni"), Warning, "cni-redirect", "Linkerd", "10-net.conflist"},
		{"kuma-cni", chained("kuma-cni"), Warning, "cni-redirect", "Kuma", ""},
		{"in a file that is not used", func(f *Facts) {
			f.Node.Networks = append(f.Node.Networks, Network{File: "/etc/cni/net.d/20.conflist", Plugins: []string{"istio-cni"}})
		}, Warning, "cni-redirect", "which this is not", ""},
		{"bad file", func(f *Facts) { f.Node.Networks[0].Err = errOther }, Warning, "cni-redirect", "something else", "Fix"},
		{"no look", func(f *Facts) { f.Node.CNIErr = errRoot }, Warning, "cni-redirect", "permission", "as root"},
		{"installed", func(f *Facts) { f.Node.CNIPrograms = []string{"/opt/cni/bin/istio-cni"} }, Info, "cni-programs", "/opt/cni/bin/istio-cni", "Remove"},
		{"one daemon", func(*Facts) {}, OK, "other-daemon", "No second", ""},
		{"locks", func(f *Facts) { f.Node.LocksErr = errOther }, Broken, "locks", "does not start: something else", "lock_dir"},
		{"locks of others", func(f *Facts) { f.Node.LocksErr = errRoot }, Warning, "other-daemon", "Could not tell", "as root"},
		{"two daemons", func(f *Facts) { f.Node.Daemons = true }, Warning, "other-daemon", "More than one", "systemctl stop"},
	})
}

func TestDaemon(t *testing.T) {
	down := func(err error) func(*Facts) {
		return func(f *Facts) { f.Daemon = Daemon{Socket: "/s", Err: err} }
	}
	waiting := func(cause string) func(*Facts) {
		return func(f *Facts) {
			f.Daemon.Status.Connected, f.Daemon.Status.Waiting = false, &status.Waiting{Cause: cause, Why: "because"}
		}
	}
	kubelet := func(k status.Kubelet) func(*Facts) {
		return func(f *Facts) { f.Daemon.Status.Kubelet = &k }
	}
	process := func(change func(*Process)) func(*Facts) {
		return func(f *Facts) { change(f.Daemon.Process) }
	}
	try(t, []judgement{
		{"configuration", func(*Facts) {}, OK, "config", "is good", ""},
		{"no configuration", func(f *Facts) { f.Config.Missing = true }, Info, "config", "built-in", "--print-reference"},
		{"bad configuration", func(f *Facts) { f.Config.Err = bad().Config.Err }, Broken, "config", "backend: \"x\" is none of auto", "line 3 of /etc/meshnetd/meshnetd.toml"},
		{"each problem", func(f *Facts) { f.Config.Err = bad().Config.Err }, Broken, "config", "not TOML", "line 7"},
		{"no such configuration", func(f *Facts) { f.Config.Err = fs.ErrNotExist }, Broken, "config", "not exist", "--config"},
		{"unreadable configuration", func(f *Facts) { f.Config.Err = errRoot }, Warning, "config", "permission", "as root"},
		{"not root", func(f *Facts) { f.AsRoot = false }, Warning, "root", "kernel-rules", "as root"},
		{"runs", func(*Facts) {}, OK, "daemon-running", "v1.2.0 runs since 2026-03-01", ""},
		{"not installed", down(errNo), Info, "daemon-running", "nobody is at /s", "systemctl enable"},
		{"installed", func(f *Facts) { down(errNo)(f); f.Daemon.Installed = true }, Broken, "daemon-running", "does not answer", "journalctl -u meshnetd"},
		{"crashed", func(f *Facts) { down(errNo)(f); f.Daemon.Crashed = true }, Broken, "daemon-running", "does not answer", ""},
		{"unseen", down(errRoot), Warning, "daemon-running", "permission", "as root"},
		{"no socket", func(f *Facts) { down(errNo)(f); f.Daemon.Socket, f.Daemon.Installed = "", true }, Info, "daemon-running", "status_socket is empty", "Set"},
		{"connected", func(*Facts) {}, OK, "daemon-connected", `tier "guaranteed"`, ""},
		{"not connected", func(f *Facts) { f.Daemon.Status.Connected = false }, Broken, "daemon-connected", "no session", "nri-socket"},
		{"no socket yet", waiting("socket"), Broken, "daemon-connected", "no session with the runtime: because.", "nri-socket"},
		{"the kubelet tells", kubelet(status.Kubelet{Condition: "complete", Pods: 12, Known: 7}), OK, "kubelet-pods", "tells its 12 pods; of those that started 7 were known", ""},
		{"the kubelet tells too much", kubelet(status.Kubelet{Condition: "complete", Left: 3, LeftWhy: "too many"}), Warning, "kubelet-pods", "3 pods", "rare"},
		{"no Pods API", kubelet(status.Kubelet{Condition: "absent"}), Info, "kubelet-pods", "There is no", "kubelet.podsAPI"},
		{"no Pods API, and a lockdown needs it", func(f *Facts) {
			kubelet(status.Kubelet{Condition: "absent"})(f)
			f.Config.Values.Lockdowns = []rules.Lockdown{{Place: "m.toml:3", Raw: rules.RawRefuse}}
		}, Warning, "kubelet-pods", "raw of [[lockdown]] of m.toml:3", "kubelet.podsAPI"},
		{"a lockdown without name servers", func(f *Facts) {
			f.Config.Values.Lockdowns = []rules.Lockdown{{Place: "m.toml:3", UDP: rules.UDPLookups}}
		}, Warning, "lockdown", `udp = "dns" of [[lockdown]] of m.toml:3`, "dns_servers"},
		{"a lockdown without a control plane", func(f *Facts) {
			f.Config.Values.Lockdowns = []rules.Lockdown{{Place: "m.toml:3", Egress: true, ProxyEgress: []rules.Peer{{Ports: rules.PortRange{First: 443, Last: 443}, Protocol: rules.TCP}}}}
		}, Warning, "lockdown", "proxy_egress of [[lockdown]] of m.toml:3", "15012"},
		{"the kubelet is telling", kubelet(status.Kubelet{Condition: "reading"}), Info, "kubelet-pods", "so far", "Ask again"},
		{"the kubelet fails", kubelet(status.Kubelet{Condition: "failing", Why: "because"}), Warning, "kubelet-pods", "because", "PodsAPI"},
		{"in the queue", waiting("queue"), Broken, "daemon-connected", "because", "ss -xp"},
		{"too large", waiting("synchronize"), Broken, "daemon-connected", "because", "crictl inspect"},
		{"ends the runtime", waiting("runtime_gone"), Broken, "daemon-connected", "because", "crictl inspect"},
		{"not synchronized", func(f *Facts) { f.Daemon.Status.Synchronized = false }, Warning, "daemon-connected", "not taken over", "Wait"},
		{"unprotected", func(f *Facts) { f.Daemon.Status.Pods = map[string]int{"unprotected": 2} }, Warning, "daemon-pods", "2 pods", "--repair"},
		{"init containers", func(f *Facts) {
			f.Daemon.Status.Sandboxes = []status.Sandbox{{Namespace: "shop", Name: "web", Detail: istio.New(istio.Defaults{}).Decide(rules.Pod{Annotations: map[string]string{
				"sidecar.istio.io/status": `{"initContainers":["istio-init"]}`, "required-plugins.noderesource.dev": `["meshnetd"]`}}).Detail}}
		}, Warning, "daemon-init-container", "1 pods require meshnetd", "packaging/istio/istioctl.yaml"},
		{"before a removal", func(f *Facts) {
			f.Daemon.Status.Sandboxes = []status.Sandbox{{Plan: "a"}, {Plan: "a", NotHeld: "the pod does not require it"}, {State: "skipped"}}
		}, Info, "daemon-removal", "1 pods of this node require meshnetd", "docs/migrate.md"},
		{"same version", func(*Facts) {}, OK, "daemon-version", "one version", ""},
		{"skew", func(f *Facts) { f.Daemon.Status.Version = "v1" }, Warning, "daemon-version", "meshnetd v1 and this program is v1.2.0", "restart meshnetd"},
		{"capable", func(*Facts) {}, OK, "daemon-capabilities", "CAP_SYS_ADMIN and CAP_NET_ADMIN", ""},
		{"no NET_ADMIN", process(func(p *Process) { p.Capabilities = 1 << 21 }), Broken, "daemon-capabilities", "lacks CAP_NET_ADMIN,", "CapabilityBoundingSet"},
		{"no SYS_ADMIN", process(func(p *Process) { p.Capabilities = 1 << 12 }), Broken, "daemon-capabilities", "lacks CAP_SYS_ADMIN,", ""},
		{"neither", process(func(p *Process) { p.Capabilities = 0 }), Broken, "daemon-capabilities", "lacks CAP_NET_ADMIN and CAP_SYS_ADMIN,", ""},
		{"no process", func(f *Facts) { f.Daemon.Process = nil }, Warning, "daemon-capabilities", "cannot be seen", "as root"},
		{"sandboxed", func(*Facts) {}, OK, "daemon-sandbox", "seccomp filter", ""},
		{"no filter", process(func(p *Process) { p.Seccomp = 0 }), Info, "daemon-sandbox", "with no seccomp filter.", "SystemCallFilter"},
		{"privileges", process(func(p *Process) { p.NoNewPrivs = false }), Info, "daemon-sandbox", "with no NoNewPrivileges.", ""},
		{"kept in memory", func(*Facts) {}, OK, "daemon-oom", "-900", ""},
		{"as any other", process(func(p *Process) { p.OOM = 0 }), Info, "daemon-oom", "as any other", "OOMScoreAdjust"},
		{"first to go", process(func(p *Process) { p.OOM = 1 }), Warning, "daemon-oom", "before others", "OOMScoreAdjust"},
		{"mounts reach it", func(*Facts) {}, OK, "daemon-mounts", "reach it (slave)", ""},
		{"host's mounts", process(func(p *Process) { p.OwnMounts, p.Mount.Propagation = false, "private" }), OK, "daemon-mounts", "the host's mounts", ""},
		{"mounts do not", process(func(p *Process) { p.Mount.Propagation = "private" }), Broken, "daemon-mounts", "/run, on which /run/netns lies, is private", "HostToContainer"},
		{"mounts unseen", process(func(p *Process) { p.Mount.Propagation = "" }), Warning, "daemon-mounts", "could not be read", "as root"},
		{"own namespaces", process(func(p *Process) { p.OwnNetwork, p.OwnPIDs = true, true }), Info, "daemon-namespaces", "a network and a PID namespace", "host_netns"},
	})
}
