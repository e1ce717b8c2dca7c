// SPDX-License-Identifier: Apache-2.0

// Package tollbooth is a mesh that nobody has: the smallest one that every tool can work on, and an example to begin with.
package tollbooth

import (
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/mesh"
)

// What the injector writes on a pod.
const (
	KeyInjected = "tollbooth.example.com/injected"
	KeyPort     = "tollbooth.example.com/port"
)

var tcp = rules.Protocol(rules.TCP)

// Intent is what the mesh wants for one pod.
type Intent struct {
	Port        uint16            `json:"port" key:"tollbooth.port"`
	WithoutIPv6 rules.WithoutIPv6 `json:"ipv6" key:"tollbooth.ipv6"`
}

const (
	chain = "TOLLBOOTH_OUT"
	user  = 4000
)

// New returns the mesh: its proxy runs as user 4000, and listens on a port for what the pod sends.
func New(d mesh.Common) rules.Mesh {
	return mesh.Declare(mesh.Declaration[Intent]{
		Name: "tollbooth", Table: "tollbooth", Common: d,
		Footprint: rules.Footprint{Chains: []string{chain, rules.ChainBlockOut}},
		Keys:      []string{KeyInjected, KeyPort},
		Marked:    func(pod rules.Pod) bool { return pod.Annotations[KeyInjected] != "" },
		Belongs:   belongs,
		Inputs:    mesh.Texts(KeyPort),
		Read: func(r *mesh.Reader, in *Intent) error {
			*in = Intent{Port: 16001, WithoutIPv6: d.WithoutIPv6}
			mesh.Read(r, KeyPort, &in.Port, rules.ParsePort)
			return r.Understood("the annotations contradict nothing")
		},
		Proxy: func(rules.Pod, *Intent) rules.Proxy {
			return rules.Proxy{UID: user, GID: rules.NoID, Containers: []rules.Sidecar{{Name: "tollbooth", Command: []string{"tollboothd"}}}}
		},
		Rules:  (*Intent).rules,
		Widest: func() []Intent { return []Intent{{Port: 16001, WithoutIPv6: rules.IPv6Block}} },
	})
}

func belongs(pod rules.Pod, s *mesh.Steps) mesh.Verdict {
	if pod.Annotations[KeyInjected] != "true" {
		return mesh.Outside(rules.ReasonNotInjected, "tollbooth's injector has not marked the pod")
	}
	return mesh.Injected("tollbooth's injector has marked the pod")
}

func (in *Intent) rules() rules.Families {
	proxys := rules.OwnerUID(user)
	return rules.Families{
		Redirect: func(family rules.Family) rules.Ruleset {
			var b rules.Builder
			b.Append("nat", "OUTPUT", "what the pod sends", rules.Jump(chain), tcp)
			b.Append("nat", chain, "the proxy's own traffic goes out", rules.Return, proxys)
			b.Append("nat", chain, "to the proxy", rules.Redirect{Port: in.Port}, tcp)
			return b.Ruleset(family)
		},
		Block: func() rules.Ruleset {
			return rules.Block(rules.Blocked{Kept: []rules.Selection{{Why: "the proxy's own traffic", Match: []rules.Match{proxys}}},
				Captured: []rules.Selection{{Why: "everything else belongs to the mesh"}}}, rules.Blocked{})
		},
		Because: "tollbooth speaks IPv4 only", Without: in.WithoutIPv6,
	}
}
