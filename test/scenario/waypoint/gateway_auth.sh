#!/usr/bin/env bash
# limit: 420
# RequestAuthentication and AuthorizationPolicy of every action, fed by the agent: at a gateway of the edge, and at a waypoint between
# pods of the mesh, whose identities are known by mTLS. The steps are in test/peers/waypoint_gateway_auth.py; gRPC's authorizer is grpc-go's.
set -u
cd "$(dirname "$0")/../../.." || exit 1
. test/lib/mesh.sh
. test/lib/go.sh
mesh_need python3 openssl
GRPC=$(mktemp -d)
if go_need; then
	export HOME=${HOME:-$GRPC} GOFLAGS=-mod=readonly
	(cd test/peers/authz_go && timeout --foreground 240 go build -o "$GRPC/authz_go" .) >"$GRPC/log" 2>&1 ||
		GO_WHY="the authorizer does not build: $(tail -1 "$GRPC/log")"
fi
mesh_up
trap 'mesh_down; rm -rf "$GRPC"' EXIT
mesh_namespace shop
mesh_namespace infra none
mesh_pod A shop/client client 10
mesh_pod A shop/guest guest 11
mesh_pod B shop/web web 20
# the waypoint: a namespace of its own, no Pod of ours, known by its Gateway
mesh_pod C shop/wp wp 30
rm "$MESH_W/config/pod-shop-wp.yaml"
mesh_spawn http-web web "$MESH_W/log/http-web.log" python3 test/lib/http_echo.py 8080 web
mesh_start
export MESH_W MESH_PREFIX GRPC GO_WHY WP_IP="${MESH_POD_IP[wp]}" WEB_IP="${MESH_POD_IP[web]}"
mesh_in nB /usr/bin/python3 test/peers/waypoint_gateway_auth.py "$@"
