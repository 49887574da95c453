#!/usr/bin/env bash
# Programs replaced under load; nobody there; everything taken away.
. test/lib/capture.sh
N=${CAP_UPGRADE:-100000} # to many targets; to one, fewer than half of the ports
cap_up
cap_mesh_pod a 2
cap_app a 10.92.0.2:8080
cap_app out 0.0.0.0:8080
link_id() { bpftool -j link show pinned "$1" | sed 's/.*"id":\([0-9]*\).*/\1/'; }
PATH=$PATH:/usr/sbin:/sbin
mesh_need bpftool
ids() { for f in "$PIN"/link-* "$PIN"/pod-*; do link_id "$f"; done; }
before=$(ids)
is "$(wc -w <<<"$before")" 9 "eight programs at the cgroup, one at the pod"

mesh_spawn out1 a "$MESH_W/log/out1" "$DIAL" -n "$N" -w 32 storm 198.51.100.7:80 "out 198.51.100.7:80 "
mesh_spawn in1 out "$MESH_W/log/in1" "$DIAL" -n $((N / 10)) -w 16 storm 10.92.0.2:9090 "plain 10.92.0.2:9090 "
mesh_spawn self1 a "$MESH_W/log/self1" "$DIAL" -n $((N / 10)) -w 16 storm 10.92.0.2:8080 "app 10.92.0.2:8080 "
n=0
while [ $n -lt 20 ]; do
	OUT=$("$CTL" load "$PIN" "$CG") || break
	n=$((n + 1))
done
running=0
for t in out1 in1 self1; do kill -0 "${MESH_PID[$t]}" 2>/dev/null && running=$((running + 1)); done
is "$n" 20 "programs replaced 20 times"
ok "$([ $running -gt 0 ]; echo $?)" "under load: $running of 3 storms ran to the end of it"
for t in out1 in1 self1; do
	wait "${MESH_PID[$t]}"
	OUT=$(cat "$MESH_W/log/$t")
	is "$(value good)" "$(value begun)" "$t: none of $(value begun) failed or went astray"
done
is "$(ids)" "$before" "the links are the same: never detached"
is "$(counter orphans)$(counter tuple_lost)$(counter selfc_lost)" 000 "nothing was lost"

# no process of ours has held anything since: pins are all there is
dial a 10.92.0.1:8080
like "$OUT" 'said=out 10.92.0.1:8080' "without a loader outbound stays captured"
dial out 10.92.0.2:8080
like "$OUT" 'said=plain' "and inbound"

OUT=$("$CTL" unload "$PIN")
is "$OUT" unloaded "unload"
ok "$([ ! -e "$PIN" ]; echo $?)" "no pin is left"
left=0
for i in $before; do bpftool link show id "$i" 2>/dev/null | grep -q . && left=$((left + 1)); done
is $left 0 "no link is left"
dial a 10.92.0.1:8080
is "$OUT" "peer=10.92.0.1:8080 self=10.92.0.2:* said=app 10.92.0.1:8080 10.92.0.2:*" "connects are plain TCP again"
dial out 10.92.0.2:8080
like "$OUT" 'said=app' "both ways"
OUT=$("$CTL" unload "$PIN")
is "$OUT" unloaded "unload again is no error"
OUT=$("$CTL" load "$PIN" "$CG")
is "$OUT" loaded "and it loads again"
cap_done
