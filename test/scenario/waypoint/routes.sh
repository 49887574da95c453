#!/usr/bin/env bash
# limit: 120
# Kinds of matches, weights, hedging, limits of bodies, statistics of routes, and RBAC's shadows, through weft-waypoint and a real Envoy.
. test/lib/mesh.sh
. test/lib/envoy.sh
envoy_need
export ENVOY
exec /usr/bin/python3 test/peers/waypoint_routes.py
