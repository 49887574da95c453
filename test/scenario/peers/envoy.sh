#!/usr/bin/env bash
# limit: 600
# Envoy as HBONE peer, both directions: 1,100 connections and more than 1 GiB each way round, every byte checked.
. test/lib/shop.sh
. test/lib/envoy.sh
mesh_need openssl python3
mesh_up
envoy_need
mesh_namespace shop
mesh_namespace legacy none
mesh_pod A shop/client client 10
mesh_pod B shop/web web 20
mesh_pod C shop/foreign foreign 40
mesh_pod B legacy/caller caller 41
for p in web foreign; do
	mesh_spawn "flood-$p" "$p" "$MESH_W/log/flood-$p.log" "$FLOOD" server --listen 0.0.0.0:9000
done
mesh_start
td=spiffe://cluster.local/ns/shop/sa
envoy_cert $td/foreign "$MESH_W/cert-foreign"
envoy_cert $td/caller "$MESH_W/cert-caller"
envoy_config "$(envoy_hbone_server "$MESH_W/cert-foreign" "\"exact\":\"$td/client\"" "${MESH_POD_IP[foreign]}")" "$(envoy_local_cluster)" >"$MESH_W/foreign.json"
envoy_run envoy-in foreign "$MESH_W/foreign.json"
envoy_config "$(envoy_hbone_client 127.0.0.1 9000 "${MESH_POD_IP[web]}:9000" weft)" \
	"$(envoy_hbone_cluster weft "${MESH_POD_IP[web]}" "$MESH_W/cert-caller" "\"exact\":\"$td/web\"")" >"$MESH_W/caller.json"
envoy_run envoy-out caller "$MESH_W/caller.json"

flood client "${MESH_POD_IP[foreign]}:9000" --conns 1100 --par 32 --max 2000000 --big 1 --modes plain,half --timeout 240
flood_ok "weft-proxy as client, Envoy as server: 1,100 connections"
b=$(printf '%s' "$OUT" | json bytes)
[ "${b:-0}" -ge $((1 << 30)) ]
ok $? "... $b bytes checked"
flood caller "127.0.0.1:9000" --expect "${MESH_POD_IP[web]}:9000" --conns 1100 --par 32 --max 2000000 --big 1 --modes plain,half --timeout 240
flood_ok "Envoy as client, weft-proxy as server: 1,100 connections"
b=$(printf '%s' "$OUT" | json bytes)
[ "${b:-0}" -ge $((1 << 30)) ]
ok $? "... $b bytes checked"
mesh_wait 5 "the line" grep -q "$td/caller\".*direction=\"inbound\"" "$MESH_W/log/accessB.log"
ok $? "weft's access log has Envoy's identity"
flood client "${MESH_POD_IP[foreign]}:9000" --conns 300 --par 16 --max 100000 --modes cabort,sabort --timeout 60
flood_ok "aborts in both directions towards Envoy"
# an identity that is not the expected one
envoy_cert $td/impostor "$MESH_W/cert-impostor"
mesh_stop envoy-in
envoy_config "$(envoy_hbone_server "$MESH_W/cert-impostor" "\"exact\":\"$td/client\"" "${MESH_POD_IP[foreign]}")" "$(envoy_local_cluster)" >"$MESH_W/foreign.json"
envoy_run envoy-in foreign "$MESH_W/foreign.json"
! can client "${MESH_POD_IP[foreign]}:9000"
ok $? "an Envoy with another identity than the workload's is refused"
mesh_wait 5 "the line" grep -q identity_mismatch "$MESH_W/log/accessA.log"
ok $? "... with its reason"
tap_done
