#!/usr/bin/env bash
# limit: 120
# Options of routes, retries and the router, one by one, through weft-waypoint and a real Envoy: answers, what servers see, and logs.
. test/lib/mesh.sh
. test/lib/envoy.sh
envoy_need
export ENVOY
exec /usr/bin/python3 test/peers/waypoint_options.py
