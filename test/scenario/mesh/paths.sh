#!/usr/bin/env bash
# Every way a connection can go, v4 and v6: each byte, destination and source checked at both ends.
. test/lib/shop.sh
shop_up
c4=${MESH_POD_IP[client]} c6=${MESH_POD_IP6[client]}
flood client "${MESH_POD_IP[web]}:9000" --src "$c4" --conns 120 --par 8
flood_ok "pod address, v4"
flood client "[${MESH_POD_IP6[web]}]:9000" --src "$c6" --conns 120 --par 8
flood_ok "pod address, v6"
flood client "$VIP:80" --expect - --src "$c4" --conns 120 --par 8
flood_ok "service address, v4: two endpoints"
flood client "[$VIP6]:80" --expect - --src "$c6" --conns 120 --par 8
flood_ok "service address, v6"
flood client "${MESH_POD_IP[plain]}:9000" --src "$c4" --conns 60 --par 8
flood_ok "to a pod that is not enrolled, v4"
flood client "[${MESH_POD_IP6[plain]}]:9000" --src "$c6" --conns 60 --par 8
flood_ok "to a pod that is not enrolled, v6"
flood old "${MESH_POD_IP[web]}:9000" --src "${MESH_POD_IP[old]}" --conns 60 --par 8
flood_ok "from a pod that is not enrolled (PERMISSIVE), v4"
flood old "[${MESH_POD_IP6[web]}]:9000" --src "${MESH_POD_IP6[old]}" --conns 60 --par 8
flood_ok "from a pod that is not enrolled, v6"
flood guest "${MESH_POD_IP[client]}:9000" --src "${MESH_POD_IP[guest]}" --conns 60 --par 8
flood_ok "both pods on one node"
flood client "$c4:9000" --conns 30 --par 4 --src "$c4"
flood_ok "to its own address"
flood client "127.0.0.1:9000" --conns 30 --par 4
flood_ok "to its own loopback"
for cookies in 2 1; do
	for n in client web web2 old plain; do mesh_in "$n" sysctl -qw net.ipv4.tcp_syncookies=$cookies; done
	flood client "$VIP:80" --expect - --src "$c4" --conns 120 --par 8
	flood_ok "tcp_syncookies=$cookies, through the mesh"
	flood old "${MESH_POD_IP[web]}:9000" --src "${MESH_POD_IP[old]}" --conns 60 --par 8
	flood_ok "tcp_syncookies=$cookies, plaintext in"
done
mesh_in client curl -s --max-time 12 "http://${MESH_POD_IP[web]}:9999/" >/dev/null
rc=$?
like "$rc" '^(7|52|56)$' "a closed port at the server ends the client's connection at once (curl: $rc)"
mesh_in client curl -s --max-time 12 "http://$VIP:81/" >/dev/null
rc=$?
like "$rc" '^(7|52|56)$' "a port that the service does not have (curl: $rc)"
mesh_wait 5 "the line" grep -q 'reason="no_port"' "$MESH_W/log/accessA.log"
ok $? "... with its reason in the access log"
logged() { [ "$(grep -c 'sa/client".*direction="inbound"' "$MESH_W/log/accessB.log")" -ge 480 ]; }
mesh_wait 5 "the lines" logged
ok $? "node B logged the client's identity for each of 480 connections"
m=$(mesh_in nA curl -s http://127.0.0.1:15020/metrics)
like "$m" 'istio_tcp_connections_opened_total\{[^}]*reporter="source"[^}]*connection_security_policy="mutual_tls"' "metrics tell mutual_tls"
mesh_wait 5 "empty maps" maps_empty A
ok $? "no map entry is left on node A"
mesh_wait 5 "empty maps" maps_empty B
ok $? "no map entry is left on node B"
tap_done
