// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/meshnetd/meshnetd/nriplugin"
)

func judgeRuntime(f Facts) []Finding {
	rt := f.Runtime
	if rt.Socket == "" {
		if f.Contained && !slices.ContainsFunc(rt.Tried, func(t Tried) bool { return !errors.Is(t.Err, fs.ErrNotExist) }) {
			return []Finding{unseen("runtime-found", "", "The runtime's own socket")}
		}
		var tried []string
		for _, t := range rt.Tried {
			tried = append(tried, t.Err.Error())
			if errors.Is(t.Err, fs.ErrPermission) {
				return []Finding{warning("runtime-found", t.Socket, "Whether a runtime answers could not be seen: %v.", t.Err).
					do("Run doctor as root.")}
			}
		}
		return []Finding{broken("runtime-found", "", "No container runtime answers: %s.", strings.Join(tried, "; ")).
			do("Start containerd or CRI-O. Where its socket is another one, set cri_socket in %s.", f.Config.File)}
	}
	if rt.Name == "" {
		return []Finding{broken("runtime-found", rt.Socket, "containerd answers and serves no CRI, so that no kubelet can use it: %v.", rt.CRIErr).
			do("Take \"cri\" out of disabled_plugins in %s and restart containerd.", f.Settings.File)}
	}
	found := []Finding{ok("runtime-found", rt.Socket, "%s answers at %s.", rt.words(), rt.Socket)}
	for _, t := range rt.Tried {
		if t.Err == nil && t.Socket != rt.Socket {
			found = append(found, warning("runtime-found", t.Socket, "A second runtime answers at %s; what follows is about the first.", t.Socket).
				do("Set cri_socket in %s to the one that the kubelet uses.", f.Config.File))
		}
	}
	return found
}

func (rt Runtime) words() string { return rt.Name + " " + rt.Version }

func (rt Runtime) isContainerd() bool { return rt.Asked || strings.EqualFold(rt.Name, "containerd") }

// tablesWhole is for containerd 1.7, in which a later file replaces a plugin's whole table.
func (rt Runtime) tablesWhole() bool {
	return rt.isContainerd() && strings.HasPrefix(strings.TrimPrefix(rt.Version, "v"), "1.")
}

// known returns what the version table has, and the zero Runtime for one that does not answer or cannot be used.
func (rt Runtime) known() nriplugin.Runtime {
	if rt.Name == "" {
		return nriplugin.Runtime{}
	}
	known, err := nriplugin.Identify(rt.Name, rt.Version)
	if err != nil {
		return nriplugin.Runtime{}
	}
	return known
}

func judgeVersion(f Facts) []Finding {
	if f.Runtime.Name == "" {
		return nil
	}
	known, err := nriplugin.Identify(f.Runtime.Name, f.Runtime.Version)
	if err != nil {
		return []Finding{broken("runtime-version", f.Runtime.Socket, "meshnetd refuses to run: %v.", err).
			do("Upgrade the runtime as it says, and restart it.")}
	}
	what := fmt.Sprintf("With %s the tier is %q. %s", known, known.Tier, known.Why)
	if known.Validates && known.Tier != nriplugin.BestEffort && f.Settings.Err == nil && !f.Settings.Validator.Enabled && !f.hidden() {
		return []Finding{warning("runtime-version", f.Runtime.Socket, "With %s the tier can be %q, and is %q here: its validator is off (validator-enabled).",
			known, known.Tier, nriplugin.BestEffort).do("%s", f.table(validatorOn, crioValidatorOn))}
	}
	if known.Tier == nriplugin.Guaranteed {
		found := []Finding{ok("runtime-version", f.Runtime.Socket, "%s", what)}
		for _, limit := range known.Limits {
			found = append(found, info("runtime-version", f.Runtime.Socket, "%s", limit))
		}
		return found
	}
	return []Finding{warning("runtime-version", f.Runtime.Socket, "%s", what).do("%s", strings.Join(known.Limits, "\n"))}
}

// hidden reports whether the runtime's files are out of sight: then nothing follows from what they do not say.
func (f Facts) hidden() bool { return f.Contained && f.Settings.Missing }

