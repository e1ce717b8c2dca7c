#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# To be sourced. What is built of others' sources is built once for this machine, whatever clone asks for it, and lies
# in MESHNETD_CACHE, by default in the user's cache directory.
cache=${MESHNETD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/meshnetd}

# cached NAME DURATION COMMAND... prints the directory NAME of the cache. If there is none, the command makes it: its
# last argument is the directory. NAME has to tell one version and recipe from another.
cached() {
	local dir=$cache/$1 name=$1 duration=$2 temp status
	shift 2
	mkdir -p "$cache"
	(
		flock 9
		[[ ! -d $dir ]] || exit 0
		echo "$name: being built, once for this machine; on two cores this takes $duration" >&2
		temp=$(mktemp -d "$cache/.making-XXXXXX")
		chmod 755 "$temp"
		set +e
		(set -e; "$@" "$temp") >"$temp.log" 2>&1
		status=$?
		set -e
		if [[ $status -ne 0 ]]; then
			{ grep -v '^go: downloading' "$temp.log" || true; } >&2
			rm -rf "$temp" "$temp.log"
			echo "$name: not built" >&2
			exit "$status"
		fi
		mv "$temp" "$dir"
		rm "$temp.log"
		echo "$name: built in $SECONDS s" >&2
	) 9>"$cache/.$name.lock"
	status=$?
	[[ $status -eq 0 ]] || return "$status"
	echo "$dir"
}

# recipe FILE...: what tells apart what the files, and this compiler, make.
recipe() {
	{ cat "$@"; ${GO:-go} version; } | sha256sum | cut -c1-12
}

# lay DIRECTORY DEST puts the cached directory at DEST, without copying where that can be avoided.
lay() {
	[[ -f $2/.from && $(<"$2/.from") == "$1" ]] && return
	rm -rf "$2"
	mkdir -p "$(dirname "$2")"
	cp -al "$1" "$2" 2>/dev/null || { rm -rf "$2" && cp -a "$1" "$2"; }
	echo "$1" >"$2/.from"
}
