#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Builds the Kubernetes the tests run on: build.sh DEST. Some minutes the first time.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
[[ $# -eq 1 ]] || { echo "usage: build.sh DEST" >&2; exit 1; }
mkdir -p "$1"
dest=$(cd "$1" && pwd)
cd "$here/kubernetes"

# The stamp ties the programs to their pins, this script and the compiler.
want=$({ cat go.mod go.sum "$here/build.sh"; go version; } | sha256sum | cut -d' ' -f1)
if [[ -f "$dest/.stamp" && $(<"$dest/.stamp") == "$want" ]]; then
	echo "kubernetes: up to date"
	exit
fi
rm -f "$dest/.stamp"

version=$(go list -mod=readonly -m -f '{{.Version}}' k8s.io/kubernetes)
IFS=. read -r major minor _ <<<"${version#v}"
# The programs compare their versions with each other, and kubectl with the server's.
flags="-s -w"
for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
	flags+=" -X $package.gitVersion=$version -X $package.gitMajor=$major -X $package.gitMinor=$minor"
done
for tool in $(go list -mod=readonly tool); do
	CGO_ENABLED=0 go build -mod=readonly -trimpath -buildvcs=false -ldflags "$flags" -o "$dest/${tool##*/}" "$tool"
	echo "kubernetes: built ${tool##*/} $version"
done
echo "$want" >"$dest/.stamp"