// judgeSettings is about the files themselves.
func judgeSettings(f Facts) []Finding {
	s := f.Settings
	var found []Finding
	switch {
	case s.Err != nil && errors.Is(s.Err, fs.ErrPermission):
		found = append(found, warning("runtime-config", s.File, "The runtime's configuration could not be read: %v.", s.Err).do("Run doctor as root."))
	case s.Err != nil:
		found = append(found, warning("runtime-config", s.File, "The runtime's configuration could not be read: %v. "+
			"What follows about it is of what could be.", s.Err).
			do("Fix the file, since the runtime does not start with it, or name the one it is started with: --runtime-config FILE."))
	case f.hidden():
		found = append(found, unseen("runtime-config", s.File, "What the runtime's files say"))
	case s.Missing:
		found = append(found, info("runtime-config", s.File, "There is no %s, so that the runtime has its built-in values. "+
			"Where it is started with another file, name that with --runtime-config.", s.File))
	default:
		found = append(found, ok("runtime-config", s.File, "The configuration is %s.", strings.Join(s.Files, ", ")))
	}
	if !f.Runtime.Started.IsZero() && s.Changed.After(f.Runtime.Started.Add(startError)) {
		found = append(found, warning("runtime-config-loaded", s.Newest, "%s was changed on %s and the runtime runs since %s: it has not read it.",
			s.Newest, moment(s.Changed), moment(f.Runtime.Started)).do("Restart the runtime (%s); pods go on running.", f.restart()))
	}
	if len(s.Unused) > 0 {
		found = append(found, warning("runtime-config-imports", s.File, "Nothing imports %s: containerd reads it only if its own file says so.",
			strings.Join(s.Unused, ", ")).do("Write in %s, above the first table, and restart containerd:\nimports = [%q]",
			s.File, filepath.Join(filepath.Dir(s.Unused[0]), "*.toml")))
	}
	return found
}

// startError is how much later than /proc says a process may have started: /proc counts from a whole second.
const startError = 2 * time.Second

