#!/usr/bin/env bash
# limit: 400
# One pod, default sysctls: 60,000 connections that the client closes first, 40,000 held at a time.
# A proxy needs a descriptor for each: where the hard limit of open files is lower and cannot be raised, as many are held
# as fit, and the rest is told as skipped (test/scenario/capture/many.sh holds 40,000 captured ones over several processes).
. test/lib/shop.sh
CLOSES=${HELD_CLOSES:-60000} HOLD=${HELD_CONNS:-40000}
shop_up
flood client "${MESH_POD_IP[web]}:9000" --conns "$CLOSES" --par 64 --max 64 --modes plain --timeout 240
flood_ok "$CLOSES connections closed by the client first: TIME_WAIT exhausts nothing"
# a client has 28,232 ports for one destination: the second half goes to another
room=$(sed -n 's/^Max open files *[^ ]* *\([0-9]*\).*/\1/p' "/proc/${MESH_PID[proxyA]}/limits")
if [ "$room" -lt $((HOLD + 2000)) ]; then
	skip "$HOLD connections held at a time" "the hard limit of open files is $room: $((room - 2000)) are held instead"
	HOLD=$((room - 2000))
fi
H=$((HOLD / 2))
mesh_in client "$FLOOD" client --to "${MESH_POD_IP[web]}:9000" --conns $H --hold 25 --timeout 120 >"$MESH_W/h1" &
h1=$!
mesh_in client "$FLOOD" client --to "${MESH_POD_IP[web2]}:9000" --conns $((HOLD - H)) --hold 25 --timeout 120 >"$MESH_W/h2" &
h2=$!
wait $h1
ok $? "$H held to one pod: $(cat "$MESH_W/h1")"
wait $h2
ok $? "$((HOLD - H)) to another at the same time: $(cat "$MESH_W/h2")"
for x in A B; do
	mesh_wait 10 "empty maps" maps_empty "$x"
	ok $? "no map entry is left on node $x"
	mesh_log "proxy $x: $(grep -E 'VmRSS|VmHWM' "/proc/${MESH_PID[proxy$x]}/status" | tr -s '\t\n' ' ')"
done
tap_done
