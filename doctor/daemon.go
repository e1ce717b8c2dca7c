// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/meshnetd/meshnetd/config"
	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/nriplugin"
)

func judgeConfig(f Facts) []Finding {
	c := f.Config
	var problems config.Problems
	switch {
	case errors.As(c.Err, &problems):
		var found []Finding
		for _, p := range problems {
			what := p.What
			if p.Key != "" {
				what = p.Key + ": " + what
			}
			found = append(found, broken("config", fmt.Sprintf("%s:%d", p.File, p.Line), "%s.", what).
				do("Fix line %d of %s; meshnetd check says whether it is good.", p.Line, p.File))
		}
		return found
	case errors.Is(c.Err, fs.ErrPermission):
		return []Finding{warning("config", c.File, "The configuration could not be read: %v. What follows is about the built-in values.", c.Err).do("Run doctor as root.")}
	case c.Err != nil:
		return []Finding{broken("config", c.File, "The configuration cannot be read: %v.", c.Err).do("Name another file with --config, or make this one readable.")}
	case c.Missing:
		return []Finding{info("config", c.File, "There is no %s: the built-in values apply.", c.File).
			do("To change them: meshnetd check --print-reference > %s", c.File)}
	}
	return []Finding{ok("config", c.File, "%s is good.", c.File)}
}

func judgeRoot(f Facts) []Finding {
	if f.AsRoot {
		return nil
	}
	return []Finding{warning("root", "", "Without root nothing was seen of: what can write rules (kernel-rules), the sockets of runtime and NRI, "+
		"files that only root may read, the daemon's process.").do("Run doctor as root.")}
}

func judgeDaemon(f Facts) []Finding {
	d := f.Daemon
	switch {
	case d.Err == nil:
		return []Finding{ok("daemon-running", d.Socket, "meshnetd %s runs since %s.", d.Status.Version, moment(d.Status.Started))}
	case d.Socket == "":
		return []Finding{info("daemon-running", f.Config.File, "status_socket is empty, so that a running meshnetd cannot be asked.").
			do("Set status_socket in %s to have the daemon looked at.", f.Config.File)}
	case errors.Is(d.Err, fs.ErrPermission):
		return []Finding{warning("daemon-running", d.Socket, "Could not tell whether meshnetd runs: %v.", d.Err).do("Run doctor as root.")}
	case d.Crashed, d.Installed:
		return []Finding{broken("daemon-running", d.Socket, "meshnetd is installed and does not answer: %v.", d.Err).
			do("systemctl status meshnetd; journalctl -u meshnetd -e")}
	}
	return []Finding{info("daemon-running", d.Socket, "meshnetd does not run: nobody is at %s.", d.Socket).
		do("Where it is installed, start it: systemctl enable --now meshnetd")}
}

func judgeSession(f Facts) []Finding {
	s := f.Daemon.Status
	switch {
	case f.Daemon.Err != nil:
		return nil
	case !s.Connected && s.Waiting != nil:
		return []Finding{broken("daemon-connected", f.Daemon.Socket, "meshnetd has no session with the runtime: %s.", s.Waiting.Why).do("%s", untie(s.Waiting.Cause))}
	case !s.Connected:
		return []Finding{broken("daemon-connected", f.Daemon.Socket, "meshnetd has no session with the runtime.").
			do("%s", untie(""))}
	case !s.Synchronized:
		return []Finding{warning("daemon-connected", f.Daemon.Socket, "meshnetd is connected, and has not taken over all pods that were there before.").
			do("Wait a moment and ask again; meshnetd status says which pods are pending.")}
	}
	found := []Finding{ok("daemon-connected", f.Daemon.Socket, "meshnetd is connected to the runtime%s, and has taken over its pods.", told(f))}
	for _, state := range lifecycle.States {
		if n := s.Pods[string(state)]; n > 0 && podsAre(state) != "" {
			found = append(found, warning("daemon-pods", f.Daemon.Socket, "%d pods of the mesh %s.", n, podsAre(state)).
				do("meshnetd status names them; meshnetd verify --all --repair gives them their rules."))
		}
	}
	return slices.Concat(found, judgeInitContainers(f), judgeRemoval(f))
}

