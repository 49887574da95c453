#!/usr/bin/env bash
# One pod, default sysctls: 60,000 connections that the client closes first, 40,000 held at a time.
. test/lib/shop.sh
CLOSES=${HELD_CLOSES:-60000} HOLD=${HELD_CONNS:-40000}
shop_up
flood client "${MESH_POD_IP[web]}:9000" --conns "$CLOSES" --par 64 --max 64 --modes plain --timeout 240
flood_ok "$CLOSES connections closed by the client first: TIME_WAIT exhausts nothing"
# a client has 28,232 ports for one destination: the second half goes to another
H=$((HOLD / 2))
mesh_in client "$FLOOD" client --to "${MESH_POD_IP[web]}:9000" --conns $H --hold 25 --timeout 120 >"$MESH_W/h1" &
h1=$!
mesh_in client "$FLOOD" client --to "${MESH_POD_IP[web2]}:9000" --conns $((HOLD - H)) --hold 25 --timeout 120 >"$MESH_W/h2" &
h2=$!
wait $h1
ok $? "first half: $(cat "$MESH_W/h1")"
wait $h2
ok $? "second half: $(cat "$MESH_W/h2")"
for x in A B; do
	mesh_wait 10 "empty maps" maps_empty "$x"
	ok $? "no map entry is left on node $x"
	mesh_log "proxy $x: $(grep -E 'VmRSS|VmHWM' "/proc/${MESH_PID[proxy$x]}/status" | tr -s '\t\n' ' ')"
done
tap_done
