#!/usr/bin/env bash
# limit: 120
# Options of the HTTP connection manager and of its codecs, one by one, through weft-waypoint and a real Envoy: bytes, frames, what servers see, logs.
. test/lib/mesh.sh
. test/lib/envoy.sh
envoy_need
export ENVOY
exec /usr/bin/python3 test/peers/waypoint_hcm.py
