#!/usr/bin/env bash
# limit: 150
# Full load by wrk, h2load and careful HTTP/2 clients while listeners, routes, clusters, endpoints and certificates change every 100 ms
# and the control plane is killed now and then: no failed request, no growth. SOAK=SECONDS for longer than 60 (run by hand: no limit).
. test/lib/mesh.sh
mesh_need curl nginx wrk h2load
exec /usr/bin/python3 test/peers/waypoint_reload.py
