// SPDX-License-Identifier: Apache-2.0

// Package config reads meshnetd's TOML file. reference.toml documents every key and holds the defaults.
package config

import (
	_ "embed"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/consul"
	"github.com/meshnetd/meshnetd/rules/istio"
	"github.com/meshnetd/meshnetd/rules/kuma"
	"github.com/meshnetd/meshnetd/rules/linkerd"
	"github.com/meshnetd/meshnetd/rules/static"
)

// Reference is the documented configuration file, which says what Default returns.
//
//go:embed reference.toml
var Reference string

// Config is the validated configuration.
type Config struct {
	Backend         string   // one of Backends
	RuntimeHandlers []string // handlers whose sandboxes use the node's kernel for their network
	HostNetNS       string   // path of the host's network namespace; "" where this process can tell
	ProxyIdentity   Identity
	IdentityExempt  []string // patterns of path.Match for namespaces where nobody looks for ProxyIdentity
	ProxyImages     []string // patterns of path.Match for the image of a proxy; none is any image
	CatchUp         CatchUp
	ReplaceOutdated bool // rules that another version or configuration wrote, and that are whole, are replaced
	OnDrift         OnDrift
	AuditInterval   time.Duration            // in which every protected namespace is read once
	Annotations     []rules.AnnotationPolicy // first match counts
	Budget          rules.Budget             // of a pod
	Policies        []rules.CapturePolicy    // first match counts
	Lockdowns       []rules.Lockdown         // all that match count
	CRISocket       string                   // path; "" is the runtime's usual one
	StatusSocket    string                   // path; "" is none
	LockDir         string                   // path of a directory that is root's alone
	NRI             NRI
	Required        bool   // the runtime itself requires the plugin, for every container of the node
	Hooks           Hooks  // by neighbours: other plugins
	PodsAPI         string // of the kubelet: path of its socket, PodsAPIAuto or PodsAPIOff
	Bypass          Bypass
	BypassExempt    []string // patterns of path.Match for namespaces where nobody is refused by Bypass
	Log             Log
	Metrics         Metrics
	Mesh            Mesh
	Istio           istio.Defaults
	Consul          consul.Defaults
	Kuma            kuma.Defaults
	Linkerd         linkerd.Defaults
	Static          []static.Profile  // of sidecars that no mesh injects
	Origin          map[string]string // where the file sets a key, as "FILE:LINE"; nothing for what it leaves to its default
}

// Identity says what happens to a container that runs as the proxy's user or group and is not the proxy.
type Identity string

// The ways to treat it.
const (
	IdentityRefuse Identity = "refuse"
	IdentityReport Identity = "report"
	IdentityOff    Identity = "off"
)

// In returns the setting for a namespace, where some are exempt.
func (i Identity) In(namespace string, exempt []string) Identity {
	if rules.MatchesAny(exempt, namespace) {
		return IdentityOff
	}
	return i
}

// CatchUp says what happens to a pod that runs without its rules when meshnetd first sees it.
type CatchUp string

// The ways to treat it.
const (
	CatchUpApply  CatchUp = "apply"  // it gets them; what was connected before stays as it is
	CatchUpReport CatchUp = "report" // it is named only
	CatchUpStop   CatchUp = "stop"   // its sandbox is stopped over CRI, so that the kubelet makes a new one
)

// OnDrift says what happens to a protected pod whose rules are found changed.
type OnDrift string

// The ways to treat it.
const (
	DriftRepair OnDrift = "repair"
	DriftReport OnDrift = "report"
)

// NRI says how to reach the runtime and by which name.
type NRI struct {
	Socket string // path
	Name   string
	Index  string // two digits; plugins are called in ascending order
}

// Hooks says what happens to a container that another plugin gives OCI hooks, which run when all plugins have been asked.
type Hooks string

// The ways to treat it.
const (
	HooksReport Hooks = "report"
	HooksRefuse Hooks = "refuse"
)

// Log says what is logged and how.
type Log struct {
	Level  string // one of Levels
	Format string // one of Formats
}

// Metrics says where metrics and health can be read beside the status socket.
type Metrics struct {
	Address string // "IP:PORT" or "unix:/PATH"; "" is nowhere
	Status  bool   // the status and explanations, too
}

// The values that Backend, Log.Level and Log.Format can have.
var (
	Backends = []string{"auto", "iptables", "iptables-exec", "iptables-nft", "iptables-legacy", "nftables"}
	Levels   = []string{"debug", "info", "warn", "error"}
	Formats  = []string{"auto", "journal", "text", "json"}
)

// Default returns the configuration of an empty file.
func Default() Config {
	c := unsaid()
	c.inherit()
	return c
}

