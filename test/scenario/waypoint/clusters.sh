#!/usr/bin/env bash
# limit: 150
# Clusters of a real weft-waypoint: discovery (DNS, EDS from a file, original destinations), who gets how much under every policy,
# outlier detection, health checks, circuit breakers, connections, TLS and PROXY protocol towards hosts; at last with 4 workers.
. test/lib/mesh.sh
mesh_need curl openssl
exec /usr/bin/python3 test/peers/waypoint_clusters.py
