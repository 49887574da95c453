#!/usr/bin/env bash
# limit: 200
# Health checks and DNS of weft-waypoint beside Envoy: when and how hosts are asked, events of checks, what name servers are asked.
. test/lib/mesh.sh
. test/lib/envoy.sh
mesh_need openssl
envoy_need
export ENVOY MESH_BIN
exec /usr/bin/python3 test/peers/waypoint_checks.py
