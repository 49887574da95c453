#!/usr/bin/env bash
# limit: 480
# grpc-go with go-control-plane's messages as client of our ADS server: subscriptions, changes, NACKs, versions, errors.
set -u
. test/lib/go.sh
go_need || { echo "1..0 # SKIP $GO_WHY"; exit 0; }
W=$(mktemp -d)
trap 'chmod -R u+w "$W"; rm -rf "$W"' EXIT
export HOME=${HOME:-$W} GOFLAGS=-mod=readonly
serve=$(realpath "$MESH_BIN")/test/lib/ads_serve
cd test/peers/ads_go || exit 1
timeout 120 go mod download >"$W/log" 2>&1 || { echo "1..0 # SKIP Go modules cannot be fetched: $(tail -1 "$W/log")"; exit 0; }
if ! timeout --foreground 240 go build -o "$W/ads_go" . >"$W/log" 2>&1; then
	echo "Bail out! the client does not build: $(tail -1 "$W/log")"
	exit 1
fi
timeout 100 "$W/ads_go" "$serve" "$W/xds.sock"
