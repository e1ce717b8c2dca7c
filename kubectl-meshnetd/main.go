// SPDX-License-Identifier: Apache-2.0

// Command kubectl-meshnetd asks the meshnetd of every node of a cluster, as a plugin of kubectl.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"

	"github.com/meshnetd/meshnetd/explain"
)

// The exit codes are those of meshnetd.
const (
	exitFailed      = 1 // it did not work, or a node did not answer
	exitBadLine     = 2 // the command line, or the configuration, is wrong
	exitRefused     = 3 // a pod is refused, or would be
	exitUnprotected = 4 // a pod does not have its rules, or a packet ends elsewhere
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

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string, out, errs io.Writer) int {
	c := root()
	c.SetArgs(args)
	c.SetOut(out)
	c.SetErr(errs)
	c, err := c.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	if message := explain.PlainLines(err.Error()); message != "" {
		fmt.Fprintln(errs, "meshnetd:", message)
	}
	var coded *exit
	if errors.As(err, &coded) {
		return coded.code
	}
	// What cobra itself finds wrong is the command line.
	fmt.Fprintf(errs, "`%s --help` has examples\n", c.CommandPath())
	return exitBadLine
}

// options are the flags of all commands.
type options struct {
	kube      *genericclioptions.ConfigFlags
	namespace string // meshnetd's
	port      uint16
	parallel  int
	patience  time.Duration // with one node
	output    string
}

func root() *cobra.Command {
	c := &cobra.Command{
		Use:   "kubectl-meshnetd",
		Short: "Ask the meshnetd of every node which pods are protected, and why",
		Long: "Asks the meshnetd of every node by the API server's proxy, many nodes at once, without a command in any container. That\n" +
			"needs the chart's value kubectl.read and its Role. A node that does not answer, or has no pod of meshnetd, is listed.\n\n" +
			"Exit 0 all is well; 1 it did not work, or a node did not answer; 2 wrong command line or configuration; 3 a pod is\n" +
			"refused, or would be; 4 a pod does not have its rules.",
		Annotations:   map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl meshnetd"},
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	o := &options{kube: genericclioptions.NewConfigFlags(true)}
	flags := c.PersistentFlags()
	o.kube.AddFlags(flags)
	flags.StringVar(&o.namespace, "meshnetd-namespace", "meshnetd-system", "`NAMESPACE` of meshnetd's own pods")
	flags.Uint16Var(&o.port, "port", 15990, "`PORT` where meshnetd tells its status (the chart's metrics.port)")
	flags.IntVar(&o.parallel, "parallel", 50, "`NUMBER` of nodes to ask at once")
	flags.DurationVar(&o.patience, "node-timeout", 10*time.Second, "how `LONG` one node may take")
	for flag, completed := range map[string]cobra.CompletionFunc{"context": o.completeContexts, "namespace": o.complete(at("/api/v1", "namespaces"))} {
		_ = c.RegisterFlagCompletionFunc(flag, completed) // fails only for no flag
	}
	c.AddCommand(statusCommand(o), podsCommand(o), explainCommand(o), traceCommand(o), testCommand(o), planCommand(o), eventsCommand(o), verifyCommand(o), doctorCommand(o), lockdownCommand(o), versionCommand(o))
	c.AddCommand(pagesCommands()...)
	c.CompletionOptions.HiddenDefaultCmd = true
	return c
}

// outputFlag lets a command print for programs.
func (o *options) outputFlag(c *cobra.Command, formats ...string) {
	c.Flags().StringVarP(&o.output, "output", "o", "", fmt.Sprintf("`FORMAT`: one of %q", formats))
	_ = c.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(formats, cobra.ShellCompDirectiveNoFileComp)) // fails only for no flag
	c.PreRunE = func(*cobra.Command, []string) error {
		for _, format := range append(formats, "") {
			if o.output == format {
				return nil
			}
		}
		return fmt.Errorf("output %q is none of %q", o.output, formats)
	}
}

func (o *options) check() error {
	if o.parallel < 1 || o.patience <= 0 {
		return errors.New("--parallel and --node-timeout are at least 1, and more than 0s")
	}
	return nil
}