func moment(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05") + " UTC" }

// restart is the command that makes the runtime read its files.
func (f Facts) restart() string {
	if f.Runtime.isContainerd() || f.Runtime.Name == "" {
		return "systemctl restart containerd"
	}
	return "systemctl restart crio"
}

// table is the beginning of a piece of the runtime's configuration that switches something on.
func (f Facts) table(containerd, crio string) string {
	if f.Runtime.tablesWhole() {
		return fmt.Sprintf("Write in %s (a file that it imports would replace the whole table), and restart containerd:\n%s", f.Settings.File, containerd)
	}
	if f.Runtime.isContainerd() || f.Runtime.Name == "" {
		return fmt.Sprintf("Write in %s, or in a file that it imports, and restart containerd:\n%s", f.Settings.File, containerd)
	}
	return "Write in /etc/crio/crio.conf.d/10-meshnetd.conf, and restart CRI-O:\n" + crio
}

const nriOn = "[plugins.\"io.containerd.nri.v1.nri\"]\n  disable = false"

func judgeNRI(f Facts) []Finding {
	rt, s := f.Runtime, f.Settings
	if rt.Socket == "" {
		return nil
	}
	var found []Finding
	switch {
	case rt.Asked && rt.AskErr == nil && !rt.NRIPlugin:
		return []Finding{broken("nri-enabled", rt.Socket, "containerd has no NRI: its plugin io.containerd.nri.v1.nri is not loaded.").
			do("Take it out of disabled_plugins in %s and restart containerd.", s.File)}
	case rt.NRIErr != "":
		return []Finding{broken("nri-enabled", rt.Socket, "containerd's NRI did not start: %s.", rt.NRIErr).
			do("Fix what it says, and restart containerd. A file in %s that is executable must be named INDEX-NAME.", s.PluginDir)}
	case f.hidden() && rt.AskErr == nil:
	case s.NRIDisabled && !f.hidden() && f.NRI.Err != nil:
		return []Finding{broken("nri-enabled", s.File, "NRI is switched off in the runtime%s.", byDefault(f)).
			do("%s", f.table(nriOn, "[crio.nri]\nenable_nri = true"))}
	case s.NRIDisabled && !f.hidden():
		found = append(found, warning("nri-enabled", s.File, "NRI is on in the running runtime, and off in its files: it ends with the next restart.").
			do("%s", f.table(nriOn, "[crio.nri]\nenable_nri = true")))
	case rt.AskErr != nil:
		found = append(found, warning("nri-enabled", rt.Socket, "containerd does not say whether its NRI works: %v.", rt.AskErr).do("Look at containerd's log."))
	default:
		found = append(found, ok("nri-enabled", s.File, "NRI is on."))
	}
	if s.NoConnections {
		found = append(found, broken("nri-connections", s.File, "The runtime takes no plugins from outside.").
			do("%s", f.table("[plugins.\"io.containerd.nri.v1.nri\"]\n  disable_connections = false", "[crio.nri]\nnri_disable_connections = false")))
	}
	return found
}

func byDefault(f Facts) string {
	if f.Runtime.tablesWhole() {
		return ", as it is by default in containerd 1.7"
	}
	return ""
}

func judgeSocket(f Facts) []Finding {
	mine := f.Config.Values.NRI.Socket
	switch {
	case f.NRI.Err == nil:
		return []Finding{ok("nri-socket", mine, "The runtime listens for plugins at %s.", mine)}
	case errors.Is(f.NRI.Err, fs.ErrPermission):
		return []Finding{warning("nri-socket", mine, "Could not tell whether the runtime listens for plugins at %s: %v.", mine, f.NRI.Err).
			do("Run doctor as root.")}
	case f.Settings.Socket != "" && !f.hidden() && !f.Settings.NRIDisabled && !sameSocket(f.Settings.Socket, mine):
		return []Finding{broken("nri-socket", f.Settings.File, "Nobody listens at %s, where meshnetd would connect: the runtime's NRI socket is %s.",
			mine, f.Settings.Socket).do("Write in %s:\n[nri]\nsocket = %q", f.Config.File, f.Settings.Socket)}
	}
	return []Finding{broken("nri-socket", mine, "Nobody listens for plugins: %v.", f.NRI.Err).
		do("Switch NRI on (nri-enabled), and restart the runtime (%s). In a container, mount the directory %s of the host.",
			f.restart(), filepath.Dir(mine))}
}

func sameSocket(a, b string) bool { return atRun(a) == atRun(b) }

// atRun replaces /var/run, a link on every node.
func atRun(path string) string {
	if rest, ok := strings.CutPrefix(filepath.Clean(path), "/var/run/"); ok {
		return "/run/" + rest
	}
	return filepath.Clean(path)
}

// What a runtime may give a plugin. meshnetd answers 300 ms before a request's time is over, and has to read the
// rules of every pod of the node in one request when it connects; all other pods wait while a plugin is silent.
const (
	margin          = 300 * time.Millisecond
	shortestRequest = time.Second
	longestRequest  = 10 * time.Second
	shortestJoining = time.Second
)

func judgeTimeouts(f Facts) []Finding {
	s := f.Settings
	if f.Runtime.Socket == "" || s.Request == 0 || f.hidden() {
		return nil
	}
	set := func(key, value string) string {
		return f.table(fmt.Sprintf("[plugins.\"io.containerd.nri.v1.nri\"]\n  plugin_%s = %q", key, value),
			fmt.Sprintf("[crio.nri]\nnri_plugin_%s = %q", key, value))
	}
	var found []Finding
	switch budget := max(s.Request-margin, s.Request/2); {
	case s.Request < shortestRequest:
		found = append(found, warning("nri-request-timeout", s.File, "A plugin has %v for a request, so that meshnetd has %v for the rules of a pod, "+
			"and for all pods of the node when it connects: on a busy node pods are refused.", s.Request, budget).do("%s", set("request_timeout", "2s")))
	case s.Request > longestRequest:
		found = append(found, warning("nri-request-timeout", s.File, "A plugin has %v for a request: one that hangs holds every pod of the node up for so long.",
			s.Request).do("%s", set("request_timeout", "2s")))
	default:
		found = append(found, ok("nri-request-timeout", s.File, "A plugin has %v for a request; meshnetd answers within %v.", s.Request, budget))
	}
	if s.Registration < shortestJoining {
		return append(found, warning("nri-registration-timeout", s.File, "A plugin has %v to register, which a busy node may not manage.", s.Registration).
			do("%s", set("registration_timeout", "5s")))
	}
	return append(found, ok("nri-registration-timeout", s.File, "A plugin has %v to register.", s.Registration))
}

// judgePlugins is about those that the runtime starts by itself. It does not tell which ones are connected.
func judgePlugins(f Facts) []Finding {
	n, name, index := f.NRI, f.Config.Values.NRI.Name, f.Config.Values.NRI.Index
	dir := f.Settings.PluginDir
	if n.ListErr != nil {
		return []Finding{warning("nri-plugins", dir, "The runtime's own plugins could not be looked at: %v.", n.ListErr).do("Run doctor as root.")}
	}
	if f.Contained && len(n.Plugins) == 0 {
		return []Finding{unseen("nri-plugins", dir, "Which plugins the runtime starts")}
	}
	var found []Finding
	for _, plugin := range n.Plugins {
		path := filepath.Join(dir, plugin)
		number, base, cut := strings.Cut(plugin, "-")
		switch {
		case !cut || len(number) != 2 || strings.Trim(number, "0123456789") != "" || base == "":
			found = append(found, broken("nri-plugins", path, "The runtime does not start the next time: %s is no INDEX-NAME.", path).
				do("Move it away, or rename it to something like 50-%s.", plugin))
		case base == name:
			found = append(found, warning("nri-plugins", path, "The runtime starts a plugin with meshnetd's name itself, and counts it as meshnetd: %s.", path).
				do("Remove it: as a plugin of the runtime it is not started again when it ends."))
		case number == index:
			found = append(found, info("nri-plugins", path, "%s has meshnetd's index %s: which of the two is asked first is not said.", path, index).
				do("Give one of them another index (nri.index in %s) where the order matters.", f.Config.File))
		case number > index:
			found = append(found, info("nri-plugins", path, "%s is called after meshnetd, whose index is %s: it can undo what meshnetd has just seen.", path, index).
				do("Set a higher nri.index in %s, or rename the plugin, where that is not meant.", f.Config.File))
		}
	}
	if len(found) == 0 {
		found = append(found, ok("nri-plugins", dir, "No plugin that the runtime starts has meshnetd's name or index, or a higher one."))
	}
	return found
}
