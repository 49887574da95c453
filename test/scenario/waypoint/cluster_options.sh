#!/usr/bin/env bash
# limit: 150
# Options of clusters, endpoints, pools and outlier detection, one by one, through weft-waypoint and a real Envoy: answers, what servers see,
# statistics, and the log of ejections.
. test/lib/mesh.sh
. test/lib/envoy.sh
mesh_need openssl
envoy_need
export ENVOY
exec /usr/bin/python3 test/peers/waypoint_cluster_options.py