// unsaid is the default configuration before inherit.
func unsaid() Config {
	c := Config{
		Backend:         "auto",
		RuntimeHandlers: []string{"", "runc", "crun", "youki", "nvidia", "nvidia-cdi", "nvidia-legacy", "high-performance"},
		ProxyIdentity:   IdentityRefuse,
		CatchUp:         CatchUpApply,
		OnDrift:         DriftRepair,
		AuditInterval:   30 * time.Second,
		StatusSocket:    "/run/meshnetd/meshnetd.sock",
		LockDir:         "/run/meshnetd-locks",
		NRI:             NRI{Socket: "/var/run/nri/nri.sock", Name: "meshnetd", Index: "95"},
		Hooks:           HooksReport,
		PodsAPI:         PodsAPIAuto,
		Bypass:          BypassReport,
		Log:             Log{Level: "info", Format: "auto"},
		Budget:          rules.StandardBudget(),
		Mesh:            Mesh{Enabled: slices.Clone(Meshes)},
		Istio:           istio.Standard(),
		Consul:          consul.Standard(),
		Kuma:            kuma.Standard(),
		Linkerd:         linkerd.Standard(),
	}
	c.Consul.WithoutIPv6, c.Kuma.WithoutIPv6, c.Linkerd.WithoutIPv6 = "", "", ""
	return c
}

// Load reads and checks a file. Its error is a Problems where the file could be read.
func Load(path string) (Config, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return Config{}, fmt.Errorf("configuration: %w", err)
	}
	return Parse(path, string(text))
}

// keys lists every key with what it sets. It is the schema: a key that is not here is unknown.
func keys(c *Config) map[string]setter {
	i := &c.Istio
	all := map[string]setter{
		"backend":               text(&c.Backend, oneOf(Backends)),
		"ipv6":                  text(&i.WithoutIPv6, oneOf(ipv6Words)),
		"exclude_namespaces":    texts(&i.ExcludeNamespaces, namespaceName),
		"runtime_handlers":      texts(&c.RuntimeHandlers, anyText),
		"host_netns":            text(&c.HostNetNS, absoluteOrNone),
		"proxy_identity":        text(&c.ProxyIdentity, oneOf([]Identity{IdentityRefuse, IdentityReport, IdentityOff})),
		"proxy_identity_exempt": texts(&c.IdentityExempt, pattern),
		"proxy_images":          texts(&c.ProxyImages, pattern),
		"catch_up":              text(&c.CatchUp, oneOf([]CatchUp{CatchUpApply, CatchUpReport, CatchUpStop})),
		"replace_outdated":      boolean(&c.ReplaceOutdated),
		"on_drift":              text(&c.OnDrift, oneOf([]OnDrift{DriftRepair, DriftReport})),
		"audit_interval":        parsed(&c.AuditInterval, interval),
		"cri_socket":            text(&c.CRISocket, absoluteOrNone),
		"status_socket":         text(&c.StatusSocket, absoluteOrNone),
		"lock_dir":              text(&c.LockDir, absolute),

		"nri.socket": text(&c.NRI.Socket, absolute),
		"nri.name":   text(&c.NRI.Name, pluginName),
		"nri.index":  text(&c.NRI.Index, twoDigits),

		"nri.required":     boolean(&c.Required),
		"neighbours.hooks": text(&c.Hooks, oneOf([]Hooks{HooksReport, HooksRefuse})),

		"kubelet.pods_api":  text(&c.PodsAPI, podsAPI),
		"bypass.privileged": text(&c.Bypass, oneOf([]Bypass{BypassReport, BypassRefuse})),
		"bypass.exempt":     texts(&c.BypassExempt, pattern),

		"log.level":  text(&c.Log.Level, oneOf(Levels)),
		"log.format": text(&c.Log.Format, oneOf(Formats)),

		"budget.bytes": number(&c.Budget.Bytes, 1<<10, 256<<10),
		"budget.items": number(&c.Budget.Items, 16, 4096),
		"budget.rules": number(&c.Budget.Rules, 128, 8192),

		"metrics.address": text(&c.Metrics.Address, metricsAddress),
		"metrics.status":  boolean(&c.Metrics.Status),

		"istio.outbound_port":        port(&i.OutboundPort),
		"istio.inbound_port":         port(&i.InboundPort),
		"istio.tunnel_port":          port(&i.TunnelPort),
		"istio.dns_port":             port(&i.DNSPort),
		"istio.proxy_uid":            number(&i.UID, 1, 1<<32-2),
		"istio.proxy_gid":            number(&i.GID, 1, 1<<32-2),
		"istio.openshift":            boolean(&i.OpenShift),
		"istio.dns_capture":          boolean(&i.DNSCapture),
		"istio.dual_stack":           boolean(&i.DualStack),
		"istio.invalid_drop":         boolean(&i.InvalidDrop),
		"istio.owner_groups":         groups(&i.OwnerGroups, true),
		"istio.owner_groups_exclude": groups(&i.OwnerGroupsExclude, false),
		"istio.loopback_cidr":        parsed(&i.Loopback, istio.ParseLoopback),
	}
	maps.Copy(all, meshKeys(c))
	return all
}

