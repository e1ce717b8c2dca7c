// SPDX-License-Identifier: Apache-2.0

package manifest_test

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/meshnetd/meshnetd/internal/heap"
	"github.com/meshnetd/meshnetd/manifest"
	"github.com/meshnetd/meshnetd/rules"
)

// field appends one with text or a message.
func field(to []byte, number protowire.Number, value string) []byte {
	return protowire.AppendString(protowire.AppendTag(to, number, protowire.BytesType), value)
}

// fields are as many alike.
func fields(times int, number protowire.Number, value string) string {
	return strings.Repeat(string(field(nil, number, value)), times)
}

// podOf is a pod's message with this specification.
func podOf(spec string) []byte {
	identity := field(field(field(nil, 1, "greedy"), 3, "tenant"), 5, "u")
	return field(field(nil, 1, string(identity)), 2, spec)
}

// doubling are containers whose variables each say the one before it twice.
func doubling(containers int) string {
	c := field(nil, 1, "c")
	for range 2 {
		c = field(c, 4, "$(v13)")
	}
	for i := range 14 {
		value := strings.Repeat("x", 64)
		if i > 0 {
			value = fmt.Sprintf("$(v%d)$(v%d)", i-1, i-1)
		}
		c = field(c, 7, string(field(field(nil, 1, fmt.Sprintf("v%d", i)), 2, value)))
	}
	return fields(containers, 2, string(c))
}

// letters is how many bytes a pod's arguments and environments have, without those of their headers.
func letters(pod rules.Pod) (bytes, words int) {
	for _, c := range pod.Containers {
		for _, word := range c.Args {
			bytes, words = bytes+len(word), words+1
		}
		for name, value := range c.Env {
			bytes, words = bytes+len(name)+len(value), words+1
		}
	}
	return bytes, words
}

// Whatever a pod's author writes, reading it takes memory for its message and not much more, and of its containers' words no
// more is kept than of any pod.
func TestReadingAPodIsBounded(t *testing.T) {
	const mostKept, mostAllocated = 256 << 10, 6 << 20
	groups := fields(1, 14, strings.Repeat(string(protowire.AppendVarint(protowire.AppendTag(nil, 4, protowire.VarintType), 5)), 1024))
	for name, spec := range map[string]string{
		"variables that double":        doubling(240),
		"the same in every container":  doubling(1024),
		"empty arguments":              fields(1, 2, fields(500_000, 4, "")),
		"in many containers":           fields(1000, 2, fields(500, 4, "")),
		"short variables":              fields(1, 2, fields(200_000, 7, string(field(nil, 1, "v")))),
		"escapes":                      fields(16, 2, fields(1, 4, strings.Repeat("$$", 30<<10))),
		"arguments below their bound":  fields(24, 2, fields(1, 4, strings.Repeat("x", 60<<10))),
		"groups in every container":    groups + fields(1024, 2, ""),
		"capabilities":                 fields(1, 2, fields(1, 15, fields(1, 1, fields(300_000, 1, "ALL")+fields(300_000, 2, "ALL")))),
		"the name of an image":         fields(1, 2, fields(1, 2, "registry.example/"+strings.Repeat("x", 1<<20))),
		"a name twice, a value each":   fields(20, 2, fields(900, 7, string(field(field(nil, 1, "v"), 2, strings.Repeat("x", 60))))),
		"arguments after an expansion": fields(1, 2, fields(1, 7, string(field(field(nil, 1, "v"), 2, strings.Repeat("x", 60<<10))))+fields(5000, 4, "$(v)")),
	} {
		message := podOf(spec)
		var pod rules.Pod
		var err error
		took := heap.Allocated(func() { pod, err = manifest.ReadProtobuf(message) })
		bytes, words := letters(pod)
		kept := bytes + 16*words
		t.Logf("%s: %d bytes of message, %d asked for, %d kept of %d words", name, len(message), took, kept, words)
		if most := uint64(mostAllocated + 3*len(message)); err != nil || took > most || kept > mostKept {
			t.Errorf("%s: %v; a message of %d bytes took %d bytes, and %d of its words are kept", name, err, len(message), took, kept)
		}
		for _, c := range pod.Containers {
			if len(c.Image) > 4096 {
				t.Errorf("%s: an image's name of %d bytes is kept", name, len(c.Image))
			}
		}
	}
}

