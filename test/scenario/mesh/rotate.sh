#!/usr/bin/env bash
# Certificates of ten seconds, renewed at half life: connections that live through many rotations are not dropped.
. test/lib/shop.sh
mesh_up
mesh_config mesh.yaml <<-EOF
	apiVersion: weft.io/v1alpha1
	kind: MeshConfig
	metadata: {name: default}
	spec: {certTtl: 10s}
EOF
mesh_namespace shop
mesh_pod A shop/client client 10
mesh_pod B shop/web web 20
mesh_spawn flood-web web "$MESH_W/log/flood-web.log" "$FLOOD" server --listen 0.0.0.0:9000
mesh_start
mesh_in client bash -c "exec 3<>/dev/tcp/${MESH_POD_IP[web]}/9000; timeout 24 cat <&3 >/dev/null; echo \$?" >"$MESH_W/live" 2>&1 &
live=$!
end=$((SECONDS + 22)) n=0 bad=0
while [ $SECONDS -lt $end ]; do
	n=$((n + 1))
	can client "${MESH_POD_IP[web]}:9000" || bad=$((bad + 1))
	sleep 0.2
done
is "$bad" 0 "$n connections in 22 s of 10 s certificates, all whole"
wait $live
is "$(cat "$MESH_W/live")" 124 "a connection lived through all rotations (ended by its own timeout)"
tap_done
