// SPDX-License-Identifier: Apache-2.0

package packaging

import (
	"slices"
	"testing"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/ext"

	"github.com/meshnetd/meshnetd/config"
)

// policy is what the file uses of admissionregistration.k8s.io/v1; any other field is a misspelled one.
type policy struct {
	object `yaml:",inline"`
	Spec   struct {
		FailurePolicy    string `yaml:"failurePolicy"`
		MatchConstraints struct {
			ResourceRules []struct {
				APIGroups   []string `yaml:"apiGroups"`
				APIVersions []string `yaml:"apiVersions"`
				Operations  []string
				Resources   []string
			} `yaml:"resourceRules"`
		} `yaml:"matchConstraints"`
		Variables   []struct{ Name, Expression string }
		Validations []struct{ Expression, Message, Reason string }
	}
}

type binding struct {
	object `yaml:",inline"`
	Spec   struct {
		PolicyName        string   `yaml:"policyName"`
		ValidationActions []string `yaml:"validationActions"`
	}
}

type object struct {
	APIVersion string `yaml:"apiVersion"`
	Kind       string
	Metadata   struct{ Name string }
}

func readPolicy(t *testing.T, file string) policy {
	t.Helper()
	var p policy
	var b binding
	if n := decodeAll(t, file, &p, &b); n != 2 {
		t.Fatalf("%d documents, want a policy and its binding", n)
	}
	for kind, o := range map[string]object{"ValidatingAdmissionPolicy": p.object, "ValidatingAdmissionPolicyBinding": b.object} {
		if o.Kind != kind || o.APIVersion != "admissionregistration.k8s.io/v1" {
			t.Errorf("%s is %s of %s", kind, o.Kind, o.APIVersion)
		}
	}
	if b.Spec.PolicyName != p.Metadata.Name || len(b.Spec.ValidationActions) != 1 || b.Spec.ValidationActions[0] != "Deny" {
		t.Errorf("the binding does not deny by this policy: %+v", b.Spec)
	}
	if p.Spec.FailurePolicy != "Fail" {
		t.Errorf("what cannot be judged is let through: %s", p.Spec.FailurePolicy)
	}
	return p
}

// program is the policy's expressions, compiled. Kubernetes gives them the same names; the API's types it also
// knows are any type here.
type program struct {
	names       []string
	variables   []cel.Program
	validations []cel.Program
}

func compile(t *testing.T, p policy) program {
	t.Helper()
	env, err := cel.NewEnv(
		cel.Variable("object", cel.DynType), cel.Variable("oldObject", cel.DynType),
		cel.Variable("namespaceObject", cel.DynType),
		cel.Variable("variables", cel.MapType(cel.StringType, cel.DynType)),
		ext.Strings(), cel.ASTValidators(cel.ValidateRegexLiterals(), cel.ValidateHomogeneousAggregateLiterals()),
	)
	if err != nil {
		t.Fatal(err)
	}
	one := func(expression string) cel.Program {
		ast, issues := env.Compile(expression)
		if issues.Err() != nil {
			t.Fatalf("%s\n%v", expression, issues.Err())
		}
		compiled, err := env.Program(ast)
		if err != nil {
			t.Fatalf("%s\n%v", expression, err)
		}
		return compiled
	}
	var out program
	for _, v := range p.Spec.Variables {
		out.names = append(out.names, v.Name)
		out.variables = append(out.variables, one(v.Expression))
	}
	for _, v := range p.Spec.Validations {
		out.validations = append(out.validations, one(v.Expression))
	}
	return out
}

// denied returns the places of the validations that an admission request fails.
func (p program) denied(t *testing.T, request map[string]any) []int {
	t.Helper()
	variables := map[string]any{}
	request["variables"] = variables
	for i, v := range p.variables { // in order: a variable may use those before it
		value, _, err := v.Eval(request)
		if err != nil {
			t.Fatalf("variable %s: %v", p.names[i], err)
		}
		variables[p.names[i]] = value
	}
	var failed []int
	for i, v := range p.validations {
		value, _, err := v.Eval(request)
		if err != nil {
			t.Fatalf("validation %d: %v", i, err)
		}
		if value != types.True {
			failed = append(failed, i)
		}
	}
	return failed
}

type annotations map[string]string

// with returns a copy with more annotations in pairs, and without those whose value is "".
func (a annotations) with(more ...string) annotations {
	all := annotations{}
	for k, v := range a {
		all[k] = v
	}
	for i := 0; i < len(more); i += 2 {
		all[more[i]] = more[i+1]
		if more[i+1] == "" {
			delete(all, more[i])
		}
	}
	return all
}

