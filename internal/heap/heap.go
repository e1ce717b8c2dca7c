// SPDX-License-Identifier: Apache-2.0

// Package heap measures in tests what memory work asks for, and what is kept of it.
package heap

import "runtime"

// Allocated returns how many bytes a function asks for, all in all, with what others ask for beside it.
func Allocated(do func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	do()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// Live returns how many bytes are in use.
func Live() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