// What is too long of one container hides nothing that others are given, nor what it is given itself.
func TestPowersBehindLongWords(t *testing.T) {
	app := fields(1, 1, "app") + fields(100_000, 4, "word") + fields(1, 15, fields(1, 1, fields(1, 1, "SYS_TIME")+fields(3, 1, "cap_net_admin")+fields(1, 1, "NET_RAW")))
	pod, err := manifest.ReadProtobuf(podOf(fields(1, 2, app) + fields(1, 2, fields(1, 1, "after")+fields(1, 4, "x")+fields(1, 15, fields(1, 1, fields(1, 2, "all"))))))
	if err != nil {
		t.Fatal(err)
	}
	if c := pod.Container("app"); c.Args != nil || c.Powers != (rules.Powers{NetAdmin: true, NetRaw: true}) {
		t.Errorf("app: %d arguments, %+v", len(c.Args), c.Powers)
	}
	if c := pod.Container("after"); !c.Powers.DropsNetRaw {
		t.Errorf("after: %+v", c.Powers)
	}
}

// A large pod of nobody who means harm is known whole: twenty containers with sixty variables each, some of which name others.
func TestLargePodIsKnown(t *testing.T) {
	c := fields(1, 1, "c") + fields(40, 4, "--argument=of-a-usual-length") + fields(1, 4, "$(NAME_OF_A_VARIABLE_0)")
	for i := range 60 {
		value := "https://service.namespace.svc:8443/"
		if i%20 == 1 {
			value = "$(NAME_OF_A_VARIABLE_0)/path"
		}
		c += fields(1, 7, string(field(field(nil, 1, fmt.Sprintf("NAME_OF_A_VARIABLE_%d", i)), 2, value)))
	}
	pod, err := manifest.ReadProtobuf(podOf(fields(20, 2, c)))
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range pod.Containers {
		if len(c.Args) != 41 || c.Args[40] != "https://service.namespace.svc:8443/" || len(c.Env) != 60 {
			t.Fatalf("of container %d %d arguments and %d variables are known", i, len(c.Args), len(c.Env))
		}
	}
}

// Neither notation lets few words become many, nor many groups as many for each container.
func TestManifestsAreBounded(t *testing.T) {
	var text, containers strings.Builder
	for i := range 200 {
		fmt.Fprintf(&containers, "  - name: c%d\n    args: [\"$(V12)\", \"$(V12)\"]\n    env:\n    - {name: V0, value: %s}\n", i, strings.Repeat("x", 64))
		for v := 1; v < 13; v++ {
			fmt.Fprintf(&containers, "    - {name: V%d, value: \"$(V%d)$(V%d)\"}\n", v, v-1, v-1)
		}
	}
	fmt.Fprintf(&text, "kind: Pod\nspec:\n  securityContext: {supplementalGroups: [%s5]}\n  containers:\n%s", strings.Repeat("5,", 20_000), &containers)
	pod, err := manifest.Read(strings.NewReader(text.String()))
	if err != nil {
		t.Fatal(err)
	}
	if bytes, _ := letters(pod); bytes > text.Len()+256<<10 {
		t.Errorf("a manifest of %d bytes became %d bytes of words", text.Len(), bytes)
	}
	first, last := pod.Containers[0].Groups, pod.Containers[199].Groups
	if len(first) != 20_001 || &first[0] != &last[0] {
		t.Error("each container has the pod's groups for itself")
	}
}

// Dollars and brackets without an end are read once, not once for each of them: else this test has no end.
func TestExpansionReadsOnce(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"$", "$"}, {"$(", "$("}, {"a$(b", "a$(b"}, {"$$(A)", "$(A)"}, {"$$$(A)", "$a"}, {"$x$(A)$", "$xa$"}, {"$(A)$(", "a$("}, {")$(A)", ")a"}, {"$(A", "$(A"}, {"$()", ""},
		{strings.Repeat("$(", 100<<10), strings.Repeat("$(", 100<<10)}, {strings.Repeat("$(", 1<<20), ""}, {strings.Repeat("$$", 1<<20), ""},
	} {
		pod, err := manifest.Item([]byte(`{"spec":{"containers":[{"args":["` + tt.text + `"],"env":[{"name":"A","value":"a"}]}]}}`))
		if err != nil {
			t.Fatal(err)
		}
		got, known := "", false
		if args := pod.Containers[0].Args; len(args) == 1 {
			got, known = args[0], true
		}
		if got != tt.want || known != (tt.want != "") {
			t.Errorf("%.20s: got %.20q (known: %t), want %.20q", tt.text, got, known, tt.want)
		}
	}
}

// A pod that cannot be read is known by its name, so that this can be said of it.
func TestUnreadableProtobuf(t *testing.T) {
	pod, err := manifest.ReadProtobuf(podOf(fields(1025, 2, "")))
	if err == nil || !strings.Contains(err.Error(), "more than 1024 containers") {
		t.Errorf("got %v", err)
	}
	if pod.UID != "u" || pod.Namespace != "tenant" || pod.Name != "greedy" || pod.Containers != nil || pod.Complete {
		t.Errorf("got %+v", pod)
	}
}
