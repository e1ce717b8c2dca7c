// SPDX-License-Identifier: Apache-2.0

package effect

import "github.com/meshnetd/meshnetd/rules"

// door is where a plan gives packets to the proxy. Only there the proxy is known to listen: any other port is open to whoever is in
// the pod, or to nobody.
type door struct {
	kind    rules.EndKind
	inbound bool
	port    uint16
}

// doors are those of a plan, and the protocols that each is for.
type doors map[door]Set

// add adds those to which packets came that end there.
func (d doors) add(ends flows) {
	for f := range ends.all() {
		if f.kind != rules.TProxied {
			continue
		}
		at := door{f.kind, f.inbound, f.listener}
		for i := range f.boxes {
			d[at] = d[at].Or(f.boxes[i][Protocol])
		}
	}
}

// knocks divides flows that TPROXY gives to a port by whether that is a door.
func (w *walker) knocks(all flows, port uint16) (doors, elsewhere flows) {
	if w.doors == nil {
		return all, flows{}
	}
	for f := range all.all() {
		in, out := w.cut(f, entered(Protocol), w.doors[door{rules.TProxied, f.inbound, port}])
		doors.add(in)
		elsewhere.add(out)
	}
	return doors, elsewhere
}
