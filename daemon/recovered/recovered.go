// SPDX-License-Identifier: Apache-2.0

// Package recovered turns panics into errors. A daemon that crashes on one pod leaves every other pod of the node
// unattended, so every goroutine that works for a pod starts here.
package recovered

import (
	"fmt"
	"runtime/debug"
)

// Panic is what a panic becomes.
type Panic struct {
	Value any
	Stack string // for the log, not for the pod's author
}

// Error says that it was a panic.
func (p *Panic) Error() string { return fmt.Sprintf("a bug of meshnetd: panic: %v", p.Value) }

// Call calls fn and returns its error, or its panic as a *Panic.
func Call(fn func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = &Panic{r, string(debug.Stack())}
		}
	}()
	return fn()
}
