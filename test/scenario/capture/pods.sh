#!/usr/bin/env bash
# Pods come, change, are made again and go; old pins are recognised.
. test/lib/capture.sh
PATH=$PATH:/usr/sbin:/sbin
mesh_need bpftool
cap_up
cap_mesh_pod a 2
cap_pod b 3
cap_serve b
cap_app out 0.0.0.0:8080
pod() { OUT=$("$CTL" pod "$PIN" "$CG" "$@" 2>&1); }
pinned() { "$CTL" pinned "$PIN" "$CG" | sort; }

is "$(pinned)" "Kubernetes//Pod/t/a ${CAP_COOKIE[a]}" "a later agent finds the pod by its uid"
ok "$([ -e "$PIN/pod-Kubernetes_2f_2fPod_2ft_2fa" ]; echo $?)" "its pin has a safe name"
long=Kubernetes//Pod/$(printf 'n%.0s' {1..63})/$(printf 'p.%.0s' {1..110})
pod "$long" "/run/netns/${MESH_PREFIX}b" 10.92.0.3
like "$OUT" '^pod ' "a uid longer than a file name"
pod "${long}x" "/run/netns/${MESH_PREFIX}b" 10.92.0.3
like "$OUT" 'its network namespace is enrolled as pod' "one namespace, two pods: refused"
dial b 10.92.0.1:8080
like "$OUT" 'said=out' "it is captured"
"$CTL" unpod "$PIN" "$CG" "$long" "$(pinned | sed -n "s|^$long ||p")" >/dev/null
dial b 10.92.0.1:8080
like "$OUT" 'said=app' "released: plain TCP"
dial out 10.92.0.3:8080
is "$OUT" 'error connect: ECONNREFUSED' "released: the kernel answers"
OUT=$("$CTL" unpod "$PIN" "$CG" "$long" 1)
is "$OUT" gone "released twice is no error"

# addresses change
ip -n "${MESH_PREFIX}a" addr add 10.92.0.44/24 dev eth0
CAP_IP[a]=10.92.0.44
mesh_stop serve-a
cap_serve a
cap_enrol a
dial out 10.92.0.44:8080
like "$OUT" 'said=plain 10.92.0.44:8080' "a new address is steered"
dial out 10.92.0.2:8080
is "$OUT" 'error connect: ECONNREFUSED' "the old one is not"
dial a 198.51.100.7:80
like "$OUT" 'self=10.92.0.44' "the app sees the new one"

# the same pod in a new namespace
cap_pod a2 5
CAP_IP[b]=${CAP_IP[a2]} CAP_IP6[b]=${CAP_IP6[a2]}
cap_serve a2
pod Kubernetes//Pod/t/a "/run/netns/${MESH_PREFIX}a2" 10.92.0.5
is "$(pinned)" "Kubernetes//Pod/t/a ${OUT#pod }" "made again in another namespace: only the new one is enrolled"
dial a2 10.92.0.1:8080
like "$OUT" 'said=out' "the new one is captured"
dial a 10.92.0.1:8080
like "$OUT" 'said=app' "the old one is not"

# a namespace that vanished
mesh_stop serve-a2
ip netns del "${MESH_PREFIX}a2"
OUT=$("$CTL" load "$PIN" "$CG")
is "$OUT" loaded "a pod's namespace vanished: loading goes on"
mesh_wait 5 "the pin to go" eval '"$CTL" load "$PIN" "$CG" && [ ! -e "$PIN/pod-Kubernetes_2f_2fPod_2ft_2fa" ]'
ok $? "its pin is cleared"
like "$(pinned)" 'Kubernetes//Pod/t/a [0-9]+' "it is still listed, for the agent to release"
"$CTL" unpod "$PIN" "$CG" Kubernetes//Pod/t/a "$(pinned | cut -d' ' -f2)" >/dev/null
is "$(pinned)" "" "released"

# what cannot be
pod x /proc/self/ns/net 10.92.0.9
like "$OUT" "the node's own network namespace cannot be enrolled" "the node's own namespace"
pod x "/run/netns/${MESH_PREFIX}b" 127.0.0.1
like "$OUT" '127.0.0.1 cannot be a pod.s address' "loopback as a pod's address"
pod x "/run/netns/${MESH_PREFIX}b" ::
like "$OUT" "cannot be a pod's address" "the unspecified address"
mkdir "$CG/${MESH_PREFIX}other"
CAP_GROUPS+=("$CG/${MESH_PREFIX}other")
OUT=$("$CTL" load "$PIN" "$CG/${MESH_PREFIX}other")
like "$OUT" 'is attached at cgroup id .*--unload' "another cgroup than the pins': says what to do"
bpftool map update pinned "$PIN/weft_abi" key 0 0 0 0 value 99 0 0 0
OUT=$("$CTL" load "$PIN" "$CG")
like "$OUT" 'weft_abi was pinned by a weft of another layout.*--unload' "another version: says what to do"
bpftool map update pinned "$PIN/weft_abi" key 0 0 0 0 value 1 0 0 0
rm "$PIN/weft_load"
bpftool map create "$PIN/weft_load" type hash key 8 value 24 entries 4096 name weft_load flags 1
OUT=$("$CTL" load "$PIN" "$CG")
like "$OUT" 'weft_load was pinned by a weft of another layout' "another size: refused too"
rm "$PIN/weft_load"
OUT=$("$CTL" load "$PIN" "$CG")
is "$OUT" loaded "a pin that is missing is made anew"
cap_done
