#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Looks for tests that fail where the machine has too much to do: two busy processes for each core, the packages that
# wait for packets or processes ten times, the last two with everything else. Three hours; whatever fails once is a bug. `make stress`, or
# `make stress WAITING=2 ALL=0` for fewer rounds.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export MESHNETD_REQUIRE=1 MESHNETD_RUNTIMES=${MESHNETD_RUNTIMES:-$PWD/build/runtimes}

busy=()
trap 'kill "${busy[@]}"' EXIT
for _ in $(seq $((2 * $(nproc)))); do
	(while :; do :; done) &
	busy+=($!)
done

failed=0
round() {
	echo "==== $1, $(date -u +%H:%M:%S)"
	shift
	"$@" || failed=$((failed + 1))
}

# The short form draws anew each time from the long enumerations, which wait for nothing, and waits for all that the long one does.
waiting() {
	go test -short -json -count=1 -timeout 60m ./integration ./integration/packets ./integration/e2e ./integration/lab ./integration/faults/... ./daemon/traffic \
		./daemon/netns ./daemon/nftables ./daemon/netlink ./nriplugin ./status ./cri ./systemd/... ./cmd/meshnetd ./doctor/gather | go run ./integration/report
}
for i in $(seq "${WAITING:-8}"); do round "waiting, $i" waiting; done
for i in $(seq "${ALL:-2}"); do round "everything, $i" make test; done
echo "$failed rounds failed"
[[ $failed -eq 0 ]]
