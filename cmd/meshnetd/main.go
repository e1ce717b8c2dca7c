// SPDX-License-Identifier: Apache-2.0

// Command meshnetd puts a service mesh's redirection rules into pod sandboxes before their first
// container starts.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/meshnetd/meshnetd/explain"
)

// The exit codes are a contract with scripts.
const (
	exitFailed     = 1 // it did not work
	exitBadConfig  = 2 // the configuration, or the command line, is wrong
	exitRefused    = 3 // the pod is refused
	exitDifference = 4 // the kernel does not hold the plan, or a packet ends elsewhere
)

// exit is an error with the code to end with. An empty message is not printed: all has been said.
type exit struct {
	code int
	err  error
}

// Error returns the cause's message.
func (e *exit) Error() string { return e.err.Error() }

// Unwrap returns the cause.
func (e *exit) Unwrap() error { return e.err }

var errSaid = errors.New("")

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	command, err := root().ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	complain(os.Stderr, err)
	var coded *exit
	if errors.As(err, &coded) {
		return coded.code
	}
	var output *fs.PathError
	if errors.As(err, &output) {
		return exitFailed
	}
	// What cobra itself finds wrong is the command line.
	fmt.Fprintf(os.Stderr, "`%s --help` has examples\n", command.CommandPath())
	return exitBadConfig
}

// complain says why a command failed. Errors quote what is in a pod's reach.
func complain(to io.Writer, err error) {
	if message := explain.PlainLines(err.Error()); message != "" {
		fmt.Fprintln(to, "meshnetd:", message)
	}
}

func root() *cobra.Command {
	c := &cobra.Command{
		Use:   "meshnetd",
		Short: "Service-mesh redirection for pods, without an init container and without privileges in any pod",
		Long: "meshnetd is an NRI plugin of containerd and CRI-O. When a pod sandbox has its network, and before\n" +
			"any container of the pod starts, it puts the mesh's redirection rules into the sandbox's network\n" +
			"namespace and reads them back from the kernel.",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	c.AddCommand(runCommand(), checkCommand(), planCommand(), applyCommand(), verifyCommand(), removeCommand(), statusCommand(), readyCommand(), explainCommand(), traceCommand(), testCommand(), reportCommand(), reloadCommand(), doctorCommand(), lockdownCommand(), versionCommand())
	c.AddCommand(pagesCommands()...)
	return c
}
