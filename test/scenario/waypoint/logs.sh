#!/usr/bin/env bash
# limit: 240
# Every command operator, every access log filter and virtual clusters, through weft-waypoint and a real Envoy.
. test/lib/mesh.sh
. test/lib/envoy.sh
envoy_need
export ENVOY
exec /usr/bin/python3 test/peers/waypoint_logs.py
