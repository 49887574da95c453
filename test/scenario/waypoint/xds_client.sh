#!/usr/bin/env bash
# limit: 120
# Options of the xDS client (node, rate of requests, size of messages, watched directories of paths): weft-waypoint beside a real Envoy.
. test/lib/mesh.sh
. test/lib/envoy.sh
envoy_need
export ENVOY
exec /usr/bin/python3 test/peers/waypoint_xds_client.py