// judgeRemoval says what a removal of meshnetd would do to the pods that wait for it.
func judgeRemoval(f Facts) []Finding {
	held := 0
	for _, sb := range f.Daemon.Status.Sandboxes {
		if sb.Plan != "" && sb.NotHeld == "" {
			held++
		}
	}
	if held == 0 {
		return nil
	}
	return []Finding{info("daemon-removal", f.Daemon.Socket, "%d pods of this node require meshnetd. Were it removed now they would run on, and no container of theirs "+
		"that ends would start again.", held).do("Before a removal: change what new pods get, and make these again (docs/migrate.md has the order).")}
}

// judgeInitContainers finds pods that were made to wait for meshnetd, and have nothing of it.
func judgeInitContainers(f Facts) []Finding {
	var both []string
	for _, sb := range f.Daemon.Status.Sandboxes {
		if strings.Contains(sb.Detail, "although annotation "+requiredAnnotation) {
			both = append(both, sb.Namespace+"/"+sb.Name)
		}
	}
	if len(both) == 0 {
		return nil
	}
	return []Finding{warning("daemon-init-container", f.Daemon.Socket, "%d pods require meshnetd and have an init container with NET_ADMIN that writes their rules, "+
		"so that meshnetd leaves them alone: %s is one.", len(both), both[0]).
		do("Switch the injector to CNI mode, and make the pods again. By Helm that is packaging/istio/values.yaml; istioctl overwrites pilot.cni.enabled " +
			"with components.cni.enabled: packaging/istio/istioctl.yaml.")}
}

// podsAre says what is wrong with pods in a state; "" where nothing is.
func podsAre(state lifecycle.State) string {
	switch state {
	case lifecycle.StateUnprotected:
		return "run without their rules"
	case lifecycle.StateFailing:
		return "could not be given their rules, or could not be read"
	case lifecycle.StateUnproven:
		return "hold rules of which nobody can tell what they do"
	case lifecycle.StateNew, lifecycle.StateProtected, lifecycle.StateOutdated, lifecycle.StatePending, lifecycle.StateExempt, lifecycle.StateSkipped:
	}
	return ""
}

// untie says how to end a wait for the runtime.
func untie(cause string) string {
	switch nriplugin.Cause(cause) {
	case nriplugin.Queue:
		return "Nothing, where it is over in a minute. Else see who holds connections to the NRI socket (ss -xp) and end what says nothing."
	case nriplugin.NoSocket, nriplugin.Unregistered:
	case nriplugin.Unsynchronized, nriplugin.RuntimeGone:
		return "Find containers with megabytes of environment or arguments, remove their pods, and restart meshnetd:\n" +
			`for c in $(crictl ps -aq); do echo "$(crictl inspect $c | wc -c) $c"; done | sort -n | tail`
	}
	return "See what nri-enabled and nri-socket say; journalctl -u meshnetd -e says why it was closed."
}

func told(f Facts) string {
	if rt := f.Daemon.Status.Runtime; rt != nil {
		return fmt.Sprintf(" (%s %s, tier %q)", rt.Name, rt.Version, rt.Tier)
	}
	return ""
}

func judgeSkew(f Facts) []Finding {
	if f.Daemon.Err != nil {
		return nil
	}
	if running := f.Daemon.Status.Version; running != f.Program {
		return []Finding{warning("daemon-version", f.Daemon.Socket, "The daemon is meshnetd %s and this program is %s.", running, f.Program).
			do("Restart the daemon where it was upgraded (systemctl restart meshnetd; pods keep their rules), or use the program beside it.")}
	}
	return []Finding{ok("daemon-version", f.Daemon.Socket, "The daemon and this program are of one version.")}
}

// The capabilities by their numbers in linux/capability.h.
const (
	capNetAdmin = 12
	capSysAdmin = 21
)

