#!/usr/bin/env bash
# limit: 60
# Resources by ADS and by watched files: clusters that routes name, deprecated fields, and files that are validated; beside a real Envoy.
. test/lib/mesh.sh
. test/lib/envoy.sh
envoy_need
export ENVOY
exec /usr/bin/python3 test/peers/waypoint_resources.py
