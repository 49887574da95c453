#!/usr/bin/env bash
# limit: 120
# TLS, filter chains, PROXY protocol and the sidecar role of weft-waypoint's listeners, asked by OpenSSL, curl and raw sockets.
. test/lib/mesh.sh
mesh_need curl openssl ip
exec /usr/bin/python3 test/peers/waypoint_tls.py
