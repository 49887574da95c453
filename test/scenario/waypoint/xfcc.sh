#!/usr/bin/env bash
# limit: 180
# x-forwarded-client-cert in every mode and what logs tell of certificates, through weft-waypoint and a real Envoy.
. test/lib/mesh.sh
. test/lib/envoy.sh
envoy_need
export ENVOY
exec /usr/bin/python3 test/peers/waypoint_xfcc.py
