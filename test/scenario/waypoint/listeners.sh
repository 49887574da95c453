#!/usr/bin/env bash
# limit: 150
# Listeners of weft-waypoint: chain matches and connection logs beside Envoy's, secrets and files that are wrong, limits,
# replacement under load.
. test/lib/mesh.sh
. test/lib/envoy.sh
mesh_need curl openssl
envoy_need
export ENVOY MESH_BIN
exec /usr/bin/python3 test/peers/waypoint_listeners.py
