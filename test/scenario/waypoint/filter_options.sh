#!/usr/bin/env bash
# limit: 120
# Options of fault, grpc_stats, header_mutation and local_ratelimit through weft-waypoint and a real Envoy: answers, what servers see and
# counters must be the same.
. test/lib/mesh.sh
. test/lib/envoy.sh
envoy_need
export ENVOY
exec /usr/bin/python3 test/peers/waypoint_filter_options.py
