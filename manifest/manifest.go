// SPDX-License-Identifier: Apache-2.0

// Package manifest reads a Kubernetes Pod, as YAML, JSON or in the API's protobuf, into what rules know of a pod.
package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"go.yaml.in/yaml/v3"

	"github.com/meshnetd/meshnetd/rules"
)

// longest is how many bytes a manifest may have; the API server takes no object as long.
const longest = 4 << 20

// Read reads one manifest. Errors name the line.
func Read(r io.Reader) (rules.Pod, error) {
	text, err := io.ReadAll(io.LimitReader(r, longest+1))
	if err != nil {
		return rules.Pod{}, fmt.Errorf("manifest: %w", err)
	}
	if len(text) > longest {
		return rules.Pod{}, fmt.Errorf("manifest: longer than %d bytes, and no pod is", longest)
	}
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	var root yaml.Node
	err = decoder.Decode(&root)
	if err != nil && json.Valid(text) {
		decoder = yaml.NewDecoder(bytes.NewReader(plainJSON(text)))
		err = decoder.Decode(&root)
	}
	if errors.Is(err, io.EOF) {
		return rules.Pod{}, errors.New("manifest: empty")
	} else if err != nil {
		return rules.Pod{}, fmt.Errorf("manifest: %w", err)
	}
	var d document
	if err := root.Decode(&d); err != nil {
		return rules.Pod{}, fmt.Errorf("manifest: %w", err)
	}
	if d.Kind != "Pod" {
		return rules.Pod{}, fmt.Errorf("manifest: kind is %q, want Pod (of a workload, give one of its pods: kubectl get pod NAME -o yaml)", d.Kind)
	}
	var second yaml.Node
	if err := decoder.Decode(&second); !errors.Is(err, io.EOF) {
		return rules.Pod{}, errors.New("manifest: more than one document; give one Pod")
	}
	return d.pod(), nil
}

// Item reads one pod of the API server's list: JSON, in which it does not say its kind again. YAML would take ten times as long.
func Item(text []byte) (rules.Pod, error) {
	var d document
	if err := json.Unmarshal(text, &d); err != nil {
		return rules.Pod{}, fmt.Errorf("pod: %w", err)
	}
	return d.pod(), nil
}

// plainJSON writes strings without the escapes that YAML does not know: "\/" and pairs of surrogates.
func plainJSON(text []byte) []byte {
	var value any
	if err := json.Unmarshal(text, &value); err != nil {
		return text
	}
	var plain bytes.Buffer
	encoder := json.NewEncoder(&plain)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return text
	}
	return plain.Bytes()
}
