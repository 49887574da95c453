#!/usr/bin/env bash
# limit: 120
# The same bootstrap through weft-waypoint and a real Envoy, the same requests to both: status, headers, body, trailers at the client,
# the request at the upstream, and the access log's line. Differences that stay are in docs/waypoint-differences.md.
. test/lib/mesh.sh
. test/lib/envoy.sh
envoy_need
export ENVOY
exec /usr/bin/python3 test/peers/waypoint_differ.py
