#!/usr/bin/env bash
# limit: 200
# Options of listeners, listener filters and network filters of weft-waypoint beside a real Envoy's.
. test/lib/mesh.sh
. test/lib/envoy.sh
mesh_need openssl
envoy_need
export ENVOY MESH_BIN
exec /usr/bin/python3 test/peers/waypoint_listener_options.py
