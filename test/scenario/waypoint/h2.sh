#!/usr/bin/env bash
# limit: 480
# HTTP/2 as others test it: h2spec, with no failure that Envoy does not have, and grpc-go's interop client and server, h2 to h2.
set -u
. test/lib/go.sh
go_need || { echo "1..0 # SKIP $GO_WHY"; exit 0; }
W=$(mktemp -d)
trap 'chmod -R u+w "$W"; rm -rf "$W"' EXIT
export HOME=${HOME:-$W} GOFLAGS=-mod=readonly
(cd test/peers/http2_go && timeout 120 go mod download) >"$W/log" 2>&1 || { echo "1..0 # SKIP Go modules cannot be fetched: $(tail -1 "$W/log")"; exit 0; }
for x in github.com/summerwind/h2spec/cmd/h2spec google.golang.org/grpc/interop/client google.golang.org/grpc/interop/server; do
	(cd test/peers/http2_go && timeout --foreground 240 go build -o "$W/${x##*/}" "$x") >"$W/log" 2>&1 || { echo "Bail out! $x does not build: $(tail -1 "$W/log")"; exit 1; }
done
/usr/bin/python3 test/peers/waypoint_h2.py "$W/h2spec" "$W/client" "$W/server"
