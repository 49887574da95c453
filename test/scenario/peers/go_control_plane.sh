#!/usr/bin/env bash
# limit: 480
# go-control-plane's own server and cache against our client: ADS and a stream a type, state of the world and delta; refusals,
# a lost server, 10,000 clusters.
set -u
. test/lib/go.sh
go_need || { echo "1..0 # SKIP $GO_WHY"; exit 0; }
W=$(mktemp -d)
trap 'chmod -R u+w "$W"; rm -rf "$W"' EXIT
export HOME=${HOME:-$W} GOFLAGS=-mod=readonly
watch=$(realpath "$MESH_BIN")/test/lib/xds_watch
cd test/peers/control_plane_go || exit 1
timeout 120 go mod download >"$W/log" 2>&1 || { echo "1..0 # SKIP Go modules cannot be fetched: $(tail -1 "$W/log")"; exit 0; }
if ! timeout --foreground 240 go build -o "$W/control_plane_go" . >"$W/log" 2>&1; then
	echo "Bail out! the server does not build: $(tail -1 "$W/log")"
	exit 1
fi
timeout 100 "$W/control_plane_go" "$watch"
