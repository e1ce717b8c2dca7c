// SPDX-License-Identifier: Apache-2.0

// Package recovered makes panics errors. A daemon that dies of one pod leaves every other pod of the node
// without it, so every goroutine that works for a pod starts here.
package recovered

import (
	"fmt"
	"runtime/debug"
)

// Panic is what a panic becomes.
type Panic struct {
	Value any
	Stack string // for the log; whose pod it was does not want to read it
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
