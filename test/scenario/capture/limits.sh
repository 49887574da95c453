#!/usr/bin/env bash
# A pod whose proxy accepts nothing fills its own share and no more: it is denied, the others are not.
HALF_OPEN_MAX=64
export HALF_OPEN_MAX
. test/lib/capture.sh
cap_up
cap_pod a 2
cap_serve a hold:4
cap_enrol a
cap_mesh_pod b 3

# connects that stay half-open, begun in the background and held there
stuck() { # NAME TO COUNT
	mesh_spawn stuck "$1" "$MESH_W/log/stuck-$1" "$DIAL" -n "$3" -w "$3" storm "$2"
}
full() { [ "$(counter "$1")" -ge 64 ]; }
stuck a 198.51.100.7:80 90
mesh_wait 5 "a full share" full tuples
ok $? "half-open connects are counted: $(counter tuples)"
dial a 198.51.100.7:80
is "$OUT" "error connect: EPERM" "the full pod's connect is denied"
dial a -6 "[2001:db8::1]:80"
is "$OUT" "error connect: EPERM" "over IPv6 too"
dial b 198.51.100.7:80
like "$OUT" 'said=out 198.51.100.7:80' "another pod's is not"
ok "$([ "$(counter denied_full)" -gt 20 ]; echo $?)" "denials are counted: $(counter denied_full)"
ok "$([ "$(counter tuples_walked)" -le 64 ]; echo $?)" "no more than its share is in the map: $(counter tuples_walked)"
wait "${MESH_PID[stuck]}"
mesh_wait 10 "empty maps" cap_empty
ok $? "their clients gone, all is reclaimed: $(counter reclaimed)"

# the pod's own listener does not accept: flows to itself
cap_app b 0.0.0.0:8080 1024 -h
stuck b 10.92.0.3:8080 3000
mesh_wait 5 "a full share" full selfc_entries
ok $? "half-open flows of a pod to itself are counted: $(counter selfc_entries)"
dial b 10.92.0.3:8080
is "$OUT" "error connect: EPERM" "one more is denied"
dial b 198.51.100.7:80
like "$OUT" 'said=out' "outbound has a share of its own"
kill "${MESH_PID[stuck]}"
wait "${MESH_PID[stuck]}" 2>/dev/null
mesh_wait 10 "empty maps" cap_empty
ok $? "reclaimed as well"

# refused connects leave nothing
mesh_stop serve-b KILL
storm b -n 5000 -w 64 -- 198.51.100.7:80
is "$(value refused)" 5000 "5000 connects are refused"
ok "$(cap_empty; echo $?)" "and have left nothing"
storm b -n 2000 -w 64 -- 10.92.0.3:9
is "$(value refused)" 2000 "2000 connects of the pod to itself are refused"
is "$(counter tuple_lost)$(counter selfc_lost)" 00 "nothing was lost"

# a pod that goes while half-open, and comes back, has its whole share
stuck a 198.51.100.7:80 90
mesh_wait 5 "a full share" full tuples
"$CTL" unpod "$PIN" "$CG" Kubernetes//Pod/t/a "${CAP_COOKIE[a]}" >/dev/null
cap_enrol a
kill "${MESH_PID[stuck]}"
wait "${MESH_PID[stuck]}" 2>/dev/null
mesh_wait 10 "empty maps" cap_empty
stuck a 198.51.100.7:80 90
mesh_wait 5 "a full share" full tuples
ok $? "enrolled anew: the share is 64 again: $(counter tuples)"
ok "$([ "$(counter tuples_walked)" -le 64 ]; echo $?)" "and not more: $(counter tuples_walked)"
kill "${MESH_PID[stuck]}"
cap_done
