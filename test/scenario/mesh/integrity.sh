#!/usr/bin/env bash
# limit: 500
# 50,000 captured connections of random sizes with half-close, abort and slow readers: none lost, none to a wrong destination.
. test/lib/shop.sh
N=${INTEGRITY_CONNS:-50000}
shop_up
flood client "${MESH_POD_IP[web]}:9000" --src "${MESH_POD_IP[client]}" --conns $((N * 2 / 5)) --par 64 --max 65536 --seed 11 --timeout 240
flood_ok "$((N * 2 / 5)) connections to a pod, v4"
flood client "[${MESH_POD_IP6[web]}]:9000" --src "${MESH_POD_IP6[client]}" --conns $((N * 2 / 5)) --par 64 --max 65536 --seed 12 --timeout 240
flood_ok "$((N * 2 / 5)) connections to a pod, v6"
flood client "$VIP:80" --expect - --src "${MESH_POD_IP[client]}" --conns $((N / 10)) --par 64 --max 262144 --seed 13 --timeout 240
flood_ok "$((N / 10)) connections to a service"
flood old "${MESH_POD_IP[web]}:9000" --src "${MESH_POD_IP[old]}" --conns $((N / 20)) --par 64 --max 65536 --seed 14 --timeout 240
flood_ok "$((N / 20)) plaintext connections in"
flood client "${MESH_POD_IP[plain]}:9000" --src "${MESH_POD_IP[client]}" --conns $((N / 20)) --par 64 --max 65536 --seed 15 --timeout 240
flood_ok "$((N / 20)) passthrough connections"
for x in A B; do
	mesh_wait 10 "empty maps" maps_empty "$x"
	ok $? "no map entry is left on node $x"
done
sum=0
for p in web web2 plain; do
	server_tally "$p"
	for k in corrupt wrong_dst wrong_src aborts_as_eof eof other; do
		is "$(printf '%s' "$OUT" | json $k)" 0 "server $p: no $k"
	done
	sum=$((sum + $(printf '%s' "$OUT" | json aborts_seen)))
done
[ "$sum" -gt $((N / 12)) ]
ok $? "aborts of clients reached the servers as aborts ($sum)"
tap_done