// check finds keys that contradict each other. It reports the later one, or the one that the file has.
func (c Config) check(lines map[string]int) map[string]string {
	problems := map[string]string{}
	ports := []struct {
		key  string
		port uint16
	}{{"istio.outbound_port", c.Istio.OutboundPort}, {"istio.inbound_port", c.Istio.InboundPort},
		{"istio.tunnel_port", c.Istio.TunnelPort}, {"istio.dns_port", c.Istio.DNSPort},
		{"linkerd.outbound_port", c.Linkerd.OutboundPort}, {"linkerd.inbound_port", c.Linkerd.InboundPort}}
	for i, later := range ports {
		for _, earlier := range ports[:i] {
			if earlier.port == later.port && table(earlier.key) == table(later.key) {
				said, other := later.key, earlier.key
				if lines[said] == 0 {
					said, other = other, said
				}
				problems[said] = fmt.Sprintf("%d is %s already: two listeners cannot share a port", later.port, other)
			}
		}
	}
	if c.StatusSocket != "" && c.Metrics.Address == "unix:"+c.StatusSocket {
		problems["metrics.address"] = "is status_socket already, which answers for metrics, too: leave it empty"
	}
	if c.Metrics.Status && c.Metrics.Address == "" {
		problems["metrics.status"] = "there is no metrics.address to serve it at: status_socket has it in any case"
	}
	if len(c.Mesh.Enabled)+len(c.Static) == 0 {
		problems["mesh.enabled"] = "an empty list would leave every pod without its rules: there is no [[static]] profile either"
	}
	if len(c.RuntimeHandlers) == 0 {
		problems["runtime_handlers"] = `an empty list would refuse every pod of the mesh; "" is the runtime's default handler`
	}
	return problems
}

// table is the table that a key is in.
func table(key string) string {
	name, _, _ := strings.Cut(key, ".")
	return name
}

func oneOf[T ~string](values []T) func(string) error {
	return func(s string) error {
		if !slices.Contains(values, T(s)) {
			words := make([]string, len(values))
			for i, value := range values {
				words[i] = string(value)
			}
			return fmt.Errorf("%q is none of %s", s, strings.Join(words, ", "))
		}
		return nil
	}
}

// A shorter interval would keep the node busy with the auditor; a longer one nobody would wait for.
const (
	shortestInterval = time.Second
	longestInterval  = 24 * time.Hour
)

func interval(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, errors.New("not a duration such as 30s or 5m")
	}
	if d < shortestInterval || d > longestInterval {
		return 0, errors.New("not between 1s and 24h")
	}
	return d, nil
}

// like returns what accepts texts of a pattern, and says what any other one is not.
func like(pattern, problem string) func(string) error {
	accepted := regexp.MustCompile(pattern)
	return func(s string) error {
		if !accepted.MatchString(s) {
			return fmt.Errorf("%q is %s", s, problem)
		}
		return nil
	}
}

const label = `^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$` // of RFC 1123

var (
	namespaceName = like(label, "no name of a namespace; there are no patterns here")
	profileName   = like(label, "no name: lower-case letters, digits and -, 63 at most")
	pluginName    = like(`^[^/ \t\n]+$`, "no plugin name: not empty, without slashes and blanks")
	twoDigits     = like(`^[0-9]{2}$`, "not two digits")
	absolute      = like(`^/`, "not an absolute path")

	absoluteOrNone = orNone(absolute)
	ipv6OrNone     = orNone(oneOf(ipv6Words))
)

// orNone accepts an empty text, too.
func orNone(check func(string) error) func(string) error {
	return func(s string) error {
		if s == "" {
			return nil
		}
		return check(s)
	}
}

// metricsAddress accepts no host names, since what they resolve to may change.
func metricsAddress(s string) error {
	if path, unix := strings.CutPrefix(s, "unix:"); unix {
		return absolute(path)
	}
	if at, err := netip.ParseAddrPort(s); s != "" && (err != nil || at.Port() == 0) {
		return fmt.Errorf(`%q is neither an IP address with a port, such as 127.0.0.1:15990 or [::1]:15990, nor unix: and an absolute path`, s)
	}
	return nil
}

// groups reads ["*"], everybody, where that is allowed, or a list of group ids.
func groups(target *[]uint32, wildcard bool) setter {
	var words []string
	return then(each(&words, func(item any) (string, error) {
		word := fmt.Sprint(item)
		if word == "*" && !wildcard {
			return word, fmt.Errorf(`"*" would exclude everybody`)
		}
		_, err := istio.ParseOwnerGroups(word)
		return word, err
	}), func() error {
		ids, err := istio.ParseOwnerGroups(strings.Join(words, ",")) // everybody and somebody is no list
		if err == nil && wildcard {
			err = istio.CheckOwnerGroups(ids)
		}
		if err != nil {
			return err
		}
		*target = ids
		if len(ids) == 0 && !wildcard {
			*target = nil
		}
		return nil
	})
}
