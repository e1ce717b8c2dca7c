// SPDX-License-Identifier: Apache-2.0

// Command consul-0.18 lets that version of Consul's library write its rules by iptables into the network namespace it
// runs in, for the test that compares them with ours. Standard input is the library's configuration, as Consul's
// injector writes it on a pod; -dual-stack is what the injector says beside it.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"

	"github.com/hashicorp/consul/sdk/iptables"
)

func main() {
	dualStack := flag.Bool("dual-stack", false, "the pod is dual-stack")
	flag.Parse()
	if err := run(*dualStack); err != nil {
		fmt.Fprintln(os.Stderr, "consul-0.18:", err)
		os.Exit(1)
	}
}

func run(dualStack bool) error {
	var config iptables.Config
	if err := json.NewDecoder(os.Stdin).Decode(&config); err != nil {
		return fmt.Errorf("read the library's configuration from standard input: %w", err)
	}
	if err := iptables.Setup(config, dualStack); err != nil {
		return fmt.Errorf("write the library's rules: %w", err)
	}
	return nil
}
