# shellcheck shell=bash disable=SC2034
# The usual mesh of scenarios: namespace shop on two nodes; client and guest on A, web (flood server) and web2 on B, old is not enrolled.
# shellcheck source=test/lib/mesh.sh
. test/lib/mesh.sh
FLOOD=$MESH_BIN/test/lib/flood
VIP=10.96.0.10 VIP6=fd96::10

shop_up() {
	mesh_up
	mesh_namespace shop
	mesh_namespace legacy none
	mesh_pod A shop/client client 10
	mesh_pod A shop/guest guest 11
	mesh_pod A legacy/old old 12
	mesh_pod B shop/web web 20
	mesh_pod B shop/web2 web 21
	mesh_pod B legacy/plain plain 22
	mesh_service shop/web $VIP 80 9000 web
	mesh_service shop/web6 $VIP6 80 9000 web
	local p
	for p in web web2 plain client; do
		mesh_spawn "flood-$p" "$p" "$MESH_W/log/flood-$p.log" "$FLOOD" server --listen "0.0.0.0:9000" --listen "[${MESH_POD_IP6[$p]}]:9000" \
			--listen "0.0.0.0:9001"
		mesh_wait 5 "flood server $p" grep -q listening "$MESH_W/log/flood-$p.log"
	done
	mesh_start
}

flood() { # FROM TO-ADDR:PORT ARGS...: one JSON line in OUT, exit code in RC
	local from=$1 to=$2
	shift 2
	OUT=$(mesh_in "$from" "$FLOOD" client --to "$to" "$@")
	RC=$?
}

flood_ok() { # TEXT: the last flood had every connection whole
	ok "$RC" "$1"
	[ "$RC" = 0 ] || printf '# %s\n' "$OUT"
}

can() { # FROM ADDR:PORT: one connection goes through, whole
	mesh_in "$1" "$FLOOD" client --to "$2" --expect "${3:-$2}" --conns 1 --modes plain --max 100 --timeout 12 >/dev/null
}

maps_empty() { # NODE: no captured connect is left in the maps
	local t
	t=$(curl -s --max-time 2 --unix-socket "$MESH_W/$1/admin.sock" http://agent/counters | tr -d ' \n')
	[ "$(printf '%s' "$t" | json tuples)" = 0 ] && [ "$(printf '%s' "$t" | json selfc_entries)" = 0 ]
}

server_tally() { # POD: ends its flood server; its JSON line in OUT
	mesh_stop "flood-$1"
	OUT=$(tail -n 1 "$MESH_W/log/flood-$1.log")
}

mtls() { # STRICT|PERMISSIVE: for namespace shop
	mesh_config strict.yaml <<-EOF
		apiVersion: security.istio.io/v1
		kind: PeerAuthentication
		metadata: {name: default, namespace: shop}
		spec: {mtls: {mode: $1}}
	EOF
}
