#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Runs what CI does not, and writes docs/test-all.md: what was run of which commit, when, for how long, and what came of
# it. `make test-all`.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

table=$(cat <<'END'
# What was run beside CI

`make test-all` writes this page. The lanes of CI are in `.ci/run`.

| target | of commit | on | minutes | result |
|---|---|---|--:|---|
END
)
failed=0
for target in faults critest "soak PODS=500" "differential PAIRS=100000" mutation fuzz bench bench-kube "test-istio PODS=50 ONLY=." test-containerds test-crio test-crun test-userlands test-arm64 "test-kernels RECORD=integration/kernels/recorded.md"; do
	begun=$SECONDS result=good
	if [[ $target == test-crio ]] && ! PATH=${MESHNETD_CRIO:+$MESHNETD_CRIO:}$PATH command -v crio >/dev/null; then
		result="not run: no CRI-O here"
	else
		# shellcheck disable=SC2086
		make $target || { result=FAILED; failed=1; }
	fi
	table+=$(printf '\n| `make %s` | %s | %s | %d | %s |' "$target" "$(git describe --always --dirty)" "$(date -u +%F)" \
		$(((SECONDS - begun + 59) / 60)) "$result")
done
echo "$table" | tee docs/test-all.md
exit "$failed"
