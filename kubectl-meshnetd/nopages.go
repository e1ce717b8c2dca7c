// SPDX-License-Identifier: Apache-2.0

//go:build !pages

package main

import "github.com/spf13/cobra"

func pagesCommands() []*cobra.Command { return nil }
