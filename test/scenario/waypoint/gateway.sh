#!/usr/bin/env bash
# limit: 420
# A gateway of class weft-gateway, fed by the agent out of the folder: listeners, routes of every kind, TLS to backends, conditions.
# The steps are in test/peers/waypoint_gateway.py; gRPC's client and server are grpc-go's.
set -u
cd "$(dirname "$0")/../../.." || exit 1
. test/lib/mesh.sh
. test/lib/go.sh
mesh_need python3 openssl redis-server
GRPC=$(mktemp -d)
if go_need; then
	export HOME=${HOME:-$GRPC} GOFLAGS=-mod=readonly
	for x in client server; do
		(cd test/peers/http2_go && timeout --foreground 240 go build -o "$GRPC/$x" "google.golang.org/grpc/interop/$x") >"$GRPC/log" 2>&1 ||
			GO_WHY="grpc-go does not build: $(tail -1 "$GRPC/log")"
	done
fi
mesh_up
trap 'mesh_down; rm -rf "$GRPC"' EXIT
mesh_namespace shop
mesh_namespace infra none
mesh_pod A shop/web web 20
mesh_spawn http-web web "$MESH_W/log/http-web.log" python3 test/lib/http_echo.py 8080 web
mesh_start
export MESH_W GRPC GO_WHY
mesh_in nB /usr/bin/python3 test/peers/waypoint_gateway.py "$@"