func judgeCapabilities(f Facts) []Finding {
	p := f.Daemon.Process
	if p == nil {
		if f.Daemon.Err != nil {
			return nil
		}
		return []Finding{warning("daemon-capabilities", "/proc", "The daemon's process cannot be seen from here.").
			do("Run doctor as root on the host, outside of containers.")}
	}
	source := fmt.Sprintf("/proc/%d/status", p.PID)
	var missing []string
	if p.Capabilities&(1<<capNetAdmin) == 0 {
		missing = append(missing, "CAP_NET_ADMIN")
	}
	if p.Capabilities&(1<<capSysAdmin) == 0 {
		missing = append(missing, "CAP_SYS_ADMIN")
	}
	if len(missing) > 0 {
		return []Finding{broken("daemon-capabilities", source, "The daemon lacks %s, and can write no rules.", strings.Join(missing, " and ")).
			do("Add to the unit: CapabilityBoundingSet=CAP_SYS_ADMIN CAP_NET_ADMIN; in a container, add both to securityContext.capabilities.")}
	}
	return []Finding{ok("daemon-capabilities", source, "The daemon has CAP_SYS_ADMIN and CAP_NET_ADMIN.")}
}

func judgeSandboxing(f Facts) []Finding {
	p := f.Daemon.Process
	if p == nil {
		return nil
	}
	source := fmt.Sprintf("/proc/%d/status", p.PID)
	var found []Finding
	if p.Seccomp == 2 && p.NoNewPrivs {
		found = append(found, ok("daemon-sandbox", source, "The daemon has a seccomp filter and gains no privileges."))
	} else {
		var lacks []string
		if p.Seccomp != 2 {
			lacks = append(lacks, "no seccomp filter")
		}
		if !p.NoNewPrivs {
			lacks = append(lacks, "no NoNewPrivileges")
		}
		found = append(found, info("daemon-sandbox", source, "The daemon runs with %s.", strings.Join(lacks, " and ")).
			do("The unit that comes with meshnetd sets SystemCallFilter= and NoNewPrivileges=yes."))
	}
	switch {
	case p.OOM > 0:
		return append(found, warning("daemon-oom", fmt.Sprintf("/proc/%d/oom_score_adj", p.PID), "When memory runs out the kernel ends the daemon before others "+
			"(oom_score_adj is %d): containers of the mesh then wait until it is back.", p.OOM).do("Add to the unit: OOMScoreAdjust=-900"))
	case p.OOM == 0:
		return append(found, info("daemon-oom", fmt.Sprintf("/proc/%d/oom_score_adj", p.PID), "When memory runs out the kernel may end the daemon as any other.").
			do("Add to the unit: OOMScoreAdjust=-900"))
	}
	return append(found, ok("daemon-oom", fmt.Sprintf("/proc/%d/oom_score_adj", p.PID), "When memory runs out the kernel ends others first (oom_score_adj is %d).", p.OOM))
}

// judgeView is about what the daemon sees of network namespaces that are mounted after its start.
func judgeView(f Facts) []Finding {
	p := f.Daemon.Process
	if p == nil {
		return nil
	}
	source := fmt.Sprintf("/proc/%d/mountinfo", p.PID)
	var found []Finding
	switch {
	case !p.OwnMounts:
		found = append(found, ok("daemon-mounts", source, "The daemon has the host's mounts, and sees every network namespace."))
	case p.Mount.Propagation == "":
		found = append(found, warning("daemon-mounts", source, "Which mounts the daemon sees could not be read.").do("Run doctor as root."))
	case p.Mount.Propagation == "private":
		found = append(found, broken("daemon-mounts", source, "The daemon has mounts of its own, and those that are made later do not reach it: "+
			"%s, on which %s lies, is private there. Every pod of the mesh is refused.", p.Mount.Point, p.Mount.Dir).
			do("In the unit: MountFlags=slave, or no setting that makes mounts private. In a container: mount %s with mountPropagation: HostToContainer.", p.Mount.Dir))
	default:
		found = append(found, ok("daemon-mounts", source, "The daemon has mounts of its own, and those of network namespaces reach it (%s).", p.Mount.Propagation))
	}
	if p.OwnNetwork || p.OwnPIDs {
		var own []string
		if p.OwnNetwork {
			own = append(own, "network")
		}
		if p.OwnPIDs {
			own = append(own, "PID")
		}
		found = append(found, info("daemon-namespaces", source, "The daemon runs in a %s namespace of its own.", strings.Join(own, " and a ")).
			do("Set host_netns, or share the host's (hostPID: true, hostNetwork: true)."))
	}
	return found
}
