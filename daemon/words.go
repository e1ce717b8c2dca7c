// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"github.com/meshnetd/meshnetd/daemon/lifecycle"
)

// The words of package lifecycle that others need.
type (
	State   = lifecycle.State
	Trigger = lifecycle.Trigger
	Result  = lifecycle.Result
)

// The states of sandboxes.
const (
	StateProtected   = lifecycle.StateProtected
	StateOutdated    = lifecycle.StateOutdated
	StateUnproven    = lifecycle.StateUnproven
	StateUnprotected = lifecycle.StateUnprotected
	StatePending     = lifecycle.StatePending
	StateFailing     = lifecycle.StateFailing
	StateExempt      = lifecycle.StateExempt
	StateSkipped     = lifecycle.StateSkipped
)

// States are all of them.
var States = lifecycle.States

// The triggers.
const (
	SandboxStarted     = lifecycle.SandboxStarted
	ContainerCreated   = lifecycle.ContainerCreated
	ContainerValidated = lifecycle.ContainerValidated
	ContainerStarted   = lifecycle.ContainerStarted
	Takeover           = lifecycle.Takeover
	Audited            = lifecycle.Audited
	ByHand             = lifecycle.ByHand
)

// The results.
const (
	Protected   = lifecycle.Protected
	Skipped     = lifecycle.Skipped
	Refused     = lifecycle.Refused
	Failed      = lifecycle.Failed
	Unproven    = lifecycle.Unproven
	Unprotected = lifecycle.Unprotected
)
