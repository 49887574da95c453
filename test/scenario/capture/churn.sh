#!/usr/bin/env bash
# Pods enrolled and released under load, two nodes on one machine, loaders killed midway: nothing leaks, nothing hangs.
. test/lib/capture.sh
cap_up
cap_mesh_pod a 2
cap_app a '[::]:8080'
cap_app out 0.0.0.0:8080

# captured or not, each connect must be answered by someone
until_stopped() { # TAG NS TO EXPECT: storms of 1,000, one after the other
	while [ ! -e "$MESH_W/stop" ]; do
		mesh_in "$2" "$DIAL" -r -n 1000 -w 16 storm "$3" "$4"
	done >"$MESH_W/log/$1" 2>&1 </dev/null
}
until_stopped out1 a 10.92.0.1:8080 "" &
w1=$!
until_stopped in1 out 10.92.0.2:8080 "" &
w2=$!
until_stopped self1 a 10.92.0.2:8080 "app " &
w3=$!
for n in {1..25}; do
	"$CTL" unpod "$PIN" "$CG" Kubernetes//Pod/t/a "${CAP_COOKIE[a]}" >/dev/null || break
	mesh_stop serve-a
	cap_serve a
	cap_enrol a
done
touch "$MESH_W/stop"
wait $w1 $w2 $w3
is "$n" 25 "released and enrolled 25 times under load"
sum() { grep -o "$2=[0-9]*" "$MESH_W/log/$1" | awk -F= '{n += $2} END {print n + 0}'; }
for t in out1 in1 self1; do
	is "$(sum $t stuck)" 0 "$t: of $(sum $t begun) connects none hangs ($(sum $t refused) reset with a listener, $(sum $t wrong) closed)"
done
is "$(sum self1 good)" "$(sum self1 begun)" "the pod's flows to itself: all answered by the app"
mesh_wait 10 "empty maps" cap_empty
ok $? "maps and gauges are empty"

# another agent's programs at the same root
cap_pod b 3
PIN_A=$PIN PIN=$MESH_W/bpf/B
"$CTL" load "$PIN" "$CG" >/dev/null
cap_serve b
cap_enrol b
dial a 198.51.100.7:80
like "$OUT" '^peer=198.51.100.7:80 self=10.92.0.2:. said=out 198.51.100.7:80' "two agents: the first one's pod is captured"
dial b 198.51.100.7:80
like "$OUT" '^peer=198.51.100.7:80 self=10.92.0.3:. said=out 198.51.100.7:80' "and the second one's"
dial b 10.92.0.2:15008
like "$OUT" 'said=out 10.92.0.2:15008' "between them too"
is "$(counter captured)" 2 "each counts its own"
cap_empty
ok $? "the second one's maps are empty"
"$CTL" unload "$PIN" >/dev/null
PIN=$PIN_A
dial a 198.51.100.7:80
like "$OUT" 'said=out' "the second unloaded: the first is untouched"
dial b 10.92.0.1:8080
like "$OUT" 'said=app' "and its pod is plain TCP"

# a loader that dies anywhere leaves something the next one can use
PIN=$MESH_W/bpf/C
for n in 5 10 15 20 25 30 40 50 60 80 100 120; do
	"$CTL" load "$PIN" "$CG" >/dev/null 2>&1 &
	pid=$!
	sleep "0.$(printf '%03d' "$n")"
	kill -KILL $pid 2>/dev/null
	wait $pid 2>/dev/null
	OUT=$("$CTL" load "$PIN" "$CG")
	[ "$OUT" = loaded ] || break
	[ $((n % 20)) = 0 ] || "$CTL" unload "$PIN" >/dev/null || break
done
is "$OUT $n" "loaded 120" "killed at twelve moments of loading: the next one loads"
"$CTL" unload "$PIN" >/dev/null
ok "$([ ! -e "$PIN" ]; echo $?)" "and unloads"
PIN=$PIN_A
cap_done
