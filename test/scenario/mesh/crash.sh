#!/usr/bin/env bash
# limit: 400
# kill -9 of each program under load, and its restart: no new connection is refused, none goes in plaintext.
. test/lib/shop.sh
AWAY=${CRASH_AGENT_AWAY:-60}
shop_up
web=${MESH_POD_IP[web]}
mesh_spawn dump nA "$MESH_W/log/tcpdump.log" tcpdump --immediate-mode -Z root -i wire -U -s 96 -w "$MESH_W/kill.pcap" "tcp and src host ${MESH_POD_IP[client]}"
mesh_wait 5 tcpdump grep -q 'listening on' "$MESH_W/log/tcpdump.log"
load() { # in the background, for about the time of a restart
	mesh_in client "$FLOOD" client --to "$web:9000" --src "${MESH_POD_IP[client]}" --conns "$1" --par 16 --max 8192 --modes plain,half --timeout 90 >"$MESH_W/load" &
	LOAD=$!
}
judge() { # TEXT [may-die]
	wait "$LOAD"
	OUT=$(cat "$MESH_W/load")
	mesh_log "$1: $OUT"
	is "$(json refused <"$MESH_W/load") $(json corrupt <"$MESH_W/load") $(json wrong_dst <"$MESH_W/load") $(json wrong_src <"$MESH_W/load")" "0 0 0 0" \
		"$1: none refused, none corrupt"
	if [ -n "${2:-}" ]; then
		[ "$(json ok <"$MESH_W/load")" -gt 0 ]
		ok $? "$1: connections live at the kill died ($(json reset <"$MESH_W/load") reset, $(json eof <"$MESH_W/load") ended), the others are whole"
	else
		is "$(json ok <"$MESH_W/load")" "$(json made <"$MESH_W/load")" "$1: every connection is whole"
	fi
}
for x in A B; do
	load 6000
	sleep 0.5
	mesh_stop "proxy$x" KILL
	mesh_proxy "$x"
	mesh_wait 20 "proxy $x" mesh_ready "$x"
	ok $? "kill -9 of proxy $x: a new one is ready"
	judge "proxy $x killed" may-die
done
for x in A B; do
	load 6000
	sleep 0.5
	mesh_stop "agent$x" KILL
	sleep 0.5
	mesh_agent "$x"
	mesh_wait 15 "agent $x" mesh_agent_ready "$x"
	ok $? "kill -9 of agent $x: a new one answers"
	judge "agent $x killed"
	mesh_wait 15 "proxy $x" mesh_ready "$x"
	ok $? "proxy $x is ready again with the new agent"
done
mesh_stop agentA KILL
mesh_stop agentB KILL
end=$((SECONDS + AWAY)) n=0 bad=0
while [ $SECONDS -lt $end ]; do
	n=$((n + 1))
	can client "$web:9000" || bad=$((bad + 1))
	sleep 0.5
done
is "$bad" 0 "both agents away for $AWAY s: $n new connections, all whole"
for x in A B; do
	mesh_agent "$x"
	mesh_wait 15 "agent $x" mesh_agent_ready "$x"
	mesh_wait 15 "proxy $x" mesh_ready "$x"
done
can client "$web:9000"
ok $? "agents are back"
for x in A B; do # orderly restarts
	load 6000
	sleep 0.3
	mesh_proxy "$x" "proxy2$x"
	mesh_stop "proxy$x" TERM
	mesh_wait 20 "proxy $x" mesh_ready "$x"
	judge "proxy $x replaced in order" may-die
done
mesh_stop dump TERM
seen=$(tcpdump -nr "$MESH_W/kill.pcap" dst port 15008 2>/dev/null | wc -l)
[ "$seen" -gt 1000 ]
ok $? "the capture on the wire saw the client: $seen packets to port 15008"
is "$(tcpdump -nr "$MESH_W/kill.pcap" not dst port 15008 2>/dev/null | wc -l)" 0 "... and none to another port in all that time"
for x in A B; do
	mesh_wait 10 "empty maps" maps_empty "$x"
	ok $? "no map entry is left on node $x"
done
tap_done
