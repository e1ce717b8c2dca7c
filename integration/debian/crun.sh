#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Writes a program that is crun of Debian's sid, with sid's libraries: crun.sh PROGRAM. crun wants cgroups of the second version
# alone: on a machine that has both it sees only those, which have no controllers then, and is asked for no shares of the processor.
set -euo pipefail

[[ $# -eq 1 ]] || { echo "usage: crun.sh PROGRAM" >&2; exit 1; }
tree=$("$(dirname "${BASH_SOURCE[0]}")/tree.sh" sid crun)
libraries=$tree/usr/lib/x86_64-linux-gnu
mkdir -p "$(dirname "$1")"
cat >"$1" <<END
#!/bin/sh
set -- $libraries/ld-linux-x86-64.so.2 --library-path $libraries $tree/usr/bin/crun "\$@"
[ -d /sys/fs/cgroup/unified ] || exec "\$@"
for argument; do
	[ "\$before" != --bundle ] || sed -i 's/"cpu":{[^}]*}/"cpu":{}/' "\$argument/config.json"
	before=\$argument
done
exec unshare --mount --propagation private sh -c 'mount --rbind /sys/fs/cgroup/unified /sys/fs/cgroup && exec "\$0" "\$@"' "\$@"
END
chmod 755 "$1"
