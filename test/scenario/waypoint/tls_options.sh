#!/usr/bin/env bash
# limit: 240
# TLS options of listeners and clusters, OCSP staples, secrets read again from moved files, options of the xDS client: weft-waypoint beside a real Envoy.
. test/lib/mesh.sh
. test/lib/envoy.sh
mesh_need openssl
envoy_need
export ENVOY
exec /usr/bin/python3 test/peers/waypoint_tls_options.py
