// SPDX-License-Identifier: Apache-2.0

// Package recorded holds what Istio's own istio-iptables (1.31 development version, August 2026) left in the
// kernel for 40 pods, for tests of every layer.
package recorded

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"net/netip"

	"github.com/meshnetd/meshnetd/rules"
)

//go:embed istio-open.json
var corpus []byte

// Case is a pod and the state of its namespace afterwards.
type Case struct {
	Name        string            `json:"name"`
	Annotations map[string]string `json:"annotations"`
	PodIPs      []netip.Prefix    `json:"pod_ips"`
	ProxyEnv    map[string]string `json:"proxy_env"`
	ProxyUID    *int64            `json:"proxy_uid"`
	ProxyGID    *int64            `json:"proxy_gid"`
	Expect      State             `json:"expect"`
}

// State is what a namespace holds, as the usual tools print it: iptables-save (nf_tables variant 1.8.9)
// without comments and counters, policy rules with a mark, route table 133, addresses on lo.
type State struct {
	Exit      int      `json:"exit"`
	IPTables  []string `json:"iptables"`
	IP6Tables []string `json:"ip6tables"`
	Rule4     []string `json:"rule4"`
	Rule6     []string `json:"rule6"`
	Route4    []string `json:"route4"`
	Route6    []string `json:"route6"`
	Lo        []string `json:"lo"`
}

// Cases returns all of them.
func Cases() ([]Case, error) {
	var cases []Case
	if err := json.Unmarshal(corpus, &cases); err != nil {
		return nil, fmt.Errorf("recorded cases: %w", err)
	}
	const want = 40
	if len(cases) != want {
		return nil, fmt.Errorf("%d recorded cases, want %d", len(cases), want)
	}
	return cases, nil
}

// Pod returns the case's pod with its containers and addresses.
func (c Case) Pod() rules.Pod {
	pod := rules.Pod{Namespace: "default", Name: c.Name, Annotations: c.Annotations,
		Containers: []rules.Container{{Name: "istio-validation"},
			{Name: "istio-proxy", Args: []string{"proxy", "sidecar"}, Env: c.ProxyEnv, UID: c.ProxyUID, GID: c.ProxyGID}}}
	for _, ip := range c.PodIPs {
		pod.IPs = append(pod.IPs, ip.Addr())
	}
	return pod
}
