#!/usr/bin/env bash
# limit: 120
# weft-waypoint as it is run: admin against Envoy's own answers, TCP admin and its token, the seal, the end, validation.
. test/lib/mesh.sh
. test/lib/envoy.sh
mesh_need curl promtool openssl
envoy_need
export ENVOY MESH_BIN
exec /usr/bin/python3 test/peers/waypoint_admin.py
