// SPDX-License-Identifier: Apache-2.0

//go:build linux

package legacy

import (
	"encoding/binary"
	"errors"

	"github.com/meshnetd/meshnetd/rules"
)

// Counts returns how many packets the first rule of each lockdown's chain has counted, of both families together, in the network
// namespace of the calling thread.
func Counts() (map[string]uint64, error) {
	counts, left := map[string]uint64{}, most
	for _, b := range []blobs{blobs4, blobs6} {
		if err := b.eachTable(func(fd int, name string) error {
			if name != rules.LockdownTable {
				return nil
			}
			_, entries, err := b.counted(fd, name, &left)
			if errors.Is(err, errMoved) {
				return nil // they are read again soon
			}
			if err != nil {
				return err
			}
			chain := ""
			return b.each(entries, func(entry []byte) {
				if _, _, found := rules.LockdownChain(chain); found {
					counts[chain] += binary.NativeEndian.Uint64(entry[b.counter:])
				}
				chain = b.head(entry)
			})
		}); err != nil {
			return nil, err
		}
	}
	return counts, nil
}

// head returns the name of the chain that begins behind an entry; "" where none does.
func (b blobs) head(entry []byte) string {
	target := b.targetOf(entry, len(entry))
	if len(target) < errorTarget || text(target[targetName:targetData]) != "ERROR" {
		return ""
	}
	return text(target[targetData:])
}
