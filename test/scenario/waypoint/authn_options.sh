#!/usr/bin/env bash
# limit: 180
# Options of ext_authz and jwt_authn, one by one, through weft-waypoint and a real Envoy with the same services: what clients, servers,
# the authorization service and the counters see must be the same.
set -u
cd "$(dirname "$0")/../../.." || exit 1
. test/lib/mesh.sh
. test/lib/envoy.sh
. test/lib/go.sh
mesh_need python3 openssl
envoy_need
export ENVOY
AUTHZ_GO=${AUTHZ_GO:-}
GO_WORK=$(mktemp -d)
trap 'chmod -R u+w "$GO_WORK"; rm -rf "$GO_WORK"' EXIT
if [ -z "$AUTHZ_GO" ] && go_need; then
	export HOME=${HOME:-$GO_WORK}
	if (cd test/peers/authz_go && GOFLAGS=-mod=readonly timeout --foreground 240 go build -o "$GO_WORK/authz_go" .) >"$GO_WORK/log" 2>&1; then
		AUTHZ_GO=$GO_WORK/authz_go
	else
		GO_WHY="the service does not build: $(tail -1 "$GO_WORK/log")"
	fi
fi
export AUTHZ_GO GO_WHY
/usr/bin/python3 test/peers/waypoint_authn_options.py
