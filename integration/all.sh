#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Runs what .ci/run does not, and writes into docs/test-all.md when each target was run last: of which commit, for how long, and
# what came of it. `make test-all`, or `make test-all TARGETS="critest fuzz"` for these alone; the rows of others stay.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

page=docs/test-all.md
commit=$(git describe --always)
git diff --quiet HEAD -- . ":!$page" || commit+=-dirty # the page itself is what changes
failed=0
for target in faults critest "soak PODS=500" "differential PAIRS=100000" mutation fuzz bench bench-kube "test-istio PODS=50 ONLY=." test-containerds test-crio test-crun test-userlands test-arm64 "test-kernels RECORD=integration/kernels/recorded.md"; do
	[[ -z ${TARGETS:-} || " $TARGETS " == *" ${target%% *} "* ]] || continue
	begun=$SECONDS result=good
	if [[ $target == test-crio ]] && ! PATH=${MESHNETD_CRIO:+$MESHNETD_CRIO:}$PATH command -v crio >/dev/null; then
		result="not run: no CRI-O here"
	else
		# shellcheck disable=SC2086
		make TARGETS= $target || { result=FAILED; failed=1; }
	fi
	# At once, so that the page has what was run when this is ended half way.
	rows=$(grep -vF "| \`make $target\` |" "$page")
	printf '%s\n| `make %s` | %s | %s | %d | %s |\n' "$rows" "$target" "$commit" "$(date -u +%F)" $(((SECONDS - begun + 59) / 60)) "$result" >"$page"
done
cat "$page"
exit "$failed"
