// SPDX-License-Identifier: Apache-2.0

// Package recovered makes panics errors. A daemon that dies of one pod leaves every other pod of the node
// without it, so every goroutine that works for a pod starts here.
package recovered

import (
	"fmt"
	"runtime/debug"
)

// Call calls fn and returns its error, or its panic with the stack as one.
func Call(fn func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v\n%s", r, debug.Stack())
		}
	}()
	return fn()
}
