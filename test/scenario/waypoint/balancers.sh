#!/usr/bin/env bash
# limit: 200
# Balancers of weft-waypoint beside Envoy: the same keys reach the same hosts, shares by least request, zones, slow start and new hosts.
. test/lib/mesh.sh
. test/lib/envoy.sh
envoy_need
export ENVOY MESH_BIN
exec /usr/bin/python3 test/peers/waypoint_balancers.py