// pod is an object of the API server, as far as the policies look at it.
func pod(kind string, labels, annotations map[string]string) map[string]any {
	meta := map[string]any{"name": "x"}
	if labels != nil {
		meta["labels"] = labels
	}
	if annotations != nil {
		meta["annotations"] = annotations
	}
	return map[string]any{"kind": kind, "metadata": meta}
}

// review asks about a new pod, or with before about another one in its place.
func review(namespace map[string]string, before, after annotations) map[string]any {
	request := map[string]any{"object": pod("Pod", nil, after), "oldObject": nil, "namespaceObject": pod("Namespace", namespace, nil)}
	if before != nil {
		request["oldObject"] = pod("Pod", nil, before)
		if len(before) == 0 {
			request["oldObject"] = pod("Pod", nil, nil)
		}
	}
	return request
}

func TestAdmissionPolicy(t *testing.T) {
	const (
		status   = "sidecar.istio.io/status"
		scoped   = requiredPlugins + "/pod"
		tolerate = "tolerate-missing-nri-plugins.noderesource.dev"

		override, missing, changed = 0, 1, 2 // the validations
	)
	var (
		meshed  = map[string]string{"istio-injection": "enabled"}
		revised = map[string]string{"istio.io/rev": "stable"}
		off     = map[string]string{"istio-injection": "disabled"}

		none annotations
		bare = annotations{status: "{}"}
		good = bare.with(requiredPlugins, `["meshnetd"]`)
	)
	p := compile(t, readPolicy(t, "admission/required-plugin.yaml"))
	for name, c := range map[string]struct {
		labels      map[string]string
		before, pod annotations
		denied      []int
	}{
		"injected":                              {labels: meshed, pod: good},
		"injected, with other annotations":      {labels: meshed, pod: good.with("example.com/a", "b")},
		"with an index and others":              {labels: meshed, pod: bare.with(requiredPlugins, `[ "a", "95-meshnetd" ,"b" ]`)},
		"injected by the pod's label":           {labels: nil, pod: good},
		"key missing":                           {labels: meshed, pod: bare, denied: []int{missing}},
		"key missing, namespace not labelled":   {labels: nil, pod: bare, denied: []int{missing}},
		"value empty":                           {labels: meshed, pod: annotations{status: "{}", requiredPlugins: ""}, denied: []int{missing}},
		"list empty":                            {labels: meshed, pod: bare.with(requiredPlugins, `[]`), denied: []int{missing}},
		"no list":                               {labels: meshed, pod: bare.with(requiredPlugins, `meshnetd`), denied: []int{missing}},
		"malformed JSON":                        {labels: meshed, pod: bare.with(requiredPlugins, `["meshnetd"`), denied: []int{missing}},
		"malformed JSON behind it":              {labels: meshed, pod: bare.with(requiredPlugins, `["meshnetd"]]`), denied: []int{missing}},
		"another document behind it":            {labels: meshed, pod: bare.with(requiredPlugins, "[\"meshnetd\"]\n--- []"), denied: []int{missing}},
		"a comment":                             {labels: meshed, pod: bare.with(requiredPlugins, "[] # [\"meshnetd\"]"), denied: []int{missing}},
		"no comma":                              {labels: meshed, pod: bare.with(requiredPlugins, `["a" "meshnetd"]`), denied: []int{missing}},
		"another plugin":                        {labels: meshed, pod: bare.with(requiredPlugins, `["a"]`), denied: []int{missing}},
		"a name that ends the same":             {labels: meshed, pod: bare.with(requiredPlugins, `["not-meshnetd"]`), denied: []int{missing}},
		"a name that begins the same":           {labels: meshed, pod: bare.with(requiredPlugins, `["meshnetd2"]`), denied: []int{missing}},
		"two names in one":                      {labels: meshed, pod: bare.with(requiredPlugins, `["a, \"meshnetd\""]`), denied: []int{missing}},
		"override for the pod":                  {labels: meshed, pod: good.with(scoped, `[]`), denied: []int{override}},
		"override for a container":              {labels: meshed, pod: good.with(requiredPlugins+"/container.app", `[]`), denied: []int{override}},
		"override that repeats":                 {labels: meshed, pod: good.with(scoped, `["meshnetd"]`), denied: []int{override}},
		"override, namespace not labelled":      {labels: nil, pod: good.with(scoped, `[]`), denied: []int{override}},
		"toleration":                            {labels: meshed, pod: good.with(tolerate, "true"), denied: []int{override}},
		"toleration for the pod":                {labels: meshed, pod: good.with(tolerate+"/pod", "true"), denied: []int{override}},
		"toleration for a container":            {labels: meshed, pod: good.with(tolerate+"/container.app", "true"), denied: []int{override}},
		"override and key missing":              {labels: meshed, pod: bare.with(scoped, `[]`), denied: []int{override, missing}},
		"no annotations":                        {labels: meshed, pod: none},
		"outside the mesh":                      {labels: nil, pod: none},
		"outside, with a toleration":            {labels: nil, pod: annotations{tolerate: "true"}},
		"outside, with an override":             {labels: off, pod: annotations{scoped: `[]`}},
		"not injected in a meshed namespace":    {labels: meshed, pod: annotations{requiredPlugins: `["other"]`}},
		"override in a meshed namespace":        {labels: meshed, pod: annotations{scoped: `[]`}, denied: []int{override}},
		"override in a namespace of a revision": {labels: revised, pod: annotations{scoped: `[]`}, denied: []int{override}},

		"update of something else":         {labels: meshed, before: good, pod: good.with("a", "b")},
		"update of a pod outside":          {labels: nil, before: annotations{}, pod: none},
		"update of an older pod":           {labels: meshed, before: bare, pod: bare.with("a", "b")},
		"update of an older one, override": {labels: meshed, before: good.with(scoped, `[]`), pod: good.with(scoped, `[]`, "a", "b")},
		"update that takes the key":        {labels: meshed, before: good, pod: bare, denied: []int{missing}},
		"update that empties it":           {labels: meshed, before: good, pod: bare.with(requiredPlugins, `[]`), denied: []int{missing}},
		"update that overrides":            {labels: meshed, before: good, pod: good.with(scoped, `[]`), denied: []int{override}},
		"update that changes an override":  {labels: meshed, before: good.with(scoped, `["a"]`), pod: good.with(scoped, `[]`), denied: []int{override}},
		"update that leaves in part":       {labels: meshed, before: good, pod: good.with("sidecar.istio.io/inject", "false"), denied: []int{changed}},
		"update that excludes":             {labels: meshed, before: good, pod: good.with("traffic.sidecar.istio.io/excludeOutboundPorts", "443"), denied: []int{changed}},
		"update that enrols":               {labels: nil, before: annotations{"a": "b"}, pod: good, denied: []int{changed}},
		"update that mends":                {labels: meshed, before: bare.with(scoped, `[]`), pod: good},
		"update that leaves the mesh":      {labels: meshed, before: good, pod: good.with(status, ""), denied: []int{changed}},
		"update that leaves it altogether": {labels: nil, before: good, pod: none, denied: []int{missing, changed}},
	} {
		t.Run(name, func(t *testing.T) {
			got := p.denied(t, review(c.labels, c.before, c.pod))
			if len(got) != len(c.denied) {
				t.Fatalf("denied by %v, want %v", got, c.denied)
			}
			for i := range got {
				if got[i] != c.denied[i] {
					t.Fatalf("denied by %v, want %v", got, c.denied)
				}
			}
			// What the policy lets through must mean the same to the runtime.
			_, injected := c.pod[status]
			if c.before == nil && injected && len(got) == 0 && !requires(c.pod[requiredPlugins], config.Default().NRI.Name) {
				t.Errorf("let through, but the runtime's validator does not find the plugin in %q", c.pod[requiredPlugins])
			}
		})
	}
}

// The policy's message tells a pod's author what to do.
func TestAdmissionMessages(t *testing.T) {
	for file, resources := range map[string][]string{
		"admission/required-plugin.yaml": {"pods", "pods/status", "pods/binding", "bindings"},
		"admission/proxy-identity.yaml":  {"pods", "pods/ephemeralcontainers"},
		"admission/bounded-pods.yaml":    {"pods", "pods/status", "pods/ephemeralcontainers", "pods/binding", "bindings"},
	} {
		p := readPolicy(t, file)
		for i, v := range p.Spec.Validations {
			if v.Message == "" || v.Reason != "Forbidden" {
				t.Errorf("%s: validation %d: message %q, reason %q", file, i, v.Message, v.Reason)
			}
		}
		var matched []string
		for _, r := range p.Spec.MatchConstraints.ResourceRules {
			matched = append(matched, r.Resources...)
			if !slices.Contains(r.Operations, "CREATE") {
				t.Errorf("%s: %v are not looked at when they are made", file, r.Resources)
			}
		}
		if !slices.Equal(matched, resources) {
			t.Errorf("%s holds for %v, want %v", file, matched, resources)
		}
	}
}
