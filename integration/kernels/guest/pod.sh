#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Puts a pod's rules into a namespace, and sends what they are for: pod.sh REDIRECT|TPROXY BACKEND
set -euo pipefail
mode=$1 backend=$2
dir=$(mktemp -d)
cat >"$dir/pod.yaml" <<END
apiVersion: v1
kind: Pod
metadata:
  name: web
  annotations:
    sidecar.istio.io/status: '{"initContainers":["istio-validation","istio-proxy"],"containers":null}'
    sidecar.istio.io/interceptionMode: $mode
spec:
  initContainers: [{name: istio-proxy, args: [proxy, sidecar], env: [{name: ISTIO_DUAL_STACK, value: "${ISTIO_DUAL_STACK:-false}"}], securityContext: {runAsUser: 1337, runAsGroup: 1337}}]
  containers: [{name: app}]
END
echo "backend = \"$backend\"" >"$dir/meshnetd.toml"
pod() { ip -n pod "$@"; }
ip netns del pod 2>/dev/null || true
ip netns add pod
pod link set lo up
pod link add eth0 type veth peer name other0
pod link set other0 up
pod link set eth0 up
pod addr add 10.244.1.7/24 dev eth0
pod route add default via 10.244.1.1
if [[ ${ISTIO_DUAL_STACK:-} == true ]]; then
	pod addr add fd00:10:244::7/64 dev eth0 nodad
	pod route add default via fd00:10:244::1
fi
meshnetd apply --config "$dir/meshnetd.toml" --netns /run/netns/pod -f "$dir/pod.yaml"
meshnetd verify --config "$dir/meshnetd.toml" --netns /run/netns/pod -f "$dir/pod.yaml" --traffic
