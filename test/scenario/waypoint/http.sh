#!/usr/bin/env bash
# limit: 120
# weft-waypoint between real clients (curl, h2load, raw sockets, HTTP/2) and servers (nginx, one that does as it is told).
. test/lib/mesh.sh
mesh_need curl nginx h2load
exec /usr/bin/python3 test/peers/waypoint_http.py
